"""A batch that a queue had to cut is still the same batch, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay import gzipped
from relay.konnect.lines import count_formats
from relay.queue.belongings import MovedBatch
from tests.fakes.events import NOW, cef

LINES = [cef(1), cef(2), cef(1), b"unknown"]


def moved(number: int, lines: list[bytes], ordinals: tuple[int, ...] | None = None) -> MovedBatch:
    payload = gzipped.compress(b"".join(line + b"\n" for line in lines))
    return MovedBatch(number, "eu", NOW, count_formats(lines), payload, ordinals, deduplicated=True)


WHOLE = moved(7, LINES)
PIECES = [moved(7, LINES[:2]), moved(9, LINES[2:], (1, 0))]


def test_the_pieces_of_a_batch_are_the_batch() -> None:
    """Twins on both sides of the cut keep the ids they had."""
    assert WHOLE.is_made_of(PIECES)


@pytest.mark.parametrize(
    "pieces",
    [
        PIECES[:1],
        PIECES[::-1],
        [PIECES[0], moved(9, LINES[2:])],  # a twin lost its ordinal
        [PIECES[0], replace(PIECES[1], number=10)],
        [PIECES[0], replace(PIECES[1], source="us")],
        [PIECES[0], replace(PIECES[1], received_at=NOW + 1)],
        [PIECES[0], moved(9, [cef(3), b"unknown"])],
        [*PIECES, moved(11, LINES[:1])],
    ],
)
def test_whatever_differs_is_another_batch(pieces: list[MovedBatch]) -> None:
    """A piece that is missing, elsewhere, of another time or source, or with other events is noticed."""
    assert not WHOLE.is_made_of(pieces)
