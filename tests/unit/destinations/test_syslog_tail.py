"""What is sent again after a lost connection."""

from __future__ import annotations

from relay.destinations.syslog_tail import Tail


def held(tail: Tail) -> bytes:
    return b"".join(tail.pieces())


def test_the_last_seconds() -> None:
    """What was sent longer ago than the window is forgotten; the rest stays in order."""
    tail = Tail(30, 1000)
    for at in (0, 10, 20, 41):
        tail.add(at, b"%d " % at)

    assert held(tail) == b"20 41 "
    tail.expire(60)
    assert held(tail) == b"41 "
    tail.expire(60, unnoticed=1000)
    assert len(tail) == 3


def test_unnoticed() -> None:
    """Where an end was noticed late, the window reaches further back."""
    tail = Tail(30, 1000)
    tail.add(0, b"a")
    tail.expire(75, unnoticed=45)

    assert held(tail) == b"a"
    tail.expire(76, unnoticed=45)
    assert not tail


def test_bounded_memory() -> None:
    """Over the limit the oldest go first; the newest stays, however large."""
    tail = Tail(30, 10)
    tail.add(0, b"aaaa")
    tail.add(1, b"bbbb")
    tail.add(2, b"cccc")
    assert held(tail) == b"bbbbcccc"

    tail.add(3, b"d" * 11)
    assert held(tail) == b"d" * 11


def test_pieces() -> None:
    """Many small chunks are sent again together, large ones each by themselves."""
    tail = Tail(30, 10**7)
    for _ in range(1000):
        tail.add(0, b"x" * 1000)
    tail.add(0, b"y" * 500_000)

    assert [len(piece) for piece in tail.pieces()] == [263_000, 263_000, 263_000, 711_000]


def test_not_for_ever() -> None:
    """A server that closes every connection after a pause is sent the same bytes only a few times."""
    tail = Tail(30, 1000)
    tail.add(0, b"a")
    now = 0.0
    times = 0
    while tail:
        now += 10
        tail.expire(now)
        tail.was_sent_again(now)
        times += bool(tail)

    assert times == 2


def test_quick_deaths() -> None:
    """One that dies at once, again and again, is sent them each time."""
    tail = Tail(30, 1000)
    tail.add(0, b"a")
    for n in range(1, 5):
        tail.expire(n)
        tail.was_sent_again(n)

    assert held(tail) == b"a"


def test_switched_off() -> None:
    """A window of nothing keeps nothing."""
    tail = Tail(0, 1000)
    tail.add(0, b"a")

    assert not tail


def test_clear() -> None:
    """Nothing stays."""
    tail = Tail(30, 1000)
    tail.add(0, b"a")
    tail.clear()

    assert (held(tail), len(tail)) == (b"", 0)
