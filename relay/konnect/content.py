"""What an event says, whoever signed it and whenever it was stamped: how two copies of it are told to be one.

A replay may stamp events anew, and where the signature covers the stamp it then needs another signature. The
two lines have different event ids (`relay.konnect.lines`) and equal *content*. Never proves anything: a
forger writes what he likes in place of a signature, so whoever takes one line for another by its content
has to know which of them is signed (`relay.queue.dedup.judge`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import repeat
from typing import Final

from relay.konnect.lines import identity, numbered
from relay.konnect.times import event_time

# A signature as Konnect writes it, in the places where Konnect writes it. What stands there otherwise is part
# of the content, and makes two events of what may be one.
_CEF = re.compile(rb" sig=[\w-]{86}")
_CEF_BYTES: Final = 91
_JSON = re.compile(rb',"sig":"[\w-]{86}"')
_JSON_FIRST = re.compile(rb'\{"sig":"[\w-]{86}",')
# A quote inside a value is escaped, so this is a key. JSON's stamp is what the header is to CEF.
_JSON_STAMP = re.compile(rb'(?<=[{,]"event_ts":")\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z(?=")')

SIGNED_BYTES: Final = 97
"""No signature begins further from the end of a line, where it is the last field: `,"sig":"…"}}`."""


def content(line: bytes) -> bytes:
    """The line without its signature and without the time at which it was written down.

    Without that time only where the event has another (`rt`): else it is all there is to tell two apart.
    """
    line = identity(line)
    if line[:1] != b"{":
        return line[:-_CEF_BYTES] if _CEF.fullmatch(line, max(0, len(line) - _CEF_BYTES)) else line
    at = line.rfind(b',"sig":"')
    if at >= 0 and (found := _JSON.match(line, at)):
        line = line[:at] + line[found.end() :]
    elif (at := line.find(b'{"sig":"')) >= 0 and (found := _JSON_FIRST.match(line, at)):
        line = line[: at + 1] + line[found.end() :]
    return line if event_time(line) is None else _JSON_STAMP.sub(b"", line, count=1)


def content_names(
    lines: Iterable[bytes], ordinals: Sequence[int] | None = None, *, twins: Counter[str] | None = None
) -> list[str]:
    """A name for what each event says: in the form of an event id, and never equal to one.

    Numbered like event ids among those of equal content: *twins* holds how many came before in the
    same request, and is counted on. *ordinals* as in `event_ids`: of a batch from which events were removed
    no more is known, so that one may get a lower number than it had.
    """
    twins = Counter() if twins is None else twins
    names = []
    for line, ordinal in zip(lines, repeat(0) if ordinals is None else ordinals, strict=False):
        # No line holds a line feed, so nobody can send one whose event id this is.
        digest = sha256(b"\n" + content(line)).hexdigest()[:32]
        number = max(twins[digest], ordinal)
        twins[digest] = number + 1
        names.append(numbered(digest, number))
    return names
