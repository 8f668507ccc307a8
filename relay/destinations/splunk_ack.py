"""Splunk's indexer acknowledgement: whether events are indexed, which is known only after the answer.

Owns the acknowledgements that are awaited and the asking for them: one question for all of them at a time,
asked by one of the sends that wait. Nothing is stored: a send that waits is not delivered, so the queue
still owes its events, and a restart sends them again. Never decides when to send again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import orjson
from yarl import URL

from relay.clock import Clock
from relay.destinations.base import Delivered, Misconfigured, Outcome, Partial, Throttled, Transient
from relay.destinations.classify import Reply, respond
from relay.destinations.posting import Ask, NoReply
from relay.destinations.splunk_answers import ack_id, acknowledged
from relay.model import Response

PAUSE: Final = 1.0  # seconds between two questions; indexing takes about as long
_NOBODYS: Final = 2**31 - 1  # an id that no channel comes to: asking for it spends no acknowledgement
_ANEW: Final = (
    "it counts its acknowledgements anew: it was restarted, or a load balancer in front of it is not sticky"
)
_UNSURE: Final = (
    "it acknowledged while a request beside this one stayed without an answer: it may have meant that one"
)
_JSON: Final = {"Content-Type": "application/json"}


@dataclass(eq=False, slots=True)
class _Waiting:
    """One request whose events are not known to be indexed."""

    id: int
    deadline: float  # monotonic
    settled: bool = False
    doubt: Transient | Misconfigured | None = None  # why they do not count as indexed, once settled

    def settle(self, doubt: Transient | Misconfigured | None = None) -> None:
        if not self.settled:
            self.settled, self.doubt = True, doubt


@dataclass(eq=False, slots=True)
class _Post:
    """A request with events that is under way."""

    ended: asyncio.Event
    answered: bool = False


class Acknowledgements:
    """Those of one destination, in one channel. A `posting.Proof`."""

    def __init__(self, url: URL, *, limit: float, clock: Clock) -> None:
        """*url* is where to ask; after *limit* seconds an acknowledgement counts as lost."""
        self._url = url
        self._limit = limit
        self._clock = clock
        self._is_on = False  # the token has acknowledgement; asked before the first event is sent
        self._open: list[_Waiting] = []
        self._posts: set[_Post] = set()
        self._asking = False  # one of those who wait asks for all
        self._asked = asyncio.Event()  # replaced after each question
        self._trouble: Response | None = None  # why the last question had no answer

    async def of(
        self, post: Callable[[], Awaitable[Reply | NoReply]], judge: Callable[[Reply], Outcome], ask: Ask
    ) -> Outcome:
        """Send with *post* and wait until what *judge* says was taken is indexed.

        Bounded by the time-outs of the requests and the limit.
        """
        if not self._is_on and (refusal := await self.refusal(ask, self._clock.now())) is not None:
            return refusal
        before = tuple(self._open)
        sending = _Post(asyncio.Event())
        self._posts.add(sending)
        try:
            reply = await post()
            if not isinstance(reply, Reply):
                return reply
            number = ack_id(reply)
            waiting = None if number is None else self._register(number, before)
            sending.answered = True
        finally:
            self._posts.discard(sending)
            sending.ended.set()
        outcome = judge(reply)
        if not isinstance(outcome, Delivered) and not (isinstance(outcome, Partial) and outcome.delivered):
            return outcome
        if waiting is None:
            return self._unprovable(outcome, reply)
        doubt = await self._settled(waiting, ask)
        return outcome if doubt is None else _doubted(outcome, doubt)

    async def refusal(self, ask: Ask, now: float) -> NoReply | None:
        """Whether this token has acknowledgement at all; None: it has.

        Asked before events are sent: a token without it indexes them all the same, and a destination that is
        held would index its probe again and again.
        """
        answer = await self._ask(ask, [_NOBODYS], now)
        if isinstance(answer, frozenset):
            self._is_on = True
            return None
        return answer

    def _unprovable(self, outcome: Delivered | Partial, reply: Reply) -> Outcome:
        """What was taken without an id to ask by."""
        self._is_on = False
        if isinstance(outcome, Partial) and outcome.rejected:
            # The refused event is out of the way; what stood before it is sent again with the rest.
            return replace(outcome, delivered=())
        if isinstance(outcome, Partial):
            return Misconfigured(outcome.response)
        remark = "but without an acknowledgement id: turn indexer acknowledgement on for this token"
        return Misconfigured(respond(reply, f"{remark}, or `acknowledge` off here"))

    def _register(self, number: int, before: tuple[_Waiting, ...]) -> _Waiting:
        """Wait for *number*, which belongs to a request that was sent while *before* were waiting.

        Ids only grow. One that is not above those of earlier requests tells that the collector has started
        anew: what it had not indexed by then is lost, and the earlier ids are about to mean other events.
        """
        waiting = _Waiting(number, self._clock.monotonic() + self._limit)
        lost = [other for other in before if number <= max(each.id for each in before)]
        twins = [other for other in self._open if other.id == number and not other.settled]
        anew = Transient(Response(_ANEW, 200))
        for other in (*lost, *twins):
            other.settle(anew)
        if any(twin not in before for twin in twins):
            waiting.settle(anew)  # nobody can tell which of the two is meant
        if lost or twins:
            self._wake()
        return waiting

    async def _settled(self, waiting: _Waiting, ask: Ask) -> Transient | Misconfigured | None:
        self._open.append(waiting)
        try:
            while not waiting.settled:
                if self._asking:
                    await self._asked.wait()
                else:
                    await self._question(ask)
        finally:
            self._open.remove(waiting)
        return waiting.doubt

    async def _question(self, ask: Ask) -> None:
        """Ask once for everybody. Who does it may be cancelled: then another one of them takes over."""
        self._asking = True
        try:
            await self._clock.sleep(PAUSE)
            # Only those it was asked for: an id that comes meanwhile may be another one of the same number.
            asked = [waiting for waiting in self._open if not waiting.settled]
            answer = await self._ask(ask, sorted({waiting.id for waiting in asked}), self._clock.now())
            if isinstance(answer, frozenset):
                await self._hear_the_others([waiting for waiting in asked if waiting.id in answer])
            self._read(answer, asked)
        finally:
            self._asking = False
            self._wake()

    async def _hear_the_others(self, indexed: list[_Waiting]) -> None:
        """Before *indexed* count, wait for the answers to what is being sent, for as long as these may take.

        They may tell that the numbers have begun anew. An acknowledgement was then given for one of those
        requests and not for the one it was asked for.
        """
        posts = tuple(self._posts) if indexed else ()
        for post in posts:
            await post.ended.wait()
        if not all(post.answered for post in posts):
            for waiting in indexed:
                waiting.settle(Transient(Response(_UNSURE, 200)))

    async def _ask(
        self, ask: Ask, numbers: list[int], now: float
    ) -> frozenset[int] | Throttled | Transient | Misconfigured:
        if not numbers:
            return frozenset()
        reply = await ask("POST", self._url, orjson.dumps({"acks": numbers}), _JSON)
        return acknowledged(reply, now) if isinstance(reply, Reply) else reply

    def _read(
        self, answer: frozenset[int] | Throttled | Transient | Misconfigured, asked: list[_Waiting]
    ) -> None:
        match answer:
            case Misconfigured():
                self._is_on = False
                for waiting in asked:
                    waiting.settle(answer)
            case Throttled(response) | Transient(response):
                self._trouble = response  # the ids are still good; only the limit ends the waiting
            case _:
                self._trouble = None
                for waiting in asked:
                    if waiting.id in answer:
                        waiting.settle()
        now = self._clock.monotonic()
        for waiting in asked:
            if now >= waiting.deadline:
                waiting.settle(self._late())

    def _late(self) -> Transient:
        words = f"it took the events but did not acknowledge them within {self._limit:g} s"
        if self._trouble is None:
            return Transient(Response(words, 200))
        return Transient(Response(f"{words}; asked last, it {self._trouble.detail}", self._trouble.status))

    def _wake(self) -> None:
        asked, self._asked = self._asked, asyncio.Event()
        asked.set()


def _doubted(outcome: Delivered | Partial, doubt: Transient | Misconfigured) -> Outcome:
    """*outcome* where what it says was taken is not known to be indexed."""
    if isinstance(outcome, Partial) and outcome.rejected and isinstance(doubt, Transient):
        return replace(outcome, delivered=(), rest=doubt)
    return doubt
