"""`splunk_hec` with indexer acknowledgement: taken is not delivered, indexed is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from relay.destinations.base import (
    Delivered,
    Destination,
    Misconfigured,
    Outcome,
    Partial,
    Throttled,
    Transient,
)
from tests.contract.destinations.kit import NOW, Kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.clock import FakeClock
from tests.fakes.siem import Answer, Received
from tests.fakes.splunk import TOKEN, Splunk

LINES = sample("cef")[:3]
CHUNK = chunk_of(LINES)
OTHERS = [chunk_of([b"event %d" % n]) for n in range(5)]


class Scene:
    """A collector, a destination that sends to it, and a clock."""

    def __init__(self, splunk: Splunk, destination: Destination, clock: FakeClock) -> None:
        self.splunk = splunk
        self.destination = destination
        self.clock = clock

    async def question(self) -> list[int]:
        """Let the pause pass and the next question be asked; the ids it was for."""
        before = len(self.splunk.asked)
        assert await self.clock.next_wake() == 1.0
        await self.clock.advance(1.0)
        await self.splunk.has_been_asked(before + 1)
        return self.splunk.asked[before]


@asynccontextmanager
async def scene(splunk: Splunk | None = None, **settings: Any) -> AsyncIterator[Scene]:
    kind = Kind("splunk", "splunk_hec", {"token": TOKEN, "acknowledge": True, **settings}, path="")
    clock = FakeClock(NOW)
    async with splunk or Splunk() as splunk, opened(kind.config(splunk), clock) as destination:
        yield Scene(splunk, destination, clock)


async def test_an_answer_is_no_delivery() -> None:
    """The send lasts until the events are indexed, however often it has to ask."""
    async with scene() as on, asyncio.TaskGroup() as tasks:
        send = tasks.create_task(on.destination.send(CHUNK))
        asked = [await on.question() for _ in range(3)]
        assert not send.done()
        on.splunk.index()
        asked.append(await on.question())

        assert isinstance(await send, Delivered)

    assert asked == [[0]] * 4
    assert on.splunk.indexed == [line.decode() for line in LINES]
    assert len(on.splunk.posts) == 1


async def test_no_acknowledgement_in_time() -> None:
    """After the limit the events are to be sent again; the next send has a number of its own."""
    async with scene(ack_timeout="3s") as on, asyncio.TaskGroup() as tasks:
        send = tasks.create_task(on.destination.send(CHUNK))
        for _ in range(3):
            await on.question()
        outcome = await send

        again = tasks.create_task(on.destination.send(CHUNK))
        await on.splunk.has_taken(2)
        on.splunk.index()
        assert await on.question() == [1]
        assert isinstance(await again, Delivered)

    assert isinstance(outcome, Transient)
    assert outcome.response.status == 200
    assert outcome.response.detail == "it took the events but did not acknowledge them within 3 s"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(400, b'{"text":"ACK is disabled","code":14}'), "acknowledgement is off for this token"),
        (Answer(400, b'{"text":"Data channel is missing","code":10}'), "the data channel is missing"),
        (Answer(400, b"<html>"), "asked for acknowledgements, whatever the events"),
        (Answer(401, b'{"text":"Token is required","code":2}'), "it refuses our credentials"),
        (Answer(403), "it refuses our credentials"),
        (Answer(404), "it does not take events at this address"),
        (Answer(413), "asked for acknowledgements"),
        (Answer(200, b"<html>Log in</html>"), "this is not how acknowledgements are answered"),
        (Answer(200, b'{"acks":[true]}'), "this is not how acknowledgements are answered"),
        (Answer(200), "this is not how acknowledgements are answered"),
    ],
)
async def test_questions_refused(answer: Answer, expected: str) -> None:
    """Where asking will never work, the destination is held with plain words, before and after sending."""
    async with scene() as on, asyncio.TaskGroup() as tasks:
        on.splunk.act(answer)
        before = await on.destination.send(CHUNK)
        assert on.splunk.posts == []

        send = tasks.create_task(on.destination.send(CHUNK))
        await on.splunk.has_taken(1)
        on.splunk.act(answer)
        await on.clock.next_wake()
        await on.clock.advance(1.0)
        after = await send

    for outcome in (before, after):
        assert isinstance(outcome, Misconfigured)
        assert expected in outcome.response.detail


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_questions_not_answered_for_a_while(status: int) -> None:
    """A collector that is busy keeps its numbers: the events are not sent again for it."""
    async with scene() as on, asyncio.TaskGroup() as tasks:
        send = tasks.create_task(on.destination.send(CHUNK))
        await on.splunk.has_taken(1)
        on.splunk.answer(status).reset()
        for n in range(2):
            await on.clock.next_wake()
            await on.clock.advance(1.0)
            await on.splunk.received(3 + n)
        on.splunk.index()
        await on.question()

        assert isinstance(await send, Delivered)

    assert len(on.splunk.posts) == 1


async def test_questions_not_answered_in_time() -> None:
    """What the last question met with is in the outcome, and decides by `retry.on`."""
    async with scene(ack_timeout="2s") as on, asyncio.TaskGroup() as tasks:
        send = tasks.create_task(on.destination.send(CHUNK))
        await on.splunk.has_taken(1)
        on.splunk.answer(503, times=2)
        for n in range(2):
            await on.clock.next_wake()
            await on.clock.advance(1.0)
            await on.splunk.received(3 + n)
        outcome = await send

    assert isinstance(outcome, Transient)
    assert outcome.response.status == 503
    assert outcome.response.detail.endswith("asked last, it answered 503 Service Unavailable")


async def test_collector_away_before_the_first_event() -> None:
    """Where it cannot be known whether the token acknowledges, nothing is sent."""
    async with scene() as on:
        on.splunk.answer(503).answer(429, headers={"Retry-After": "7"})
        first = await on.destination.send(CHUNK)
        second = await on.destination.send(CHUNK)

    assert isinstance(first, Transient)
    assert isinstance(second, Throttled)
    assert second.retry_after == 7.0
    assert on.splunk.posts == []


async def test_token_without_acknowledgement() -> None:
    """Nothing is sent to a token that indexes without telling: while held, it would get probe after probe."""
    async with scene(Splunk(acknowledges=False)) as on:
        outcomes = [await on.destination.send(CHUNK) for _ in range(3)]
        report = await on.destination.probe()

    for outcome in outcomes:
        assert isinstance(outcome, Misconfigured)
        assert outcome.response.detail == (
            "answered 400 Bad Request: code 14, indexer acknowledgement is off for this token"
        )
    assert on.splunk.indexed == []
    assert not report.ok
    assert report.detail.startswith("acknowledgements: answered 400")


async def test_acknowledgement_turned_off_meanwhile() -> None:
    """A success without a number holds the destination, and the next try asks before it sends."""
    async with scene() as on, asyncio.TaskGroup() as tasks:
        send = tasks.create_task(on.destination.send(CHUNK))
        await on.splunk.has_taken(1)
        on.splunk.index()
        await on.question()
        await send

        on.splunk.acknowledges = False
        outcome = await on.destination.send(CHUNK)
        again = await on.destination.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert "turn indexer acknowledgement on for this token, or `ack" in outcome.response.detail
    assert isinstance(again, Misconfigured)
    assert len(on.splunk.posts) == 2


async def test_one_question_for_all() -> None:
    """Requests in flight are asked for together, and each ends with its own acknowledgement."""
    async with scene(max_in_flight=5) as on, asyncio.TaskGroup() as tasks:
        sends = [tasks.create_task(on.destination.send(chunk)) for chunk in OTHERS[:3]]
        await on.splunk.has_taken(3)
        on.splunk.index()
        late = tasks.create_task(on.destination.send(OTHERS[3]))
        await on.splunk.has_taken(1)
        await on.clock.asleep(1)
        asked = await on.question()
        assert [type(await send) for send in sends] == [Delivered] * 3
        assert not late.done()
        on.splunk.index()
        assert await on.question() == [3]
        assert isinstance(await late, Delivered)

    assert asked[:3] == [0, 1, 2]
    assert len({request.headers["X-Splunk-Request-Channel"] for request in on.splunk.requests}) == 1


async def test_who_asks_is_cancelled() -> None:
    """Another send that waits goes on asking; the cancelled one leaves nothing behind."""
    async with scene(max_in_flight=2) as on, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(on.destination.send(OTHERS[0]))
        await on.splunk.has_taken(1)
        await on.clock.asleep(1)
        second = tasks.create_task(on.destination.send(OTHERS[1]))
        await on.splunk.has_taken(2)
        await on.question()
        await on.clock.next_wake()
        first.cancel()
        on.splunk.index()

        assert await on.question() == [1]
        assert isinstance(await second, Delivered)
        assert on.clock.sleepers == 0


async def test_restarted_collector() -> None:
    """Numbers that begin anew tell that what was taken before is lost; it never passes for delivered."""
    async with scene(max_in_flight=3) as on, asyncio.TaskGroup() as tasks:
        sends = [tasks.create_task(on.destination.send(chunk)) for chunk in OTHERS[:2]]
        await on.splunk.has_taken(2)
        await on.question()
        on.splunk.crash()
        later = tasks.create_task(on.destination.send(OTHERS[2]))
        lost = [await sends[1]]
        on.splunk.index()
        assert await on.question() == [0]
        assert isinstance(await later, Delivered)
        lost.append(await sends[0])

    assert on.splunk.indexed == ["event 2"]
    for outcome in lost:
        assert isinstance(outcome, Transient)
        assert outcome.response.detail.startswith("it counts its acknowledgements anew")


@pytest.mark.parametrize("answered", [True, False])
async def test_acknowledged_before_it_was_answered(*, answered: bool) -> None:
    """What a restarted collector acknowledges for a request under way is not taken for an earlier one."""
    async with scene(max_in_flight=3, ack_timeout="2s") as on, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(on.destination.send(OTHERS[0]))
        await on.splunk.has_taken(1)
        await on.clock.asleep(1)
        on.splunk.crash()
        release = asyncio.Event()

        def late(request: Received) -> Answer:
            answer = on.splunk._serve(request)
            return replace(answer, after=release, cut_after=None if answered else 0)

        on.splunk.act(late)
        second = tasks.create_task(on.destination.send(OTHERS[1]))
        await on.splunk.has_taken(1)
        on.splunk.index()
        assert await on.question() == [0]
        assert not first.done()
        release.set()

        assert isinstance(await first, Transient)
        if answered:  # its acknowledgement was spent on the wrong question: sent again in time
            await on.question()
            await on.question()
        assert isinstance(await second, Transient)


async def test_the_same_number_twice() -> None:
    """Where two requests under way got one number, neither counts: nobody knows which one it is for."""
    async with scene(max_in_flight=2) as on, asyncio.TaskGroup() as tasks:
        on.splunk.answer(200, body=json.dumps({"acks": {}}))  # acknowledgement is on
        release = asyncio.Event()
        on.splunk.act(Answer(200, b'{"text":"Success","code":0,"ackId":0}', after=release), times=2)
        first = tasks.create_task(on.destination.send(OTHERS[0]))
        await on.splunk.received(2)
        second = tasks.create_task(on.destination.send(OTHERS[1]))
        await on.splunk.received(3)
        release.set()
        await on.clock.next_wake()
        await on.clock.advance(1.0)
        outcomes = [await first, await second]

    assert [type(outcome) for outcome in outcomes] == [Transient, Transient]


async def bad_event(on: Scene, answer: dict[str, Any] | None, *, indexed: bool) -> Outcome:
    """Send three events of which the last one is refused, with *answer* or as the collector does."""
    async with asyncio.TaskGroup() as tasks:
        on.splunk.answer(200, body=json.dumps({"acks": {}}))

        def serve(request: Received) -> Answer:
            if answer is not None:
                return Answer(400, json.dumps(answer).encode())
            cut = request.body[:-40]
            return on.splunk._serve(Received(request.method, request.path, request.headers, b"", cut))

        on.splunk.act(serve)
        send = tasks.create_task(on.destination.send(CHUNK))
        await on.splunk.received(2)
        if answer is None:
            await on.splunk.has_taken(1)
            if indexed:
                on.splunk.index()
            await on.question()
        return await send


async def test_partial_and_indexed() -> None:
    """The events before a bad one are delivered once they are indexed."""
    async with scene() as on:
        outcome = await bad_event(on, None, indexed=True)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0, 1)
    assert [each.index for each in outcome.rejected] == [2]
    assert len(on.splunk.indexed) == 2


async def test_partial_and_not_indexed() -> None:
    """If they are not, only the bad one is settled and the others wait their turn."""
    async with scene(ack_timeout="1s") as on:
        outcome = await bad_event(on, None, indexed=False)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == ()
    assert [each.index for each in outcome.rejected] == [2]
    assert isinstance(outcome.rest, Transient)


async def test_partial_without_a_number() -> None:
    """Without a number to ask by, the events before the bad one are sent again."""
    async with scene() as on:
        outcome = await bad_event(on, {"text": "", "code": 6, "invalid-event-number": 2}, indexed=False)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == ()
    assert [each.index for each in outcome.rejected] == [2]
    assert outcome.rest is None


async def test_wrong_index_without_a_number() -> None:
    """A wrong index is our setting; what came before it cannot be shown to be indexed."""
    async with scene() as on:
        outcome = await bad_event(on, {"text": "", "code": 7, "invalid-event-number": 3}, indexed=False)

    assert isinstance(outcome, Misconfigured)


async def test_refusals_are_not_waited_for() -> None:
    """An answer that takes nothing is what it is without acknowledgement."""
    async with scene() as on:
        on.splunk.answer(200, body=json.dumps({"acks": {}})).answer(503)
        outcome = await on.destination.send(CHUNK)

    assert isinstance(outcome, Transient)
    assert on.clock.sleepers == 0


async def test_each_process_has_a_channel_of_its_own() -> None:
    """Numbers of an earlier process or of another replica are never mistaken for ours."""
    async with Splunk() as splunk:
        splunk.at_once = True
        for _ in range(2):
            kind = Kind("splunk", "splunk_hec", {"token": TOKEN, "acknowledge": True}, path="")
            clock = FakeClock(NOW)
            async with opened(kind.config(splunk), clock) as destination, asyncio.TaskGroup() as tasks:
                send = tasks.create_task(destination.send(CHUNK))
                await clock.next_wake()
                await clock.advance(1.0)
                assert isinstance(await send, Delivered)

    assert len(splunk.channels) == 2


async def test_probe() -> None:
    """A probe proves the token and that it acknowledges, and spends no acknowledgement."""
    async with scene() as on:
        report = await on.destination.probe()

    assert report.ok
    assert on.splunk.asked == []
