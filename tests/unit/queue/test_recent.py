"""What the recent past of a source says of a batch, where hashes are alike by chance."""

from __future__ import annotations

import struct

from relay.queue.dedup.fingerprint import Fingerprint
from relay.queue.dedup.recent import Recent

FLOOR = 1_000


def a_print(oldest: int, newest: int, *hashes: int) -> Fingerprint:
    lines = [b"x"] * len(hashes)
    return Fingerprint(
        lines, b"", 1 << 40, oldest, newest, timed=True, plain=True, middles=None, made=set(hashes)
    )


def unpack(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def after(*batches: Fingerprint) -> Recent:
    recent = Recent(FLOOR, unpack)
    for each in batches:
        packed = struct.pack(f"<{len(each.lines)}I", *sorted(each.hashes))
        recent.add(each.oldest, each.newest, len(each.lines), packed, each.hashes)
    return recent


def test_a_hash_of_a_batch_that_overlaps_is_suspicious() -> None:
    """An event that is alike in a batch of the same time may be the same event."""
    recent = after(a_print(2_000, 2_010, 1, 2), a_print(2_005, 2_020, 3, 4))

    assert not recent.is_new([a_print(2_008, 2_015, 4, 5)])


def test_a_hash_of_a_batch_of_another_time_is_chance() -> None:
    """Other batches overlap this one, but the one that is alike does not: it cannot hold the same event."""
    recent = after(a_print(2_000, 2_010, 1, 2), a_print(3_000, 3_010, 3, 4))

    assert recent.is_new([a_print(3_005, 3_015, 1, 5)])


def test_the_hash_of_a_batch_of_another_time_hides_no_true_one() -> None:
    """Of two events that are alike one is of another time; the other one counts."""
    recent = after(a_print(2_000, 2_010, 1, 2), a_print(3_000, 3_010, 3, 4), a_print(3_000, 3_020, 6, 7))

    assert not recent.is_new([a_print(3_005, 3_015, 1, 7)])
