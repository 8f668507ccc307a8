"""`konnect recover` against a Konnect on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import typer

from relay.cli.konnect_recover import pieces_of
from relay.clock import SystemClock
from tests.contract.recovery.commands import Commands
from tests.fakes.konnect import PORTAL, FakeKonnect, Fault, Maker, Place
from tests.fakes.siem import Siem

NOW = 1_795_000_000.0
DAY = 86_400.0


@pytest.fixture
async def konnect() -> AsyncIterator[FakeKonnect]:
    """By the machine's clock, as the command goes by that."""
    async with FakeKonnect(SystemClock()) as konnect:
        yield konnect


def test_a_span_is_replayed_day_by_day() -> None:
    """The last piece is what is left."""
    pieces, lost_until = pieces_of(NOW - 2.5 * DAY, NOW, NOW)

    assert pieces == [
        (NOW - 2.5 * DAY, NOW - 1.5 * DAY),
        (NOW - 1.5 * DAY, NOW - 0.5 * DAY),
        (NOW - 0.5 * DAY, NOW),
    ]
    assert lost_until is None


def test_what_konnect_has_deleted_is_told() -> None:
    """The rest is replayed; where nothing is left, nothing is asked."""
    pieces, lost_until = pieces_of(NOW - 9 * DAY, NOW - 6.5 * DAY, NOW)

    assert lost_until == NOW - 7 * DAY + 60
    assert pieces == [(lost_until, NOW - 6.5 * DAY)]
    with pytest.raises(typer.BadParameter, match="gone"):
        pieces_of(NOW - 9 * DAY, NOW - 8 * DAY, NOW)
    with pytest.raises(typer.BadParameter, match="before"):
        pieces_of(NOW, NOW, NOW)


async def test_a_failed_job_is_a_failure(konnect: FakeKonnect, command: Commands) -> None:
    """Exit status 1 and one sentence that says where to look."""
    konnect.replays.pace = 0.01  # its webhook is not set
    command.settings["job_interval"] = "20ms"
    code, out, err = await command("recover", "--from", "-1h")

    assert (code, out) == (1, "")
    assert "ended as failed" in err
    assert "doctor" in err


async def test_what_is_not_allowed_is_told(konnect: FakeKonnect, command: Commands) -> None:
    """With the one way that is left."""
    konnect.faults.add(Fault("PUT", "*", status=403, times=-1))
    code, _, err = await command("recover", "--from", "-1h")

    assert code == 1
    assert "recovery.konnect.token" in err


@pytest.mark.parametrize("portal", [None, PORTAL])
async def test_a_span_is_sent_again(
    konnect: FakeKonnect, command: Commands, maker: Maker, portal: str | None
) -> None:
    """The organisation's or a portal's; another job is waited for, a call that fails is repeated."""
    place = Place(portal=portal)
    now = SystemClock().now()
    async with Siem() as receiver:
        konnect.replays.pace = 0.01
        konnect.organisation.bind(receiver.url, "Bearer x", place=place)
        konnect.record([maker.authentication(at=now - n, portal=portal) for n in range(5)])
        konnect.faults.add(Fault("PUT", "*", status=409))
        konnect.faults.add(Fault("GET", "*/audit-log-replay-job", status=503))
        command.settings["job_interval"] = "20ms"
        options = ["--portal", portal] if portal else []
        document = await command.document("recover", "--from", "-1h", *options)

        assert len(document["jobs"]) == 1
        assert document["portal"] == portal
        assert document["lost_until"] is None
        async with asyncio.timeout(10):
            assert len(await receiver.received_lines(5)) == 5
