"""Replays that are signed anew, over several replicas, and beside relays that hash signatures, too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from relay.model import Receipt
from relay.queue.dedup.fingerprint import fingerprint
from relay.queue.dedup.opened import CONTENT_AFTER
from relay.queue.jetstream.fetch import Message
from relay.queue.jetstream.index import former_hashes, pack, to_header
from relay.queue.jetstream.link import Outgoing
from relay.queue.jetstream.message import BATCH, HASHES, decode
from tests.contract.jetstream.test_deduplicate import Accepting, Replicas, streams
from tests.fakes.events import NOW, batch
from tests.fakes.judging import Keys, Unchecked, forged
from tests.fakes.konnect import Maker
from tests.fakes.konnect.writing import line
from tests.fakes.nats import NatsServer

HOUR = 3600.0


@pytest.fixture
async def replicas(nats_server: NatsServer, prefix: str) -> AsyncIterator[Replicas]:
    async with streams(nats_server, prefix) as stack:
        yield Replicas(nats_server, prefix, stack)


@pytest.mark.parametrize("followed", [True, False])
@pytest.mark.parametrize("judge", [Unchecked, Keys])
async def test_another_replica_recognises_it(
    replicas: Replicas, judge: type[Unchecked | Keys], followed: bool
) -> None:
    """Whether it has followed what the first one accepted or starts with the log as it is."""
    one = await replicas.add("one")
    two = await replicas.add("two") if followed else None
    events = Maker().some(20, at=NOW)
    await one.append([batch([line(each, "cef", stamp=NOW) for each in events])])
    two = two or await replicas.add("two")
    await two.follow()
    two.dedup.judge_by(judge())

    again = [line(each, "cef", stamp=NOW + HOUR) for each in [*events[5:], *Maker().some(2, at=NOW + 1)]]
    request = [batch(again[:9], at=NOW + HOUR), batch(again[9:], at=NOW + HOUR)]
    assert Receipt(2, 15) == await two.append(request)


async def test_a_forgery_at_another_replica_hides_nothing(replicas: Replicas) -> None:
    """Who looks at signatures finds that the stored ones are bad, wherever they came in."""
    one, two = await replicas.add("one"), await replicas.add("two")
    two.dedup.judge_by(Keys())
    true = [line(each, "cef", stamp=NOW) for each in Maker().some(5, at=NOW)]
    await one.append([batch([forged(each) for each in true])])
    await two.follow()

    assert Receipt(5, 0) == await two.append([batch(true, at=NOW + HOUR)])


async def test_what_is_remembered_of_a_purged_batch(replicas: Replicas) -> None:
    """Names of what it said are enough where nobody looks, and no more than ids elsewhere."""
    one = await replicas.add("one")
    events = Maker().some(5, at=NOW)
    await one.append([batch([line(each, "cef", stamp=NOW) for each in events])])
    await one.purge()
    trusting, checking = await replicas.add("trusting"), await replicas.add("checking")
    trusting.dedup.judge_by(Unchecked())
    checking.dedup.judge_by(Keys())
    again = batch([line(each, "cef", stamp=NOW + HOUR) for each in events], at=NOW + HOUR)

    assert Receipt(0, 5) == await trusting.append([again])
    assert Receipt(5, 0) == await checking.append([again])


@pytest.mark.parametrize("purged", [False, True])
async def test_twins_that_come_to_two_replicas_are_two_events(replicas: Replicas, purged: bool) -> None:
    """Stored or remembered, wherever it was received: no replay comes that soon."""
    one, two = await replicas.add("one"), await replicas.add("two")
    two.dedup.judge_by(Unchecked())
    event = Maker().authorization(at=NOW)
    await one.append([batch([line(event, "cef", stamp=NOW)])])
    await two.follow()
    if purged:
        await one.purge()

    soon = [line(event, "cef", stamp=NOW + 1)]
    assert Receipt(1, 0) == await two.append([batch(soon, at=NOW + CONTENT_AFTER - 1)])
    replayed = [line(event, "cef", stamp=NOW + HOUR)]
    assert Receipt(0, 1) == await two.append([batch(replayed, at=NOW + HOUR)])


async def older(replica: Accepting, lines: list[bytes]) -> None:
    """As a relay stored a batch that hashed the ends of lines and said nothing of it."""
    request = batch(lines)
    async with replica.dedup.admit([request]) as admission:
        (message,) = admission.messages(replica.stream)
    about = orjson.loads(message.headers[BATCH])
    del about["hash"]
    hashes = to_header(pack(former_hashes(fingerprint(request))))
    headers = {**message.headers, BATCH: orjson.dumps(about).decode(), HASHES: hashes}
    await replica.link.publish(Outgoing(message.subject, message.payload, headers))


@pytest.mark.parametrize("when", ["before it started", "while it runs"])
async def test_a_batch_of_an_older_relay_is_recognised(replicas: Replicas, when: str) -> None:
    """Replicas are replaced one after the other: a retry that meets the new one is no new event."""
    old = await replicas.add("old")
    new = await replicas.add("new") if when == "while it runs" else None
    events = Maker().some(10, at=NOW)
    lines = [line(each, "cef", stamp=NOW) for each in events]
    await older(old, lines)
    new = new or await replicas.add("new")
    await new.follow()

    assert Receipt(1, 10) == await new.append(
        [batch([*lines, line(Maker().access(at=NOW), "cef", stamp=NOW)], at=NOW + 5)]
    )


async def test_hashes_say_of_which_kind_they_are(replicas: Replicas) -> None:
    """So that a relay knows when it has to compare both."""
    one = await replicas.add("one")
    await one.append([batch([line(each, "cef", stamp=NOW) for each in Maker().some(2, at=NOW)])])
    await older(one, [line(each, "cef", stamp=NOW) for each in Maker().some(2, at=NOW + 9)])

    stored: list[Message] = await one.stored()
    assert [decode(message).former for message in stored] == [False, True]
