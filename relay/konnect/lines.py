"""What a Konnect event looks like as bytes: its format, its identity, its time.

Works on lines only and never decodes them further than it must; conversion lives elsewhere.
The rules come from docs/architecture.md section 11 and docs/konnect.md sections 2 and 6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

from relay.model import Format

# Konnect's header is `2025-06-18T21:02:36Z konghq.com CEF:0|…`, in 2023 `Apr 14 05:39:08 konghq.com
# CEF:0|…`. The marker has to start this early, so that a `CEF:` inside a value is never taken for it.
_CEF_MARKER = b"CEF:"
CEF_MARKER_BEFORE = 80
_HEAD = 40  # enough for a timestamp, a host name and the marker


def format_of(line: bytes) -> Format:
    """Tell the format of one line by its first bytes."""
    if line[:1] == b"{":
        return Format.CPS if line.startswith(b'{"event":{') else Format.JSON
    if line.find(_CEF_MARKER, 0, CEF_MARKER_BEFORE) >= 0:
        return Format.CEF
    return Format.UNKNOWN


def count_formats(lines: Sequence[bytes]) -> tuple[tuple[Format, int], ...]:
    """Count the lines of each format; formats without a line are left out."""
    # The lines of a batch begin alike, and Konnect mixes no formats in one: looking at each beginning once
    # is several times faster. A format told by the beginning is right, only none may be wrong.
    formats = {format_of(head) for head in {line[:_HEAD] for line in lines}}
    if len(formats) == 1 and Format.UNKNOWN not in formats:
        return ((formats.pop(), len(lines)),)
    return tuple(Counter(map(format_of, lines)).items())


def identity(line: bytes) -> bytes:
    """The bytes an event's id is taken over.

    The whole line, but for CEF without the leading timestamp and host: a Konnect replay may
    stamp them anew. Never the signature alone: a forged event carrying a true event's signature
    would then hide the true one.
    """
    if line[:1] != b"{":
        at = line.find(_CEF_MARKER, 0, CEF_MARKER_BEFORE)
        if at > 0:
            return line[at:]
    return line


_PULLED = b"pulled\n"


def event_ids(
    lines: Sequence[bytes], ordinals: Sequence[int] | None = None, *, pulled: bool = False
) -> list[str]:
    """The ids of the events of one batch, in order.

    An id is the first 128 bits of the SHA-256 of `identity(line)` as 32 hex digits. Identical
    events inside one batch are told apart by `-1`, `-2`, … on all but the first: genuine twins
    occur (several equal permission checks in one millisecond).

    *ordinals*, where given, holds each line's ordinal among its twins as counted in the batch
    as Konnect sent it; a batch from which duplicates were removed keeps its ids this way.

    What was *pulled* has ids of its own, taken over `pulled`, a line feed, and the line: whoever may send
    could otherwise send a line first that the relay is about to pull, which would then be the duplicate.
    """
    before = _PULLED if pulled else b""
    digests = [sha256(before + identity(line)).hexdigest()[:32] for line in lines]
    if ordinals is not None:
        return [numbered(digest, n) for digest, n in zip(digests, ordinals, strict=True)]
    if len(set(digests)) == len(digests):
        return digests
    seen: Counter[str] = Counter()
    ids = []
    for digest in digests:
        ids.append(numbered(digest, seen[digest]))
        seen[digest] += 1
    return ids


def numbered(digest: str, ordinal: int) -> str:
    """A digest with the ordinal of the event among its twins."""
    return f"{digest}-{ordinal}" if ordinal else digest


def ordinal_of(event_id: str) -> int:
    """An event's ordinal among its identical twins, 0 for the first."""
    return int(event_id.partition("-")[2] or 0)
