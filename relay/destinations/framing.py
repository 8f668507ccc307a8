"""From the lines of a chunk to one request body.

Owns the four framings of the `http` destination and the only place where a line becomes part of a
JSON text. A line that is a JSON object goes in byte for byte, since a signature covers exactly those
bytes. Never drops a line: what is not an object is wrapped into one where the framing needs objects.
"""

from __future__ import annotations

from typing import Literal

import orjson

from relay.batch import Chunk
from relay.model import Event

Framing = Literal["lines", "ndjson", "json_array", "one_per_request"]

# `{"message":"…","event_id":"…"}` around a line, without the line's own text and quotes.
_WRAPPING = b'{"message":,"event_id":""}'
_ID_BYTES = 36  # 32 hex digits and room for the number of a twin

#: Bytes that each framing adds to an event at most, apart from escapes.
OVERHEAD: dict[Framing, int] = {
    "lines": 0,
    "one_per_request": 0,
    "ndjson": len(_WRAPPING) + _ID_BYTES + 2,
    "json_array": len(_WRAPPING) + _ID_BYTES + 2,
}

CONTENT_TYPE: dict[Framing, str] = {
    "lines": "text/plain",  # as Konnect itself sends
    "one_per_request": "text/plain",
    "ndjson": "application/x-ndjson",
    "json_array": "application/json",
}


def as_ndjson(chunk: Chunk) -> bytes:
    """One JSON object on each line."""
    return b"\n".join(objects(chunk)) + b"\n"


def as_json_array(chunk: Chunk) -> bytes:
    """One array of JSON objects."""
    return b"[" + b",".join(objects(chunk)) + b"]"


def objects(chunk: Chunk) -> list[bytes]:
    """Every event as the text of a JSON object, in order.

    Ids are only computed where some line has to be wrapped.
    """
    texts = [line if is_object(line) else None for line in chunk.lines()]
    if None in texts:
        return [text or wrapped(event) for text, event in zip(texts, chunk.events(), strict=True)]
    return [text for text in texts if text is not None]


def as_object(event: Event) -> bytes:
    """One event as `objects` writes it."""
    return event.line if is_object(event.line) else wrapped(event)


def wrapped(event: Event) -> bytes:
    """An event that is no JSON object, as one."""
    return b'{"message":%b,"event_id":"%b"}' % (quoted(event.line), event.id.encode())


def is_object(text: bytes) -> bool:
    """Whether *text* can stand in a JSON document as an object.

    Parsed, not guessed: one truncated line would otherwise make a whole array unreadable.
    """
    if text[:1] != b"{":
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def quoted(line: bytes) -> bytes:
    """*line* as a JSON string.

    JSON text is UTF-8, so here, and only here, a byte that is not UTF-8 becomes U+FFFD.
    """
    return orjson.dumps(line.decode("utf-8", errors="replace"))
