"""Probing: is it there, and are our credentials good?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.destinations.kit import Kind, collector_health, every_kind, opened
from tests.fakes.siem import Siem
from tests.fakes.splunk import TOKEN, Splunk


@every_kind
async def test_good(kind: Kind) -> None:
    """A healthy destination is reported so, and no event is sent for it."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.then(kind.healthy or kind.take)
        report = await destination.probe()

    assert report.ok
    assert all(request.body in kind.probes for request in siem.requests)


@every_kind
@pytest.mark.parametrize("status", [401, 403, 404, 503])
async def test_refused(kind: Kind, status: int) -> None:
    """A refusal is reported with its status."""
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.then(status)
        report = await destination.probe()

    assert not report.ok
    assert str(status) in report.detail


@every_kind
async def test_down(kind: Kind) -> None:
    """Where nobody listens, that is what the report says."""
    async with Siem() as siem:
        config = kind.config(siem)
    async with opened(config) as destination:
        report = await destination.probe()

    assert not report.ok
    assert report.detail == "cannot connect: Connection refused"


async def test_splunk_wrong_token() -> None:
    """A healthy collector does not hide that the token is wrong."""
    kind = Kind("splunk", "splunk_hec", {"token": "another"}, path="")
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.then(collector_health)
        report = await destination.probe()

    assert not report.ok
    assert report.detail == "answered 403 Forbidden: it refuses our credentials"


async def test_splunk_is_something_else() -> None:
    """A login page behind a 200 is no collector."""
    kind = Kind("splunk", "splunk_hec", {"token": "t"}, path="")
    async with Siem() as siem, opened(kind.config(siem)) as destination:
        siem.then(200, body="<html>Log in</html>")
        report = await destination.probe()

    assert not report.ok


@pytest.mark.parametrize("endpoint", ["event", "raw"])
async def test_splunk_index(endpoint: str) -> None:
    """No index is proven, and the report does not sound as if it were."""
    kind = Kind("splunk", "splunk_hec", {"token": TOKEN, "endpoint": endpoint}, path="")
    wrong = {**kind.settings, "index": "wrong"}
    async with Splunk() as splunk:
        async with opened(replace(kind, settings=wrong).config(splunk)) as destination:
            configured = await destination.probe()
        async with opened(kind.config(splunk)) as destination:
            default = await destination.probe()

    proven = "reachable, and the token is accepted"
    unproven = "whether it may write to the index wrong, only an event would tell"
    assert (configured.ok, configured.detail) == (True, f"{proven}; {unproven}")
    assert (default.ok, default.detail) == (True, proven)
    assert all(request.body == b"" for request in splunk.requests)


async def test_head_fails_and_get_does_not() -> None:
    """Some endpoints answer 500 to a HEAD that nobody thought of; GET shows that they are well."""
    async with Siem() as siem, opened(Kind("http", "http").config(siem)) as destination:
        siem.answer(500).then(405)
        report = await destination.probe()

    assert report.ok
    assert report.detail == "reachable; HEAD was answered with 500, GET with 405"


async def test_everything_fails() -> None:
    """Who answers 500 to whatever is asked is not reported as well, and it is said what was asked."""
    async with Siem() as siem, opened(Kind("http", "http").config(siem)) as destination:
        siem.then(500)
        report = await destination.probe()

    assert not report.ok
    assert report.detail == (
        "HEAD was answered with 500, GET with 500: it is failing, or knows nothing but POST"
    )
    assert all(request.body == b"" for request in siem.requests)


async def test_head_is_not_implemented() -> None:
    """Many endpoints only know POST: a 405 to HEAD proves that they are there."""
    async with Siem() as siem, opened(Kind("http", "http").config(siem)) as destination:
        siem.then(405)
        report = await destination.probe()

    assert report.ok
    assert report.detail == "reachable; HEAD was answered with 405"
