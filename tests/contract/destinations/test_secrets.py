"""No credential in an outcome, a probe's report, a repr or a log line, even if the other side echoes it."""

from __future__ import annotations

import logging

import pytest

from relay.destinations.base import Delivered
from tests.contract.destinations.kit import Kind, every_kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Answer, Behaviour, Received, Siem

CHUNK = chunk_of(sample("cef")[:1])


def echo(status: int) -> Behaviour:
    """Answer with everything a careless error page repeats: the address and all headers."""

    def answer(request: Received) -> Answer:
        headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
        return Answer(status, f"{request.method} {request.path}\n{headers}".encode())

    return answer


@every_kind
@pytest.mark.parametrize("status", [200, 302, 400, 401, 404, 413, 429, 500])
async def test_echo(kind: Kind, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that repeats our request is kept without our credentials."""
    caplog.set_level(logging.DEBUG)
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.then(echo(status))
        outcome = await destination.send(CHUNK)
        report = await destination.probe()

    assert outcome.response.excerpt
    for secret in filter(None, kind.all_secrets()):
        assert secret not in f"{outcome!r} {report!r} {destination!r} {caplog.text}"


@every_kind
async def test_no_answer(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """Failures without an answer are told in our own words, without address or credentials."""
    caplog.set_level(logging.DEBUG)
    said = []
    async with Siem() as siem:
        siem.reset().hang().reset(cut_after=3)
        config = kind.config(siem, timeout=1)
        async with opened(config) as destination:
            said += [await destination.send(CHUNK) for _ in range(3)]
    async with opened(config) as destination:
        said.append(await destination.send(CHUNK))
        said.append(await destination.send(CHUNK))

    assert not any(isinstance(outcome, Delivered) for outcome in said)
    for secret in filter(None, kind.all_secrets()):
        assert secret not in f"{said!r} {config!r} {config} {caplog.text}"
