"""Splunk's HTTP Event Collector on loopback, as its documentation and others' measurements have it.

    async with Splunk() as splunk:
        ...
        splunk.index()                  # everything taken so far becomes searchable and acknowledged
        splunk.crash()                  # or is lost, and acknowledgements count from 0 again

Event, raw, acknowledgement and health endpoints; channels with ids from 0; an acknowledgement is handed out
once; a request with a bad event is taken up to that event. It is a `Siem`: `answer`, `hang` and `reset` come
first, whatever is asked for.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.siem import TIME_LIMIT, Answer, Received, Siem

TOKEN = "hec-t0ken-0123"
MAX_EVENT = 5 * 1024 * 1024  # bytes
_KNOWN = {"time", "host", "source", "sourcetype", "index", "event", "fields"}


@dataclass(eq=False, slots=True)
class Taken:
    """What one request brought, from its answer until it is indexed."""

    channel: str
    events: list[Any]


@dataclass(slots=True)
class Channel:
    """One sender's acknowledgements."""

    next_id: int = 0
    open: dict[int, Taken | None] = field(default_factory=dict)  # None: indexed, and not asked for since


class _Refused(Exception):
    def __init__(self, status: int, code: int, text: str, **more: Any) -> None:
        self.answer = _said(status, code, text, **more)


def _said(status: int, code: int, text: str, **more: Any) -> Answer:
    return Answer(status, json.dumps({"text": text, "code": code, **more}).encode())


class Splunk(Siem):
    """The collector."""

    def __init__(self, *, acknowledges: bool = True, indexes: tuple[str, ...] = ("main", "audit")) -> None:
        super().__init__(path="")
        self.acknowledges = acknowledges  # of the token
        self.at_once = False  # whether what is taken is indexed right away
        self.indexed: list[Any] = []  # what stood under `event`, or raw lines, in order
        self.asked: list[list[int]] = []  # questions after acknowledgements
        self.channels: dict[str, Channel] = defaultdict(Channel)
        self._taken: list[Taken] = []
        self._indexes = indexes
        self.then(self._serve)

    # What the test does

    def index(self, requests: int | None = None) -> None:
        """Index everything that was taken, or the first so many requests; who asks next is told so."""
        ready, self._taken = self._taken[:requests], self._taken[len(self._taken[:requests]) :]
        for taken in ready:
            self.indexed += taken.events
            for number, waiting in self.channels[taken.channel].open.items():
                if waiting is taken:
                    self.channels[taken.channel].open[number] = None

    def crash(self) -> None:
        """Lose what is not indexed and everything about channels, and come back."""
        self._taken.clear()
        self.channels.clear()

    async def has_been_asked(self, times: int) -> None:
        """Wait for so many questions after acknowledgements of events."""
        await self._until(lambda: len(self.asked) >= times, TIME_LIMIT)

    async def has_taken(self, requests: int) -> None:
        """Wait until so many requests with events wait to be indexed."""
        await self._until(lambda: len(self._taken) >= requests, TIME_LIMIT)

    async def has_indexed(self, events: int) -> None:
        """Wait for so many events, twice indexed ones counted twice."""
        await self._until(lambda: len(self.indexed) >= events, TIME_LIMIT)

    @property
    def posts(self) -> list[Received]:
        """The requests with events."""
        ours = ("/services/collector/event", "/services/collector/raw")
        return [each for each in self.requests if urlsplit(each.path).path.endswith(ours)]

    # What Splunk does

    def _serve(self, request: Received) -> Answer:
        address = urlsplit(request.path)
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        try:
            match address.path.partition("/services/collector")[2]:
                case "/health":
                    return _said(200, 17, "HEC is healthy")
                case "" | "/event":
                    return self._event(request)
                case "/raw":
                    return self._raw(request, query)
                case "/ack":
                    return self._ack(request)
                case _:
                    return _said(404, 404, "The requested URL was not found on this server.")
        except _Refused as refused:
            return refused.answer

    def _channel(self, request: Received) -> str:
        """The token, then the channel."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not token:
            raise _Refused(401, 2, "Token is required")
        if scheme != "Splunk":
            raise _Refused(401, 3, "Invalid authorization")
        if token != TOKEN:
            raise _Refused(403, 4, "Invalid token")
        channel = request.headers.get("X-Splunk-Request-Channel", "")
        if not channel and self.acknowledges:
            raise _Refused(400, 10, "Data channel is missing")
        try:
            return str(uuid.UUID(channel)) if channel else ""
        except ValueError:
            raise _Refused(400, 11, "Invalid data channel") from None

    def _event(self, request: Received) -> Answer:
        channel = self._channel(request)
        if not request.body.strip():
            raise _Refused(400, 5, "No data")
        good: list[Any] = []
        try:
            self._parse(request.body, good)
        except _Refused as refused:
            if not good or not self.acknowledges:
                self._take(channel, good)
                raise
            # With a channel the refusal says as well by what number to ask for the events before it.
            said = json.loads(refused.answer.body)
            return Answer(400, json.dumps({**said, "ackId": self._take(channel, good)}).encode())
        return self._success(channel, good)

    def _parse(self, body: bytes, good: list[Any]) -> None:
        """Put the events of *body* into *good*, up to the first bad one."""
        text, at, decoder = body.decode(), 0, json.JSONDecoder()
        while text[at:].strip():
            number = len(good)
            at += len(text[at:]) - len(text[at:].lstrip())
            try:
                found, end = decoder.raw_decode(text, at)
            except ValueError:
                raise self._bad(6, "Invalid data format", number) from None
            if not isinstance(found, dict) or end - at > MAX_EVENT:
                raise self._bad(6, "Invalid data format", number)
            at = end
            if set(found) - _KNOWN:
                return  # measured: a 200, and nothing from here on is indexed
            if "event" not in found:
                raise self._bad(12, "Event field is required", number)
            if found["event"] in {"", None} if not isinstance(found["event"], dict | list) else False:
                raise self._bad(13, "Event field cannot be blank", number)
            if any(isinstance(value, dict) for value in found.get("fields", {}).values()):
                raise self._bad(15, "Error in handling indexed fields", number)
            if found.get("index", self._indexes[0]) not in self._indexes:
                raise self._bad(7, "Incorrect index", number + 1)
            good.append(found["event"])

    def _bad(self, code: int, text: str, number: int) -> _Refused:
        return _Refused(400, code, text, **{"invalid-event-number": number})

    def _raw(self, request: Received, query: dict[str, str]) -> Answer:
        channel = self._channel(request)
        if not request.body.strip():
            raise _Refused(400, 5, "No data")
        if query.get("index", self._indexes[0]) not in self._indexes:
            raise _Refused(400, 7, "Incorrect index")
        return self._success(channel, request.lines())

    def _success(self, channel: str, events: list[Any]) -> Answer:
        number = self._take(channel, events)
        return _said(200, 0, "Success", **({"ackId": number} if self.acknowledges else {}))

    def _take(self, channel: str, events: list[Any]) -> int:
        taken = Taken(channel, events)
        of = self.channels[channel]
        number, of.next_id = of.next_id, of.next_id + 1
        of.open[number] = taken
        self._taken.append(taken)
        if self.at_once or not self.acknowledges:
            self.index()
        return number

    def _ack(self, request: Received) -> Answer:
        channel = self._channel(request)
        if not self.acknowledges:
            raise _Refused(400, 14, "ACK is disabled")
        numbers = json.loads(request.body)["acks"]
        if max(numbers) < 1000:  # not merely whether acknowledgement is on
            self.asked.append(numbers)
        of = self.channels[channel].open
        answers = {}
        for number in numbers:
            answers[str(number)] = number in of and of[number] is None
            if answers[str(number)]:
                del of[number]  # handed out once
        return Answer(200, json.dumps({"acks": answers}).encode())
