"""What is worth waking somebody for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.konnect.alerts import Alert, Bursts, alert, is_failed_login
from relay.konnect.record import Record
from relay.model import Event, Format

LOGIN = "AUTHENTICATION_OUTCOME_"
MINUTE = 60_000
START = 1_750_000_000_000  # milliseconds since the epoch


@pytest.mark.parametrize(
    ("expected", "record"),
    [
        (Alert.CRITICAL, Record(name="Ingress", severity=10, status=500)),
        (Alert.LOCKED, Record(name=f"{LOGIN}LOCKED", severity=6, success=False)),
        (Alert.LOCKED, Record(name=f"{LOGIN}DISABLED", severity=6, success=False)),
        (Alert.SUSPICIOUS, Record(name=f"{LOGIN}INVALID", severity=7, success=False)),
        (Alert.DENIED, Record(name="Authz.portals", severity=6, granted=False)),
        (Alert.DENIED, Record(name="Authz.portals", severity=1, granted=False)),
        (Alert.DENIED, Record(name="Ingress", severity=6, status=403)),
        (Alert.DENIED, Record(name="Ingress", severity=1, status=401)),
        (None, Record(name="Authz.portals", severity=1, granted=True)),
        (None, Record(name="Ingress", severity=1, status=200)),
        (None, Record(name=f"{LOGIN}SUCCESS", severity=0, success=True)),
        (None, Record(name=f"{LOGIN}INVALID_PASSWORD", severity=1, success=False)),
        (None, Record(name="Ingress", severity=10, kong_initiated=True)),
        (None, Record()),
    ],
)
def test_conditions(expected: Alert | None, record: Record) -> None:
    """Each of Kong's conditions, and what is close to one."""
    assert alert(record) is expected


@pytest.mark.parametrize(
    ("expected", "record"),
    [
        (True, Record(name=f"{LOGIN}INVALID_PASSWORD", success=False)),
        (True, Record(name=f"{LOGIN}NOT_FOUND")),
        (True, Record(name=f"{LOGIN}SUCCESS", success=False)),
        (False, Record(name=f"{LOGIN}SUCCESS", success=True)),
        (False, Record(name="Authz.portals", success=False)),
    ],
)
def test_failed_logins(expected: bool, record: Record) -> None:
    """A login that was no success, whichever field tells."""
    assert is_failed_login(record) is expected


def failed(principal: str = "p1", src: str = "192.0.2.1", *, at: int = 0) -> Record:
    return Record(
        name=f"{LOGIN}INVALID_PASSWORD", success=False, principal_id=principal, src=src, rt=START + at
    )


def completes(bursts: Bursts, name: str, record: Record, *, arrived: int | None = None) -> bool:
    """Whether it does, as an event that arrived when it happened, or at *arrived*."""
    assert record.rt is not None
    line = b'{"rt":%d}' % record.rt
    seconds = (record.rt if arrived is None else START + arrived) / 1000
    return bursts.completes(record, Event(name, line, Format.JSON, "us", seconds))


def told(bursts: Bursts, *events: tuple[str, int]) -> list[str]:
    """Ids of the events that complete a burst."""
    return [name for name, at in events if completes(bursts, name, failed(at=at))]


def test_every_fifth_failure_within_minutes_is_told() -> None:
    """Not each failure of a brute force, and not only its beginning."""
    events = [(f"e{n}", n * 1000) for n in range(1, 13)]

    assert told(Bursts(), *events) == ["e5", "e10"]


def test_slow_failures_are_no_burst() -> None:
    """Somebody who mistypes a password now and then wakes nobody."""
    assert told(Bursts(), *[(f"e{n}", n * 2 * MINUTE) for n in range(50)]) == []


def test_what_is_read_again_is_judged_as_before() -> None:
    """After a hold the log is read again from the watermark: every event is then what it was."""
    bursts = Bursts()
    events = [(f"e{n}", n * 1000) for n in range(1, 8)]

    first = told(bursts, *events)
    again = told(bursts, *events)
    completes(bursts, "later", failed(at=10 * MINUTE))
    much_later = told(bursts, *events)

    assert first == again == much_later == ["e5"]


def test_from_many_addresses_or_against_many_accounts() -> None:
    """One account tried from everywhere is a burst, and so is one address that tries every account."""
    spread, spray = Bursts(), Bursts()

    assert [n for n in range(5) if completes(spread, f"e{n}", failed("p", f"192.0.2.{n}"))] == [4]
    assert [n for n in range(5) if completes(spray, f"e{n}", failed(f"p{n}", "192.0.2.9"))] == [4]


@pytest.mark.parametrize("src", ["127.0.0.6", "::1", "", None])
def test_what_says_nothing_is_not_counted_by(src: str | None) -> None:
    """Behind Kong's own mesh everybody has the same address; no address is none in common."""
    bursts = Bursts()

    found = [completes(bursts, f"e{n}", replace(failed(f"p{n}"), src=src)) for n in range(20)]
    assert not any(found)


def test_a_replay_of_old_events_is_no_burst_of_today() -> None:
    """Events far older than what was seen last are passed over."""
    bursts = Bursts()
    completes(bursts, "new", failed(at=60 * MINUTE))

    assert told(bursts, *[(f"e{n}", n * 1000) for n in range(9)]) == []


def test_nobody_can_make_the_future_silent() -> None:
    """An event whose clock is years ahead does not make those after it look old."""
    bursts = Bursts()
    completes(bursts, "ahead", failed(at=10**11), arrived=0)

    assert told(bursts, *[(f"e{n}", n * 1000) for n in range(1, 6)]) == ["e4"]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many accounts are tried, and however often."""
    monkeypatch.setattr(Bursts, "WINDOWS", 4)
    monkeypatch.setattr(Bursts, "MOST", 6)
    monkeypatch.setattr(Bursts, "TOLD", 5)
    bursts = Bursts()
    for n in range(100):
        completes(bursts, f"e{n}", failed(f"p{n}", f"192.0.2.{n}"))
        completes(bursts, f"o{n}", failed("one", ""))

    assert len(bursts._windows) == 4
    assert all(len(window.seen) <= 6 for window in bursts._windows.values())
    assert len(bursts._told) == 5
