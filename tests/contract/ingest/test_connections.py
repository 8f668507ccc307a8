"""How connections live and end: slow senders, lost ones, many of them, and the end of the relay."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import Callable

import pytest

from tests.contract.ingest.conftest import TIME_LIMIT, Launch, Rig, Sender, head, source
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, lines
from tests.fakes.process import until

MIB = 1 << 20
BODY = b"".join(line + b"\n" for line in lines(3))


def held(rig: Rig) -> int:
    return rig.intake._intake._in_flight.used


def heads_arriving(rig: Rig) -> int:
    """Connections on which a request has begun whose head is not complete."""
    listening = rig.intake._listening
    assert listening is not None
    return sum(each.begun_at is not None for each in listening._listener._open())


# -- senders that do not finish


@pytest.mark.parametrize("sent", [b"", b"x", BODY[:-1]])
@pytest.mark.parametrize("leave", [Sender.abort, Sender.half_close], ids=["reset", "closed"])
async def test_a_half_sent_body_leaves_nothing(
    rig: Rig, sent: bytes, leave: Callable[[Sender], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A sender that leaves mid-body gets no answer, stores nothing, and holds no memory afterwards."""
    sender = await rig.sender()
    sender.write(head(len(BODY), fields="Expect: 100-continue\r\n"))
    await sender.answer()
    sender.write(sent)
    leave(sender)

    (entry,) = await rig.log.requests(1)

    assert entry["code"] is None
    assert await rig.stored() == []
    assert await rig.gap_causes() == []
    assert held(rig) == 0
    assert caplog.records == []


async def test_senders_that_vanish_at_any_moment_make_no_noise(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut anywhere, a request is either taken whole or not at all, and nothing is logged as an error."""
    request = head(len(BODY)) + BODY
    for cut in range(1, len(request) + 1, 16):
        sender = await rig.sender()
        sender.write(request[:cut])
        sender.abort()

    assert (await rig.post(BODY)).status == 200
    assert sorted(await rig.stored()) == sorted(lines(3))
    assert caplog.records == []


async def test_broken_chunks_end_the_connection(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A chunk whose size is no number cannot be followed: nothing of the body is stored."""
    sender = await rig.sender()
    sender.write(head(None) + b"5\r\nhello\r\nzz\r\nmore\r\n0\r\n\r\n")

    await sender.ended()

    assert await rig.stored() == []
    assert held(rig) == 0
    assert caplog.records == []


async def test_a_body_that_stalls_is_dropped(launch: Launch) -> None:
    """After `body_timeout` the connection ends without an answer, which Konnect retries, and a gap opens."""
    rig = await launch(body_timeout=0.1)
    sender = await rig.sender()
    sender.write(head(len(BODY)) + BODY[:10])

    assert await sender.ended() == b""
    assert (await rig.log.requests(1))[0]["code"] is None
    assert await rig.gap_causes() == ["timeout"]
    assert held(rig) == 0


@pytest.mark.parametrize("trickle", [b"", b"a"], ids=["stalled", "trickling"])
async def test_a_head_that_does_not_end_is_dropped(launch: Launch, trickle: bytes) -> None:
    """A request's head has `header_timeout` from its first byte, however often one more byte comes."""
    clock = FakeClock(NOW)
    rig = await launch(clock=clock, header_timeout=10.0)
    sender = await rig.sender()
    sender.write(b"POST /audit-logs/eu HTTP/1.1\r\nX-Slow: ")
    await until(lambda: heads_arriving(rig) == 1, TIME_LIMIT, "the first byte")
    ended = asyncio.ensure_future(sender.ended())
    for _ in range(9):
        await clock.advance(1.0)
        assert heads_arriving(rig) == 1
        sender.write(trickle)
    await clock.advance(1.0)

    assert await ended == b""


async def test_a_slow_head_within_the_limit_is_taken(launch: Launch) -> None:
    """A second request's head has its own time, from its own first byte."""
    clock = FakeClock(NOW)
    rig = await launch(clock=clock, header_timeout=10.0)
    sender = await rig.sender()
    for number in range(3):
        request = head(len(BODY), fields=f"X-Number: {number}\r\n") + BODY
        sender.write(request[:30])
        await clock.advance(8.0)
        sender.write(request[30:])
        assert (await sender.answer()).status == 200


# -- many connections


async def test_idle_connections_are_closed_in_time(launch: Launch) -> None:
    """100 idle connections disturb nobody and are closed after `keep_alive`."""
    rig = await launch(keep_alive=1.0)
    silent, used = [], []
    for _ in range(50):
        silent.append(await rig.sender())
        used.append(await rig.sender())
        assert (await used[-1].post(b"")).status == 200
    assert (await rig.post(BODY)).status == 200

    assert set(await asyncio.gather(*[sender.ended() for sender in silent + used])) == {b""}


async def test_a_connection_serves_one_request_after_another(rig: Rig) -> None:
    """Keep-alive is the rule, also after a refusal whose body was read."""
    sender = await rig.sender()

    codes = [
        (await sender.post(BODY)).status,
        (await sender.post(BODY, authorization="wrong")).status,
        (await sender.post(b"\x1f\x8bno")).status,
        (await sender.post(BODY, path="/")).status,
        (await sender.post(BODY)).status,
    ]

    assert codes == [200, 401, 400, 404, 200]


async def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    """Requests sent without waiting are taken one after another."""
    sender = await rig.sender()
    sender.write((head(len(BODY)) + BODY) * 2 + head(0, path="/nowhere"))

    answers = [await sender.answer() for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 404]
    assert json.loads(answers[1].body)["duplicates"] == 3


async def test_two_senders_at_once_lose_nothing(rig: Rig) -> None:
    """Batches of two sources that arrive together are all stored, each once."""

    async def send(path: str, authorization: str, first: int) -> None:
        sender = await rig.sender()
        for n in range(first, first + 50):
            body = b"".join(line + b"\n" for line in lines(20, first=20 * n))
            answer = await sender.post(gzip.compress(body), path=path, authorization=authorization)
            assert json.loads(answer.body) == {"accepted": 20, "duplicates": 0}

    await asyncio.gather(
        send("/audit-logs/eu", "Bearer s3cret", 0), send("/audit-logs/us", "Bearer us", 1000)
    )

    assert sorted(await rig.stored()) == sorted(lines(1000) + lines(1000, first=20_000))


async def test_a_thousand_tiny_requests_are_all_stored(rig: Rig) -> None:
    """One event a request is the worst case for overhead, not for correctness."""
    events = lines(1000)

    async def send(mine: list[bytes]) -> None:
        sender = await rig.sender()
        for event in mine:
            assert (await sender.post(event)).status == 200

    await asyncio.gather(*[send(events[n::20]) for n in range(20)])

    assert sorted(await rig.stored()) == sorted(events)


async def test_a_request_of_exactly_the_limit_is_stored(rig: Rig) -> None:
    """One request of 32 MiB is taken whole, in batches a reader can hold."""
    events = lines(32 * MIB // 400)
    body = b"".join(line + b"\n" for line in events)
    padded = body + b" " * (32 * MIB - len(body) - 1) + b"\n"
    assert len(padded) == 32 * MIB

    answer = await rig.post(padded)

    assert json.loads(answer.body) == {"accepted": len(events), "duplicates": 0}
    assert await rig.stored() == events


async def test_bombs_at_once_stay_within_bounded_memory(launch: Launch) -> None:
    """Twenty bombs at once take the memory of the few that are unpacked at a time, not twenty times 8 MiB."""
    rig = await launch(max_decoded_body=8 * MIB, max_in_flight_bytes=32 * MIB)
    raw = gzip.compress(bytes(100 * MIB), 9)
    tracemalloc.start()
    try:
        answers = await asyncio.gather(*[rig.post(raw) for _ in range(20)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [answer.status for answer in answers] == [413] * 20
    assert peak < 48 * MIB
    assert held(rig) == 0


async def test_what_bodies_decode_to_counts_against_the_memory(launch: Launch) -> None:
    """A body that was let in by its compressed size is refused where its content finds no room."""
    rig = await launch(max_in_flight_bytes=200_000, max_decoded_body=1 * MIB)
    slow = await rig.sender()
    slow.write(head(1_000, fields="Expect: 100-continue\r\n"))
    await slow.answer()
    raw = gzip.compress(b"".join(line + b"\n" for line in lines(1_000)))

    assert len(raw) < 100_000
    assert (await rig.post(raw)).status == 429
    assert await rig.stored() == []


# -- changes while running


async def test_a_reload_swaps_credentials_without_dropping_connections(rig: Rig) -> None:
    """The next request on an open connection is held to the new credentials."""
    sender = await rig.sender()
    assert (await sender.post(BODY)).status == 200

    rig.intake.reload([source("eu", "Bearer new")])

    assert (await sender.post(BODY)).status == 401
    assert (await sender.post(BODY, authorization="Bearer new")).status == 200
    assert (await sender.post(BODY, path="/audit-logs/us", authorization="Bearer us")).status == 404
    assert (await sender.post(BODY, path="/audit-logs", authorization="Bearer new")).status == 200


async def test_a_request_in_progress_outlives_its_source(rig: Rig) -> None:
    """A request that was admitted before a reload is finished as it began."""
    sender = await rig.sender()
    sender.write(head(len(BODY), fields="Expect: 100-continue\r\n"))
    await sender.answer()

    rig.intake.reload([source("us", "Bearer us")])
    sender.write(BODY)

    assert (await sender.answer()).status == 200


# -- the end


async def test_stopping_ends_idle_connections_and_the_port(rig: Rig) -> None:
    """Nothing waits for connections on which nothing happens."""
    idle = await rig.sender()
    await idle.post(BODY)
    port = rig.intake.port

    await rig.intake.stop(TIME_LIMIT)

    assert await idle.ended() == b""
    with pytest.raises(ConnectionRefusedError):
        await Sender.connect(port)


async def test_stopping_finishes_what_has_begun(rig: Rig) -> None:
    """A body still arriving is taken and answered, and the sender told not to come back."""
    sender = await rig.sender()
    sender.write(head(len(BODY), fields="Expect: 100-continue\r\n"))
    await sender.answer()
    stopping = asyncio.ensure_future(rig.intake.stop(TIME_LIMIT))
    await asyncio.sleep(0)
    sender.write(BODY)

    answer = await sender.answer()
    await stopping

    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await sender.ended() == b""
    assert await rig.stored() == lines(3)


async def test_stopping_waits_for_the_commit(rig: Rig) -> None:
    """A batch that is being committed is answered before the relay goes."""
    sender = await rig.sender()
    lock = rig.lock_database()
    sender.write(head(len(BODY), fields="Expect: 100-continue\r\n"))
    await sender.answer()
    sender.write(BODY)
    stopping = asyncio.ensure_future(rig.intake.stop(TIME_LIMIT))
    done, _ = await asyncio.wait([stopping], timeout=0.1)
    lock.close()

    assert not done
    assert (await sender.answer()).status == 200
    await stopping


async def test_stopping_cuts_off_what_does_not_end(rig: Rig) -> None:
    """After the grace a stalled request is cut off without an answer; nothing of it is stored."""
    sender = await rig.sender()
    sender.write(head(len(BODY), fields="Expect: 100-continue\r\n"))
    await sender.answer()

    async with asyncio.timeout(TIME_LIMIT):
        await rig.intake.stop(0.05)

    assert await sender.ended() == b""
    assert rig.log.named("ingest.cut_off")[0]["requests"] == 1
    assert (await rig.log.requests(1))[0]["code"] is None
    assert await rig.stored() == []


async def test_stopping_twice_is_stopping_once(rig: Rig) -> None:
    """A second stop finds nothing to do."""
    await rig.intake.stop(0.1)
    await rig.intake.stop(0.1)


async def test_an_answer_counts_what_its_receipt_says(rig: Rig) -> None:
    """Fresh and repeated events of one request are told apart."""
    await rig.post(b"".join(line + b"\n" for line in lines(2)))

    answer = await rig.post(BODY)

    assert json.loads(answer.body) == {"accepted": 1, "duplicates": 2}
    assert rig.queue.accepted() == {("eu", "cef"): 3}
