"""A hundred thousand events to every type of destination at once: each gets exactly what was accepted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.e2e.support import HEADERS, SOURCE, books, configuration
from tests.fakes.chunks import sample
from tests.fakes.process import RelayProcess, until
from tests.fakes.receiving import vendors

EVENTS = 100_000
REQUEST = 2_000  # events of one request
LIMIT = 240.0  # seconds within which all of it must have arrived
_GROWTH = 1.3  # of the resident memory, from the first half to the second
_SLACK = 24 << 20  # bytes


def _body(first: int) -> bytes:
    """A request of events like the samples, each one of its own."""
    kinds = sample("cef")
    lines = []
    for n in range(first, first + REQUEST):
        head, rt, rest = kinds[n % len(kinds)].partition(b"rt=")
        lines.append(head + rt + b"%d" % (1_750_280_466_889 + n) + rest[13:])
    return gzip.compress(b"\n".join([*lines, b""]), 1)


@pytest.mark.timeout(600)
async def test_everybody_gets_everything(tmp_path: Path) -> None:
    """Exactly as many events arrive as were accepted, in every format, and memory does not grow with them."""
    async with vendors(tmp_path) as receiving:
        config = configuration(tmp_path, receiving.destinations())
        config["logging"] = {"level": "info"}
        names = [each["name"] for each in config["destinations"]]
        async with RelayProcess(config, tmp_path) as relay:
            memory = []
            for half in (0, EVENTS // 2):
                for first in range(half, half + EVENTS // 2, REQUEST):
                    status, answer = await relay.post(_body(first), SOURCE, HEADERS)
                    assert (status, json.loads(answer)["accepted"]) == (200, REQUEST)
                await until(lambda: _settled(relay, names), LIMIT, "everything delivered")
                memory.append(relay.usage().rss)

            assert await receiving.counts() == dict.fromkeys(names, EVENTS)
            for name in names:
                account = await books(relay, name)
                account.check()
                assert (account.accepted, account.delivered) == (EVENTS, EVENTS)
            assert memory[1] <= memory[0] * _GROWTH + _SLACK, memory


async def _settled(relay: RelayProcess, names: list[str]) -> bool:
    """Whether no destination has anything left to do."""
    of = {each["name"]: each for each in (await relay.status())["destinations"]}
    held = [name for name in names if of[name]["state"] in ("held", "paused")]
    assert not held, [of[name] for name in held]
    return not any(of[name]["backlog"] for name in names)
