"""A batch as a message: subject, headers and payload, and back.

    subject   <prefix>.events.<source>.<place>      place: where deduplication looks for its events
    headers   Relay-Batch: {"v":1,"at":…,"formats":{"cef":100},"crc":…,…}   Relay-Hashes   Nats-Msg-Id
    payload   gzip of the lines

A message without events is a marker: its request held nothing but duplicates, which the log counts, too.
Whoever only follows the log asks for headers alone; everything the books need is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from relay import gzipped
from relay.batch import StoredBatch
from relay.errors import QueueError
from relay.model import Batch, Format
from relay.queue.jetstream.by_sequence import Message
from relay.queue.jetstream.index import NOWHERE
from relay.queue.jetstream.link import MESSAGE_ID, Outgoing

VERSION: Final = 1
BATCH: Final = "Relay-Batch"
HASHES: Final = "Relay-Hashes"


def token(name: str) -> str:
    """A source's or destination's name as one token of a subject, key or consumer name.

    Dots separate tokens; names hold no equals sign.
    """
    return name.replace(".", "=")


def name_of(token: str) -> str:
    return token.replace("=", ".")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What deduplication writes on a batch so that others find and recognise its events."""

    place: str  # the last tokens of the subject
    oldest: int = 0  # milliseconds since the epoch; believable event times lie between these
    newest: int = 0  # 0: no event has one
    hashes: str | None = None  # header value
    ordinals: Sequence[int] | None = None  # where events have twins in their request
    message_id: str | None = None
    replica: str = ""


@dataclass(frozen=True, slots=True)
class Meta:
    """What the headers of a message tell of its batch."""

    seq: int
    source: str
    place: str
    received_at: float  # seconds since the epoch
    formats: tuple[tuple[Format, int], ...]
    checksum: int  # CRC-32 of the payload
    duplicates: int  # events of the request that were accepted before
    oldest: int
    newest: int
    hashes: str | None
    ordinals: tuple[int, ...] | None
    replica: str  # which one accepted it
    pulled: bool = False  # see `Batch`; a relay that does not know it reads the batch all the same
    number: int = 0  # of the next event at least, where the cluster lost what was counted before

    @property
    def count(self) -> int:
        """Number of events."""
        return sum([n for _, n in self.formats])

    def after(self, number: int) -> int:
        """The number of the event behind this message, whose first one has *number*."""
        return max(number + self.count, self.number)


def encode(prefix: str, batch: Batch, stamp: Stamp, duplicates: int) -> Outgoing:
    """A batch, or what is left of it, as a message."""
    return _message(
        prefix, batch, stamp, duplicates, {name.value: n for name, n in batch.formats}, batch.payload
    )


def encode_marker(prefix: str, batch: Batch, stamp: Stamp, duplicates: int) -> Outgoing:
    """Nothing is left of a request but the fact that all of its events were accepted before."""
    return _message(prefix, batch, stamp, duplicates, {}, b"")


def encode_hole(prefix: str, received_at: float, events: int) -> Outgoing:
    """Events that are nowhere any more, so that those behind them keep their numbers.

    Whoever reads it finds that its checksum is wrong, as that of any batch which went bad.
    """
    about = {
        "v": VERSION,
        "at": received_at,
        "formats": {Format.UNKNOWN.value: events},
        "crc": 1 + gzipped.crc32(b""),
    }
    return Outgoing(f"{prefix}.events.unknown.{NOWHERE}", b"", {BATCH: orjson.dumps(about).decode()})


def encode_loss(prefix: str, received_at: float, number: int, last: int) -> Outgoing:
    """Says that the stream had counted up to event *number* although it ends with message *last*.

    Stored only if it does end there, which a quorum has to confirm.
    """
    about = {
        "v": VERSION,
        "at": received_at,
        "formats": {},
        "crc": gzipped.crc32(b""),
        "number": number,
    }
    headers = {BATCH: orjson.dumps(about).decode(), "Nats-Expected-Last-Sequence": str(last)}
    return Outgoing(f"{prefix}.events.unknown.{NOWHERE}", b"", headers)


def _message(
    prefix: str, batch: Batch, stamp: Stamp, duplicates: int, formats: dict[str, int], payload: bytes
) -> Outgoing:
    about: dict[str, object] = {
        "v": VERSION,
        "at": batch.received_at,
        "formats": formats,
        "crc": gzipped.crc32(payload),
    }
    if stamp.replica:
        about["by"] = stamp.replica
    if stamp.newest:
        about["times"] = (stamp.oldest, stamp.newest)
    if duplicates:
        about["dup"] = duplicates
    if stamp.ordinals and any(stamp.ordinals):
        about["ord"] = list(stamp.ordinals)
    if batch.pulled:
        about["pulled"] = True
    headers = {BATCH: orjson.dumps(about).decode()}
    if stamp.hashes:
        headers[HASHES] = stamp.hashes
    if stamp.message_id:
        headers[MESSAGE_ID] = stamp.message_id
    return Outgoing(f"{prefix}.events.{token(batch.source)}.{stamp.place}", payload, headers)


class NotABatch(QueueError):
    """Somebody else wrote into our stream."""


class Newer(QueueError):
    """A newer relay wrote it: waiting does not help, only another relay does."""


def decode(message: Message) -> Meta:
    """Raises `NotABatch`, or `Newer`."""
    try:
        _, _, source, *place = message.subject.split(".")
        about = orjson.loads(message.headers[BATCH])
        version = about["v"]
        oldest, newest = about.get("times", (0, 0))
        meta = Meta(
            seq=message.seq,
            source=name_of(source),
            place=".".join(place),
            received_at=float(about["at"]),
            formats=tuple([(Format(name), int(n)) for name, n in about["formats"].items()]),
            checksum=int(about["crc"]),
            duplicates=int(about.get("dup", 0)),
            oldest=int(oldest),
            newest=int(newest),
            hashes=message.headers.get(HASHES),
            ordinals=tuple(about["ord"]) if "ord" in about else None,
            replica=str(about.get("by", "")),
            pulled=about.get("pulled") is True,
            number=int(about.get("number", 0)),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise NotABatch(f"message {message.seq} of the stream is no batch of a relay") from error
    if version > VERSION:
        raise Newer(f"message {message.seq} was written by a newer relay (version {version})")
    return meta


def intact(meta: Meta, payload: bytes) -> bool:
    """Whether the payload is the one that was published."""
    return gzipped.crc32(payload) == meta.checksum


def stored(meta: Meta, number: int, payload: bytes, body: bytes | None = None) -> StoredBatch:
    """The batch as readers give it out; *number* is that of its first event."""
    return StoredBatch(
        sequence=number,
        source=meta.source,
        received_at=meta.received_at,
        count=meta.count,
        payload=payload,
        ordinals=meta.ordinals,
        pulled=meta.pulled,
        body=body,
    )
