"""The whole way to vendors that take a part of what they are sent: nothing missing, nothing twice."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from relay.model import DestinationState, Reason
from tests.contract.delivery.rig import Rig
from tests.fakes.events import lines
from tests.fakes.siem import Answer, Received, Siem
from tests.fakes.vendors import POISON, Cluster, Ingester

GOOD = lines(60)
BAD = [f"{POISON} {n}".encode() for n in range(3)]
MIXED = [*GOOD[:20], BAD[0], *GOOD[20:35], *BAD[1:], *GOOD[35:]]


@pytest.fixture(autouse=True)
async def nothing_crashed(rig: Rig) -> AsyncIterator[None]:
    """A bug in delivery is survived and logged, so that a test would not notice it otherwise."""
    yield
    await rig.stop()
    assert not [line for line in rig.log_lines() if b"delivery.crashed" in line]


async def test_elasticsearch_in_all_its_moods(rig: Rig, siem: Siem) -> None:
    """Busy shards, a lost answer and refused documents: each good event is one document in the end."""
    cluster = Cluster()
    siem.act(cluster.busy).act(cluster.loses_the_answer).then(cluster)
    await rig.start(type="elasticsearch", url=siem.base)
    await rig.append_lines(MIXED)
    assert await rig.waits(2) == [1, 2]
    await rig.drained()

    assert sorted(cluster.messages.values()) == sorted(line.decode() for line in GOOD)
    assert cluster.created == len(GOOD)
    letters = await rig.dead_letters()
    assert {letter.event.line for letter in letters if letter.event} == set(BAD)
    assert {(letter.reason, letter.detail) for letter in letters} == {
        (Reason.REJECTED, "400 document_parsing_exception: some words")
    }
    assert (rig.books().delivered, rig.books().dead) == (60, 3)


async def test_elasticsearch_with_a_wrong_pipeline(rig: Rig, siem: Siem) -> None:
    """A missing pipeline costs no event; once it is there all of them go through."""
    reason = "pipeline with id [kong] does not exist"
    item = {"create": {"status": 400, "error": {"type": "illegal_argument_exception", "reason": reason}}}
    cluster = Cluster()

    def without_the_pipeline(request: Received) -> Answer:
        count = len(request.lines()) // 2
        return Answer(200, orjson.dumps({"errors": True, "items": [item] * count}))

    siem.act(without_the_pipeline, times=2).then(cluster)
    worker = await rig.start(type="elasticsearch", url=siem.base, pipeline="kong")
    await rig.append_lines(GOOD)
    await rig.until(lambda: worker.state is DestinationState.HELD)
    assert await rig.waits(2) == [30, 30]
    await rig.drained()

    assert cluster.created == len(GOOD)
    assert rig.books().dead == 0


async def test_elasticsearch_gets_documents_of_the_common_schema(rig: Rig, siem: Siem) -> None:
    """With `format: ecs` what the relay writes is the document itself, with the line it comes from inside."""
    cluster = Cluster()
    siem.then(cluster)
    await rig.start(type="elasticsearch", url=siem.base, format="ecs")
    await rig.append_lines([*GOOD[:2], b"neither CEF nor JSON"])
    await rig.drained()

    documents = list(map(orjson.loads, siem.requests[0].lines()[1::2]))
    assert [document["event"]["original"].encode() for document in documents] == rig.sent
    assert all("ecs" in document for document in documents)
    assert cluster.created == 3


@pytest.mark.parametrize("mood", ["over_its_rate", "loses_the_answer"])
async def test_loki_keeps_a_part(rig: Rig, siem: Siem, mood: str) -> None:
    """What was kept of a failed push is pushed again, merged, and found once."""
    ingester = Ingester()
    siem.act(getattr(ingester, mood)).then(ingester)
    await rig.start(type="loki", url=siem.base)
    await rig.append_lines(MIXED)
    assert await rig.waits(1) == [1]
    await rig.drained()

    assert sorted(line for _, line in ingester.entries) == sorted(line.decode() for line in GOOD)
    assert ingester.pushed > len(GOOD)
    letters = await rig.dead_letters()
    assert {letter.event.line for letter in letters if letter.event} == set(BAD)
    assert (rig.books().delivered, rig.books().dead) == (60, 3)


async def test_loki_refuses_a_whole_chunk(rig: Rig, siem: Siem) -> None:
    """A chunk that is too old as a whole is set aside after one request."""
    siem.then(Ingester())
    await rig.start(type="loki", url=siem.base)
    await rig.append_lines([f"{POISON} {n}".encode() for n in range(100)])
    await rig.drained()

    assert len(siem.requests) == 1
    assert rig.books().dead == 100


async def test_datadog_is_not_sent_what_it_would_cut_short(rig: Rig, siem: Siem) -> None:
    """A log above 1 MB is a dead letter that says so, the others are delivered."""
    siem.then(202)
    await rig.start(type="datadog", url=siem.base, api_key="k")
    await rig.append_lines([GOOD[0], b"x" * 1_000_000, GOOD[1]])
    await rig.drained()

    assert [len(orjson.loads(request.body)) for request in siem.requests] == [2]
    (letter,) = await rig.dead_letters()
    assert letter.reason is Reason.TOO_LARGE
    assert letter.detail.endswith(" bytes, of which the destination keeps 1000000")
    assert (rig.books().delivered, rig.books().dead) == (2, 1)
