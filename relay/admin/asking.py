"""What a request to the admin API may say: bodies and query strings as typed, frozen models.

Unknown fields are refused, so that a misspelt `destinaton` never widens what is discarded.
"""

from __future__ import annotations

from typing import Annotated, Self, TypeVar

from aiohttp.web import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from relay.admin.problems import BadRequest
from relay.admin.times import parse_rfc3339
from relay.model import Reason
from relay.queue.base import DeadLetterFilter


def _moment(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError("expected a time such as 2026-08-22T09:30:00Z")  # noqa: TRY004  # pydantic reports ValueErrors only
    try:
        return parse_rfc3339(value)
    except ValueError as error:
        raise ValueError(f"expected a time such as 2026-08-22T09:30:00Z, got {value!r}") from error


Moment = Annotated[float, BeforeValidator(_moment)]  # seconds since the epoch, RFC 3339 on the wire


class Asked(BaseModel):
    """What every request has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Hold(Asked):
    """Why someone holds a destination; shown in status."""

    detail: str = Field("held by an operator", max_length=500)


class CloseGap(Asked):
    """Why someone closes a gap; goes into the log."""

    detail: str = Field("", max_length=500)


Id = Annotated[int, Field(ge=0, lt=1 << 63)]


class Selection(Asked):
    """Which dead letters to act on. No criterion at all has to be meant: `all` says so."""

    destination: str | None = None
    reason: Reason | None = None
    since: Moment | None = None
    ids: tuple[Id, ...] | None = Field(None, max_length=10_000)
    all: bool = False

    @model_validator(mode="after")
    def _meant(self) -> Self:
        narrowed = any(value is not None for value in (self.destination, self.reason, self.since, self.ids))
        if narrowed == self.all:
            raise ValueError("give destination, reason, since or ids, or else all: true")
        return self

    def which(self) -> DeadLetterFilter:
        return DeadLetterFilter(self.destination, self.reason, self.since, self.ids)


class DeadLetterPage(Asked):
    """A page of the dead letters, by ascending id."""

    destination: str | None = None
    reason: Reason | None = None
    since: Moment | None = None
    after: Id = 0  # the `next` of the page before
    limit: int = Field(100, ge=1, le=1000)

    def which(self) -> DeadLetterFilter:
        return DeadLetterFilter(self.destination, self.reason, self.since)


class Span(Asked):
    """From one moment to a later one."""

    start: Moment = Field(alias="from")
    end: Moment = Field(alias="to")

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.start >= self.end:
            raise ValueError("from has to be before to")
        return self


class Replay(Span):
    """Batches received in [from, to) go to the destination again."""

    destination: str
    rate: float | None = Field(None, gt=0)  # events per second at most


class EventQuery(Span):
    """Which accepted events to give: those that happened in [from, to)."""

    source: str | None = None


class Pull(Span):
    """What the organisation's log holds of a span, both ends included, is appended where it is missing."""

    region: str | None = None  # whose log it should be; left out: whichever the relay is configured for


class GapQuery(Asked):
    """Which gaps to list."""

    include_closed: bool = False


_AskedT = TypeVar("_AskedT", bound=Asked)


async def read_body(request: Request, model: type[_AskedT]) -> _AskedT:
    """The request's JSON body; an empty one says nothing. Raises `BadRequest`."""
    body = await request.read()
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise BadRequest(_sentence(error)) from error


def read_query(request: Request, model: type[_AskedT]) -> _AskedT:
    """The request's query string. Raises `BadRequest`."""
    try:
        return model.model_validate(dict(request.query))
    except ValidationError as error:
        raise BadRequest(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    """Every fault as `field: what was expected`, in one line."""
    faults = []
    for fault in error.errors(include_url=False, include_input=False):
        path = ".".join(map(str, fault["loc"]))
        text = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{path}: {text}" if path else text)
    return "; ".join(faults)
