"""The values that move through the relay, and the closed sets they are made of.

Owns no behaviour beyond what follows from the values themselves and imports nothing but the
standard library. Words are those of the glossary in docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Role = Literal["all", "ingest", "deliver"]
"""Which halves of the relay a process is; they meet in the queue."""


class Format(StrEnum):
    """How an event's line is written. Told apart by its first bytes, never by a header."""

    CEF = "cef"  # `… CEF:0|KongInc|Konnect|…`
    JSON = "json"  # one flat object
    CPS = "cps"  # the same object inside `{"event": …}`
    UNKNOWN = "unknown"  # neither; forwarded all the same


class Reason(StrEnum):
    """Why an event became a dead letter."""

    REJECTED = "rejected"  # the destination refused this one event's payload
    TOO_LARGE = "too_large"  # the event alone exceeds the destination's size limit
    EXHAUSTED = "exhausted"  # retries used up under `on_exhausted: dead_letter`
    EXPIRED = "expired"  # released to make room; the destination was furthest behind
    CORRUPT = "corrupt"  # its stored batch no longer matches its checksum
    UNCONVERTIBLE = "unconvertible"  # it cannot be put into the form this destination needs
    SIGNATURE = "signature"  # its signature does not verify, and the source quarantines those


class ReaderKind(StrEnum):
    """What a reader is for. The live one goes first; the others use what it leaves free."""

    LIVE = "live"  # everything from the destination's start on
    BACKFILL = "backfill"  # what was in the log before a destination with `start_from: earliest`
    REPLAY = "replay"  # a time range sent again; these events are already in the books
    REDRIVE = "redrive"  # dead letters sent again


class HoldReason(StrEnum):
    """Why a destination's circuit is open."""

    EXHAUSTED = "exhausted"  # it kept failing; retries are used up
    MISCONFIGURED = "misconfigured"  # it refuses our credentials, address or certificate
    OPERATOR = "operator"  # someone asked for it; never closes by itself


class DestinationState(StrEnum):
    """What a destination is doing; exactly one at a time."""

    ACTIVE = "active"  # events flow, or there are none
    RETRYING = "retrying"  # the last attempt failed; the next one has a time
    HELD = "held"  # circuit open, one probe every `probe_interval`
    PAUSED = "paused"  # held by an operator; no probes


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a log: before event *offset* of the batch with *sequence*.

    Sequences grow but need not be dense; a position after a batch's last event equals the
    position before the first event of the next one.
    """

    sequence: int
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.sequence}+{self.offset}"


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one accepted request on their way into the queue.

    A large request becomes several batches so that a reader never has to hold more than one
    moderate blob; they are appended together or not at all.
    """

    source: str
    received_at: float  # seconds since the epoch
    formats: tuple[tuple[Format, int], ...]  # how many events of each format, none zero
    body: bytes  # the lines, each ended by one `\n`
    payload: bytes  # the same bytes gzip'd; Konnect's own gzip where nothing was changed
    lines: list[bytes] = field(
        default_factory=list, repr=False, compare=False
    )  # body split, without line ends
    pulled: bool = False  # the relay asked Konnect's API for these events; nobody sent them

    @property
    def count(self) -> int:
        """Number of events."""
        return sum(n for _, n in self.formats)

    @property
    def format(self) -> Format:
        """The format of most events."""
        return max(self.formats, key=lambda pair: pair[1])[0]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an append stored."""

    accepted: int  # events now durable
    duplicates: int  # events already accepted within the window, not stored again


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why an event must not go out to a destination: it becomes a dead letter there."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Event:
    """One audit record as a destination sees it."""

    id: str  # 32 hex digits, `-n` appended for the n-th twin inside its batch
    line: bytes  # exactly as received, without its line end, unless the destination asked for something else
    format: Format  # of `line`
    source: str
    received_at: float  # seconds since the epoch
    rewritten_from: bytes | None = None  # what was received, where `line` is not that
    signature: str | None = None  # a `SignatureResult`; None where its source is not checked

    @property
    def received(self) -> bytes:
        """The line as it came, but for fields the destination must not see."""
        return self.line if self.rewritten_from is None else self.rewritten_from


@dataclass(frozen=True, slots=True)
class Response:
    """What a destination answered, or why there was no answer. Never holds a secret."""

    detail: str  # one sentence for people
    status: int | None = None  # HTTP status, or None when none came
    excerpt: bytes = b""  # the first KiB of the body
    attempt: int = 1  # which attempt at these events this was, from 1

    EXCERPT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a destination will not take, with what it said."""

    position: Position
    event: Event
    reason: Reason
    response: Response


@dataclass(frozen=True, slots=True)
class Settlement:
    """The fate of every event in [start, end): each is counted exactly once.

    `end` may leave out filtered events that follow; the reader advances to `end` whatever lies
    between.
    """

    start: Position
    end: Position  # exclusive
    delivered: int = 0
    delivered_bytes: int = 0  # bytes of the delivered lines, uncompressed
    filtered: int = 0
    dead: tuple[DeadLetter, ...] = ()
    oldest_received_at: float | None = None  # for the latency histogram; None: nothing delivered
    unread: int = 0  # of all these, events that had to be read for another format and could not be


@dataclass(frozen=True, slots=True)
class RetryState:
    """How far the head of a reader's backlog is through its retry schedule.

    Stored, so that a restart neither forgets nor restarts the schedule.
    """

    attempts: int = 0  # attempts already spent on the head
    next_at: float = 0.0  # not before this time, seconds since the epoch


@dataclass(frozen=True, slots=True)
class Hold:
    """A destination's open circuit."""

    reason: HoldReason
    since: float  # seconds since the epoch
    detail: str  # what the destination said last


@dataclass(frozen=True, slots=True)
class Books:
    """A destination's account: `owed = delivered + filtered + dead + backlog` at any quiet moment.

    `dead` counts dead letters not yet redriven, including those an operator discarded (they are
    in `discarded` as well). Replays are sent again on top and appear only in `replayed`.
    """

    owed: int  # accepted events since the destination's start
    delivered: int
    filtered: int
    dead: int  # dead letters outstanding plus discarded
    discarded: int
    backlog: int  # events of live and back-fill readers not yet settled
    replayed: int
    dead_by_reason: Mapping[Reason, int] = field(default_factory=dict)  # ever; only grows


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a reader still has before it."""

    events: int
    oldest_received_at: float | None  # None when empty


@dataclass(frozen=True, slots=True)
class Gap:
    """A span in which Konnect may have given up on us."""

    id: int
    source: str
    start: float  # seconds since the epoch
    end: float
    cause: str  # e.g. `429`, `500`, `413`, `400`, `downtime`, `inactive`
    refusals: int  # how many requests were refused in it
    closed_at: float | None = None
    lost_until: float | None = None  # of a closed one: from its start to here nothing could be fetched


@dataclass(frozen=True, slots=True)
class Recovering:
    """What a process does to close gaps, or what keeps it from that. Never holds a secret."""

    gap: int | None  # which one, where it is one
    detail: str  # for people
    at_work: bool = False  # that gap is being fetched at this moment


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a process has seen last of a source or a destination. Never holds a secret or an event."""

    at: float | None = None  # the last attempt, seconds since the epoch; None: none since the process started
    code: int | None = None  # the HTTP status it ended with
    detail: str = ""  # one sentence for people


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of the relay, as it describes itself to the others on the same queue."""

    id: str  # unique, and new with every start
    version: str
    role: str
    started_at: float  # seconds since the epoch
    configuration: str  # a hash of what should be alike in all replicas, secrets left out
    sources: Mapping[str, Sighting] = field(default_factory=dict)
    destinations: Mapping[str, Sighting] = field(default_factory=dict)  # those this process delivers to
    recovering: Recovering | None = None  # on the one that closes gaps
