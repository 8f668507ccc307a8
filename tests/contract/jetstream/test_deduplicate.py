"""Two replicas on one log accept no event twice, except within the moment they need to follow each other."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import pairwise
from random import Random
from types import FrameType

import nats
import pytest

from relay import gzipped
from relay.errors import QueueError
from relay.konnect.content import content_names
from relay.konnect.lines import event_ids, identity
from relay.model import Batch, Receipt
from relay.queue.dedup import opened
from relay.queue.jetstream import search
from relay.queue.jetstream.bucket import Bucket
from relay.queue.jetstream.by_sequence import Message, get
from relay.queue.jetstream.deduplicate import Admission, Deduplicator
from relay.queue.jetstream.fetch import scan
from relay.queue.jetstream.link import DUPLICATE_IN_BATCH, ApiError, Link
from relay.queue.jetstream.message import decode
from tests.fakes import events
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW, batch, restamped
from tests.fakes.nats import NatsServer

HOUR = 3600.0
WEEK = 7 * 86400.0
LIMIT = 40.0
SIGNATURE = b" sig=" + b"A" * 200  # as long as Konnect's, so that the line's end tells events apart


def cef(number: int, *, at: float = NOW) -> bytes:
    """An event that can be judged in memory, as Konnect's can; others are always searched for."""
    return events.cef(number, at=at) + SIGNATURE + b"%08d" % number


def lines(count: int, *, first: int = 0, at: float = NOW) -> list[bytes]:
    """Different events, a millisecond apart."""
    return [cef(n, at=at + n / 1000) for n in range(first, first + count)]


class Accepting:
    """A replica as far as accepting goes. It follows the others when it is told to."""

    def __init__(self, link: Link, prefix: str, name: str, purged: dict[str, int]) -> None:
        self.link = link
        self.stream = prefix
        self.name = name
        self.clock = FakeClock(NOW)
        self.bucket = Bucket(link, f"{prefix}-state")
        self.dedup = Deduplicator(link, prefix, self.bucket, replica=name, clock=self.clock)
        self.followed = 0
        self.purged = purged  # the newest event time of each source in what was purged, as the ledger has it

    async def start(self, window: float | None = WEEK) -> None:
        """With the ledger as it is now, like a replica that was started anew."""
        newest = self.purged.copy()
        async for message in scan(self.link, self.stream, headers_only=True):
            meta = decode(message)
            newest[meta.source] = max(meta.newest, newest.get(meta.source, 0))
            self.followed = message.seq
        self.dedup.start(newest)
        self.dedup.set_sources({"eu": window, "us": window})

    async def follow(self) -> None:
        async for message in scan(self.link, self.stream, start=self.followed + 1, headers_only=True):
            self.followed = message.seq
            meta = decode(message)
            if meta.replica != self.name:
                self.dedup.foreign(meta)

    async def append(self, batches: Sequence[Batch]) -> Receipt:
        async with self.dedup.admit(batches) as admission:
            await self.publish(admission)
        return Receipt(admission.accepted, admission.duplicates)

    async def publish(self, admission: Admission) -> None:
        while True:
            messages = admission.messages(self.stream)
            try:
                if len(messages) == 1:
                    ack = await self.link.publish(messages[0])
                else:
                    ack = await self.link.publish_together(messages)
            except ApiError as error:
                if error.err_code != DUPLICATE_IN_BATCH:
                    raise
                admission.recognised()
                continue
            if not ack.duplicate:
                admission.published(ack.seq)
                return
            admission.recognised()

    async def stored(self) -> list[Message]:
        return [message async for message in scan(self.link, self.stream)]

    async def ids(self) -> list[str]:
        """The ids of all events in the log."""
        found: list[str] = []
        for message in await self.stored():
            if message.payload:
                meta = decode(message)
                found += event_ids(gzipped.decompress(message.payload).splitlines(), meta.ordinals)
        return found

    async def purge(self) -> None:
        """As the janitor does: everything, after its ids were kept."""
        messages = await self.stored()
        for message in messages:
            await self.dedup.remember(message)
            meta = decode(message)
            self.purged[meta.source] = max(meta.newest, self.purged.get(meta.source, 0))
        await self.link.api(f"STREAM.PURGE.{self.stream}")


@asynccontextmanager
async def streams(server: NatsServer, prefix: str) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        common = {
            "storage": "memory",
            "discard": "new",
            "allow_direct": True,
            "allow_atomic": True,
            "allow_msg_ttl": True,
        }
        log = {"name": prefix, "subjects": [f"{prefix}.events.>"], "duplicate_window": 120_000_000_000}
        name = f"{prefix}-state"
        state = {"name": f"KV_{name}", "subjects": [f"$KV.{name}.>"], "max_msgs_per_subject": 1}
        for config in (log, state):
            assert "error" not in await server.api(f"STREAM.CREATE.{config['name']}", {**config, **common})
            stack.push_async_callback(server.api, f"STREAM.DELETE.{config['name']}")
        yield stack


@pytest.fixture
async def replicas(nats_server: NatsServer, prefix: str) -> AsyncIterator[Replicas]:
    async with streams(nats_server, prefix) as stack:
        yield Replicas(nats_server, prefix, stack)


class Replicas:
    """Makes replicas, each with a connection of its own."""

    def __init__(self, server: NatsServer, prefix: str, stack: AsyncExitStack) -> None:
        self._server = server
        self._prefix = prefix
        self._stack = stack
        self._purged: dict[str, int] = {}

    async def add(self, name: str, *, window: float | None = WEEK) -> Accepting:
        client = await nats.connect(self._server.url, allow_reconnect=False)
        link = await Link.open(client)
        self._stack.push_async_callback(link.close)
        replica = Accepting(link, self._prefix, name, self._purged)
        await replica.start(window)
        return replica


async def test_what_another_replica_accepted_is_recognised(replicas: Replicas) -> None:
    """A retry that reaches the other replica is stored nothing of, and counted."""
    one, two = await replicas.add("one"), await replicas.add("two")
    await one.append([batch(lines(10))])
    await two.follow()

    assert Receipt(1, 9) == await two.append([batch([*lines(10)[1:], cef(99)], at=NOW + 5)])
    assert [decode(message).duplicates for message in await one.stored()] == [0, 9]


async def test_a_request_of_nothing_but_duplicates_leaves_a_marker(replicas: Replicas) -> None:
    """The log counts duplicates, too; a marker is never taken for events."""
    one = await replicas.add("one")
    await one.append([batch(lines(10))])

    assert Receipt(0, 10) == await one.append([batch(lines(10))])
    assert Receipt(0, 10) == await one.append([batch(lines(10))])
    assert [(meta.count, meta.duplicates) for meta in map(decode, await one.stored())] == [
        (10, 0),
        (0, 10),
        (0, 10),
    ]


async def test_a_replica_that_starts_anew_recognises_what_was_there(replicas: Replicas) -> None:
    """Nothing is in memory; times make the request suspicious, and the log is searched."""
    one = await replicas.add("one")
    for n in range(20):
        await one.append([batch(lines(10, first=10 * n, at=NOW + n), at=NOW + n)])
    again = await replicas.add("again")

    seen = [line for n in range(20) for line in lines(10, first=10 * n, at=NOW + n)]
    replayed = [restamped(line) for line in [*seen[3:50:7], cef(999, at=NOW + 3), *seen[120:130]]]

    assert Receipt(1, 17) == await again.append([batch(replayed, at=NOW + HOUR)])


async def test_two_replicas_and_the_same_body_at_the_same_time(replicas: Replicas) -> None:
    """Neither has heard of the other's: the server tells by the message id."""
    one, two = await replicas.add("one"), await replicas.add("two")

    receipts = await asyncio.gather(*[each.append([batch(lines(10))]) for each in (one, two)])

    assert {Receipt(10, 0), Receipt(0, 10)} == set(receipts)
    assert len(await one.ids()) == 10


async def test_two_replicas_and_the_same_large_body_at_the_same_time(replicas: Replicas) -> None:
    """A request of several messages is stored once as a whole."""
    one, two = await replicas.add("one"), await replicas.add("two")
    request = [batch(lines(5)), batch(lines(5, first=5))]

    receipts = await asyncio.gather(*[each.append(request) for each in (one, two)])

    assert {Receipt(10, 0), Receipt(0, 10)} == set(receipts)
    assert len(await one.ids()) == 10


async def test_the_same_body_after_the_window_is_new(replicas: Replicas) -> None:
    """However soon the server gets it, its word for a duplicate is only asked for within the window."""
    one, two = await replicas.add("one", window=HOUR), await replicas.add("two", window=HOUR)
    await one.append([batch(lines(10))])

    assert Receipt(10, 0) == await two.append([batch(lines(10), at=NOW + HOUR + 1)])


async def test_the_window_counts_from_when_an_event_was_received(replicas: Replicas) -> None:
    """What the log still holds from before it does not make an event a duplicate."""
    one = await replicas.add("one", window=HOUR)
    await one.append([batch(lines(10))])

    within = await one.append([batch(lines(10), at=NOW + HOUR - 1)])
    beyond = await one.append([batch(lines(11), at=NOW + HOUR + 1)])

    assert [Receipt(0, 10), Receipt(11, 0)] == [within, beyond]


async def test_what_is_new_needs_no_look_at_the_log(replicas: Replicas) -> None:
    """Live traffic waits for nothing but its own acknowledgement; without a server only it is admitted."""
    one = await replicas.add("one")
    await one.append([batch(lines(10))])
    await one.link.close()

    for number in (5, 50):  # in the same second as the others, and after them
        async with one.dedup.admit([batch([cef(100 + number, at=NOW + number / 1000)])]) as admission:
            assert admission.accepted == 1
    with pytest.raises(QueueError):
        await one.append([batch(lines(1))])


async def test_a_server_may_lag_behind(replicas: Replicas) -> None:
    """What this replica has just stored or followed counts, whether the server it asks has it or not."""
    one, two = await replicas.add("one"), await replicas.add("two")
    async with one.dedup.admit([batch(lines(5)), batch(lines(5, first=5))]) as admission:
        messages = admission.messages(one.stream)
        elsewhere = f"{one.stream}.events.late.0.0"
        last = (await one.link.publish_together([replace(each, subject=elsewhere) for each in messages])).seq
        admission.published(last)
    for seq, message in enumerate(messages, last - 1):
        two.dedup.foreign(decode(Message(seq, message.subject, message.headers, b"")))

    assert Receipt(1, 9) == await one.append([batch(lines(10, first=1))])
    assert Receipt(0, 9) == await two.append([batch(lines(9, first=1), at=NOW + 1)])


async def test_a_request_waits_for_one_that_is_alike(replicas: Replicas) -> None:
    """While the first is on its way nobody knows whether it will be stored."""
    one = await replicas.add("one")
    async with one.dedup.admit([batch(lines(10))]) as first:
        second = asyncio.create_task(one.append([batch(lines(12))]))
        third = asyncio.create_task(one.append([batch(lines(14))]))
        other = await one.append([batch(lines(3, first=50))])
        assert not second.done()
        await one.publish(first)

    assert Receipt(3, 0) == other
    async with asyncio.timeout(LIMIT):
        assert [Receipt(2, 10), Receipt(2, 12)] == [await second, await third]


@pytest.mark.parametrize("was_stored", [False, True])
async def test_a_request_that_failed_hides_nothing(replicas: Replicas, was_stored: bool) -> None:
    """Without an acknowledgement only the log knows, so the log is asked."""
    one = await replicas.add("one")

    async def fail() -> None:
        async with one.dedup.admit([batch(lines(10))]) as admission:
            if was_stored:
                await one.link.publish(admission.messages(one.stream)[0])
            raise QueueError("no acknowledgement")

    with pytest.raises(QueueError):
        await fail()

    assert await one.append([batch(lines(12))]) == (Receipt(2, 10) if was_stored else Receipt(12, 0))


async def test_a_request_that_is_given_up_lets_the_next_one_go(replicas: Replicas) -> None:
    """A client that hangs up while its request waits does not hold up those behind it."""
    one = await replicas.add("one")
    async with one.dedup.admit([batch(lines(10))]) as first:
        second = asyncio.create_task(one.append([batch(lines(12))]))
        third = asyncio.create_task(one.append([batch(lines(14))]))
        await one.append([batch(lines(3, first=50))])
        second.cancel()
        await one.publish(first)

    async with asyncio.timeout(LIMIT):
        assert await third == Receipt(4, 10)
    assert second.cancelled()


async def test_what_was_purged_is_still_recognised(replicas: Replicas) -> None:
    """Retention shorter than the window: the ids outlive the events, for every replica."""
    one = await replicas.add("one")
    twins = [cef(1), cef(2), cef(1), b"without a time"]
    await one.append([batch(twins)])
    await one.purge()
    two = await replicas.add("two")

    assert Receipt(1, 4) == await two.append([batch([*twins, cef(3)], at=NOW + HOUR)])
    assert Receipt(1, 2) == await two.append([batch([cef(1)] * 3, at=NOW + HOUR)])


async def test_ids_of_purged_events_are_kept_as_long_as_the_window(replicas: Replicas) -> None:
    """The server drops them by itself; what is beyond the window is not kept at all."""
    one = await replicas.add("one", window=HOUR)
    await one.append([batch(lines(2))])
    await one.append([batch(lines(2, first=10, at=NOW + 1000), at=NOW + 1000)])
    await one.clock.advance(HOUR + 1)
    await one.purge()

    (kept,) = [entry async for entry in one.bucket.entries("seen.eu")]

    assert kept.headers["Nats-TTL"] == "999s"
    assert Receipt(2, 0) == await one.append([batch(lines(2), at=NOW + HOUR + 1)])


async def test_a_batch_that_is_broken_hides_nothing(replicas: Replicas) -> None:
    """Its events cannot be known, so they are accepted again; its ids are not kept."""
    one = await replicas.add("one")
    async with one.dedup.admit([batch(lines(3))]) as admission:
        (message,) = admission.messages(one.stream)
        broken = replace(message, payload=message.payload[:-9] + os.urandom(9))
        admission.published((await one.link.publish(broken)).seq)

    assert Receipt(3, 0) == await one.append([batch(lines(3), at=NOW + WEEK / 2)])
    stored = await get(one.link, one.stream, 1)
    assert stored is not None
    await one.dedup.remember(stored)
    assert [entry async for entry in one.bucket.entries("seen")] == []


async def test_foreign_messages_do_not_disturb_the_search(replicas: Replicas) -> None:
    """Whoever else writes under our subjects is no batch."""
    one = await replicas.add("one")
    await one.append([batch(lines(3))])
    (message,) = await one.stored()
    await one.link.client.publish(message.subject, b"hello", headers={"Relay-Batch": "{}"})
    await one.link.client.publish(f"$KV.{one.stream}-state.seen.eu.13.{int(NOW * 1000) >> 13}.9", b"odd")
    await one.link.client.flush()
    two = Accepting(one.link, one.stream, "two", {})
    two.dedup.start({"eu": 1 << 41})
    two.dedup.set_sources({"eu": WEEK})

    assert Receipt(1, 3) == await two.append([batch([*lines(3), cef(9)])])


async def test_a_search_over_hours_needs_several_consumers(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events far apart are under very many subjects, which are asked for in portions."""
    monkeypatch.setattr(search, "_FILTERS", 16)
    monkeypatch.setattr(opened, "_EVENTS", 50)
    one = await replicas.add("one")
    for n in range(40):
        at = NOW + 300 * n
        await one.append([batch(lines(5, first=10 * n, at=at), at=at)])
    two = await replicas.add("two")

    scattered = [cef(10 * n + 2, at=NOW + 300 * n + (10 * n + 2) / 1000) for n in range(40)]

    assert Receipt(1, 40) == await two.append([batch([*scattered, cef(5)], at=NOW + 12_000)])


async def test_a_source_without_deduplication_pays_and_finds_nothing(replicas: Replicas) -> None:
    """Every event is stored, without hashes and without an id for the server to compare."""
    one = await replicas.add("one", window=None)

    assert [Receipt(3, 0)] * 2 == [await one.append([batch(lines(3))]) for _ in range(2)]
    assert [list(message.headers) for message in await one.stored()] == [["Relay-Batch"]] * 2


async def test_deduplication_that_was_off_elsewhere(replicas: Replicas) -> None:
    """Batches another replica stored without an index are neither found nor mistaken."""
    one, two = await replicas.add("one"), await replicas.add("two", window=None)
    await two.append([batch(lines(3))])
    await one.follow()

    assert Receipt(3, 0) == await one.append([batch(lines(3))])


async def test_a_source_nobody_made_known_is_refused(replicas: Replicas) -> None:
    """A bug of ours, said in a sentence."""
    one = await replicas.add("one")

    with pytest.raises(QueueError, match="source called ap"):
        await one.append([batch(lines(1), source="ap")])


async def test_a_source_that_is_made_known_later(replicas: Replicas) -> None:
    """What other replicas accepted for it before counts."""
    one, two = await replicas.add("one"), await replicas.add("two")
    one.dedup.set_sources({"ap": WEEK})
    await one.append([batch(lines(3), source="ap")])
    await two.follow()
    two.dedup.set_sources({"ap": WEEK, "eu": HOUR})

    assert Receipt(1, 2) == await two.append([batch([*lines(2), cef(9)], source="ap", at=NOW + 5)])


async def test_twins_of_which_some_are_known(replicas: Replicas) -> None:
    """The others keep the ordinals they had, so that ids stay unique and are recognised again."""
    one = await replicas.add("one")
    receipts = [await one.append([batch([cef(1)] * n, at=NOW + n)]) for n in (2, 5, 4, 6)]

    assert [Receipt(2, 0), Receipt(3, 2), Receipt(0, 4), Receipt(1, 5)] == receipts
    (name,) = event_ids([cef(1)])
    assert [name, *[f"{name}-{n}" for n in range(1, 6)]] == await one.ids()


async def test_twins_in_two_messages_keep_their_ordinals(replicas: Replicas) -> None:
    """Wherever a request is cut, in batches or around an event without a time."""
    one, two = await replicas.add("one"), await replicas.add("two")
    request = [batch([cef(1), b"odd", cef(1), b"odd"]), batch([cef(1), b"odd"])]

    assert Receipt(6, 0) == await one.append(request)
    await two.follow()
    assert Receipt(0, 6) == await two.append([batch([line for each in request for line in each.lines])])
    names = await one.ids()
    assert len(set(names)) == 6
    first = event_ids([cef(1), b"odd"])
    assert {f"{name}{tail}" for name in first for tail in ("", "-1", "-2")} == set(names)


@pytest.mark.parametrize("seed", range(4))
async def test_like_a_plain_set(replicas: Replicas, seed: int) -> None:
    """Whatever comes to whichever replica: accepted is what no replica had accepted before."""
    rng = Random(seed)
    nodes = [await replicas.add("one"), await replicas.add("two")]
    odd = [b"without a time %d" % n for n in range(5)]
    pool = [cef(n, at=NOW + rng.choice((0, n / 10, 60 * n, -3600 * n))) for n in range(150)] + odd
    known: set[str] = set()
    for step in range(80):
        which = rng.randrange(2)
        match rng.randrange(20):
            case 0:
                await nodes[which].purge()
            case 1:
                nodes[which] = await replicas.add(f"anew-{step}")
            case _:
                start, count = rng.randrange(len(pool)), rng.randrange(1, 20)
                some = rng.sample(pool, count) if rng.random() < 0.3 else pool[start : start + count]
                cuts = sorted({0, rng.randrange(len(some)), len(some)})
                request = [batch(some[a:b], at=NOW + step) for a, b in pairwise(cuts)]
                names = set(event_ids(some))
                for node in nodes:
                    await node.follow()
                receipt = await nodes[which].append(request)
                assert receipt == Receipt(len(names - known), len(names & known))
                known |= names


@contextmanager
def named_here() -> Iterator[list[str]]:
    """What this thread calls to name events and to make their batches anew, while it lasts."""
    slow = {each.__code__ for each in (event_ids, content_names, identity, gzipped.compress)}
    calls: list[str] = []

    def called(frame: FrameType, event: str, argument: object) -> None:
        del argument
        if event == "call" and frame.f_code in slow:
            calls.append(frame.f_code.co_name)

    sys.setprofile(called)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("purged", [False, True])
async def test_events_of_large_requests_are_named_in_a_thread(replicas: Replicas, purged: bool) -> None:
    """Those that came and those they are compared with: the event loop has others to serve."""
    one = await replicas.add("one")
    first = lines(9_000, at=NOW - 60)
    await one.append([batch(first[:3_000]), batch(first[3_000:6_000]), batch(first[6_000:])])
    again = [batch([*first[:4_500], *lines(10)]), batch(first[4_500:])]

    with named_here() as calls:
        if purged:
            await one.purge()
        assert Receipt(10, 9_000) == await one.append(again)

    assert not calls


async def test_large_requests_that_are_alike_wait_for_each_other(replicas: Replicas) -> None:
    """Also while their events are being named: each event is stored once, whichever request had it first."""
    one = await replicas.add("one")
    first = lines(9_000, at=NOW - 60)
    await one.append([batch(first[:3_000])])

    receipts = await asyncio.gather(
        one.append([batch(first[2_000:5_000]), batch(first[5_000:7_000])]),
        one.append([batch(first[2_500:5_500]), batch(first[5_500:8_000])]),
        one.append([batch(first[2_000:4_000]), batch(first[4_000:9_000])]),
    )

    assert sum(receipt.accepted for receipt in receipts) == 6_000
    assert sorted(await one.ids()) == sorted(event_ids(first))
