"""Cutting to size, splitting, and fates that add up to positions in the log."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from relay import gzipped
from relay.batch import StoredBatch
from relay.delivery.chunking import Cutter, Stretch, Work
from relay.model import Position, Reason, Response, Settlement

NO = Response("no", 400)


def stored(sequence: int, lines: Sequence[bytes]) -> StoredBatch:
    payload = gzipped.compress(b"".join(line + b"\n" for line in lines))
    return StoredBatch(
        sequence=sequence, source="eu", received_at=float(sequence), count=len(lines), payload=payload
    )


def cutter(*stretches: Stretch, max_bytes: int = 1 << 20, overhead: int = 0) -> Cutter:
    made = Cutter(max_bytes=max_bytes, event_overhead=overhead)
    for stretch in stretches:
        made.add(stretch)
    return made


def sizes(made: Cutter, max_events: int) -> list[int]:
    cut = []
    while made:
        cut.append(made.cut(max_events).events)
    return cut


@st.composite
def logs(draw: st.DrawFn, gaps: bool = True) -> list[Stretch]:
    """What a reader may hand out: batches in order, sometimes with a hole between, and a filter's choice."""
    sequence = draw(st.integers(1, 5))
    stretches: list[Stretch] = []
    for _ in range(draw(st.integers(1, 6))):
        lines = draw(
            st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), min_size=1, max_size=8)
        )
        batch = stored(sequence, lines)
        start = draw(st.integers(0, len(lines) - 1)) if not stretches else 0
        kept = draw(
            st.just(range(start, len(lines)))
            | st.sets(st.integers(start, len(lines) - 1)).map(lambda chosen: tuple(sorted(chosen)))
        )
        stretches.append(Stretch(batch, start, len(lines), kept))
        sequence += len(lines) + (draw(st.integers(0, 3)) if gaps else 0)
    return stretches


def numbers(stretches: Sequence[Stretch]) -> tuple[set[int], set[int]]:
    """The numbers of the events that are wanted, and of those that a filter left out."""
    wanted = {s.batch.sequence + i for s in stretches for i in s.kept}
    every = {s.batch.sequence + i for s in stretches for i in range(s.start, s.stop)}
    return wanted, every - wanted


def booked(settlements: Sequence[Settlement]) -> tuple[list[int], int, int, list[int]]:
    """Numbers covered by *settlements*, how many delivered and filtered, and which ones are dead."""
    covered = [
        n
        for s in settlements
        for n in range(s.start.sequence + s.start.offset, s.end.sequence + s.end.offset)
    ]
    dead = [letter.position.sequence + letter.position.offset for s in settlements for letter in s.dead]
    return covered, sum(s.delivered for s in settlements), sum(s.filtered for s in settlements), dead


@given(
    stretches=logs(), max_events=st.integers(1, 20), max_bytes=st.integers(1, 100), overhead=st.integers(0, 9)
)
def test_cuts_respect_the_limits_and_lose_nothing(
    stretches: list[Stretch], max_events: int, max_bytes: int, overhead: int
) -> None:
    """Whatever is read comes out again in order, in requests within both limits or of one event."""
    made = cutter(*stretches, max_bytes=max_bytes, overhead=overhead)
    lines: list[bytes] = []
    settlements: list[Settlement] = []
    while made:
        work = made.cut(max_events)
        sent = list(work.chunk.lines())
        assert work.nbytes == sum(len(line) + 1 for line in sent)
        assert work.events == len(sent) <= max_events
        assert work.events <= 1 or work.nbytes + overhead * work.events <= max_bytes
        lines += sent
        settlements += work.settlements()

    wanted, filtered = numbers(stretches)
    covered, delivered, left_out, _ = booked(settlements)
    assert lines == [s.batch.lines[i] for s in stretches for i in s.kept]
    assert covered == sorted(wanted | filtered)
    assert (delivered, left_out) == (len(wanted), len(filtered))
    assert made.events == 0


@given(stretches=logs(), data=st.data())
def test_fates_cover_every_number_once(stretches: list[Stretch], data: st.DataObject) -> None:
    """Parting, halving, settling and setting aside in any mixture accounts for each event exactly once."""
    work = Work.of(stretches)
    wanted, filtered = numbers(stretches)
    settlements: list[Settlement] = []
    lost: set[int] = set()
    parts = [work]
    while parts:
        part = parts.pop()
        what = data.draw(st.sampled_from(["settle", "dead", "part", "halves"]))
        if what == "halves" and part.events > 1:
            halves = part.halves()
            assert abs(halves[0].events - halves[1].events) <= 1
            parts += halves
        elif what == "part" and part.events:
            chosen = data.draw(st.sets(st.integers(0, part.events - 1)))
            ordered = [part.chunk.pick(sorted(chosen))] if chosen else []
            taken, rest = part.part(chosen)
            assert [line for c in ordered for line in c.lines()] == list(taken.chunk.lines())
            assert taken.events + rest.events == part.events
            some = dict.fromkeys(range(0, taken.events, 2), (Reason.REJECTED, NO))
            made = list(taken.settlements(some)) if taken.stretches else []
            assert sum(len(s.dead) for s in made) == len(some)
            lost.update(n for s in made for n in booked([s])[3])
            settlements += made
            if chosen and rest.stretches:
                parts.append(rest)
            elif rest.stretches:
                settlements += rest.settlements()
        elif what == "dead":
            made = list(part.all_dead(Reason.TOO_LARGE, NO))
            lost.update(booked(made)[3])
            settlements += made
        else:
            settlements += part.settlements()

    covered, delivered, left_out, dead = booked(settlements)
    assert sorted(covered) == sorted(wanted | filtered)
    assert sorted(dead) == sorted(lost)
    assert delivered == len(wanted) - len(dead)
    assert left_out == len(filtered)
    assert sum(s.delivered_bytes for s in settlements) >= delivered


@given(stretches=logs(), max_events=st.integers(1, 5), data=st.data())
def test_what_is_given_back_comes_again_in_its_old_place(
    stretches: list[Stretch], max_events: int, data: st.DataObject
) -> None:
    """Work that has to be sent again goes before everything behind it in the log."""
    made = cutter(*stretches)
    cut = [made.cut(max_events) for _ in range(data.draw(st.integers(1, 4))) if made]
    for work in data.draw(st.permutations(cut)):
        made.give_back(work)
    lines = []
    while made:
        lines += list(made.cut(1000).chunk.lines())

    assert lines == [s.batch.lines[i] for s in stretches for i in s.kept]


def test_whole_batches_stay_whole_while_they_fit() -> None:
    """A batch is cut only where it alone is too large, so that its stored gzip can be passed on."""
    batches = [Stretch.of(stored(n, [b"x"] * 4), 0) for n in (0, 4, 8)]

    assert sizes(cutter(*batches), 10) == [8, 4]
    assert sizes(cutter(*batches), 4) == [4, 4, 4]
    assert sizes(cutter(*batches), 3) == [3, 1, 3, 1, 3, 1]


def test_the_wrapping_of_each_event_counts() -> None:
    """A destination that adds 90 bytes to each event gets fewer of them into a request."""
    batch = Stretch.of(stored(0, [b"x" * 9] * 20), 0)

    assert sizes(cutter(batch, max_bytes=1000), 100) == [20]
    assert sizes(cutter(batch, max_bytes=1000, overhead=90), 100) == [10, 10]


def test_one_settlement_for_an_unbroken_run() -> None:
    """Ten whole batches cost one settlement, with the arrival of the oldest event."""
    batches = [Stretch.of(stored(1 + 4 * n, [b"abc"] * 4), 0) for n in range(10)]
    (settlement,) = Work.of(batches).settlements()

    assert settlement == Settlement(
        start=Position(1),
        end=Position(37, 4),
        delivered=40,
        delivered_bytes=160,
        oldest_received_at=1.0,
    )


def test_a_hole_in_the_log_is_not_settled() -> None:
    """What the queue passed over is booked by the queue; our ranges end before and begin behind it."""
    work = Work.of([Stretch.of(stored(1, [b"a"] * 2), 0), Stretch.of(stored(7, [b"b"] * 2), 0)])

    assert [(s.start, s.end) for s in work.settlements()] == [
        (Position(1), Position(1, 2)),
        (Position(7), Position(7, 2)),
    ]


def test_a_work_without_events_is_all_filtered() -> None:
    """A range that a filter empties has a settlement and no chunk."""
    work = Work.of([Stretch(stored(1, [b"a"] * 3), 0, 3, ())])

    assert work.events == 0
    (settlement,) = work.settlements()
    assert (settlement.filtered, settlement.delivered, settlement.oldest_received_at) == (3, 0, None)


def test_a_part_of_everything_leaves_nothing() -> None:
    """An answer that names every event of a request leaves no settlement behind."""
    settled, rest = Work.of([Stretch.of(stored(1, [b"a"] * 2), 0)]).part({0, 1})

    assert settled.events == 2
    assert list(rest.settlements()) == []


def test_halves_may_fall_between_batches() -> None:
    """Two batches of two events part where they meet."""
    work = Work.of([Stretch.of(stored(1, [b"a"] * 2), 0), Stretch.of(stored(3, [b"b"] * 2), 0)])

    assert [list(half.chunk.lines()) for half in work.halves()] == [[b"a", b"a"], [b"b", b"b"]]


def test_sizes_are_told_without_decoding() -> None:
    """Whole batches are measured by their gzip trailer; nothing is decompressed for it."""
    batch = stored(1, [b"abc"] * 100)

    assert Work.of([Stretch.of(batch, 0)]).nbytes == 400
    assert batch._body is None
