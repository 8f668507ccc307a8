"""Elasticsearch: bodies byte for byte, addresses, credentials, answers over the wire, probes."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from relay.destinations.base import Delivered, Misconfigured, Partial, Rejection, Throttled, TooLarge
from relay.model import Reason
from tests.contract.destinations.golden import MIXED, golden, row, sent_mixed
from tests.contract.destinations.kit import Kind, opened
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.siem import Answer, Received, Siem

KIND = row("elasticsearch")


def kind(**settings: object) -> Kind:
    return Kind("es", "elasticsearch", settings, path="")


async def test_body() -> None:
    """Every sort of line becomes an action and a document, exactly as agreed."""
    request = await sent_mixed("elasticsearch")

    assert request.body == golden("elasticsearch.ndjson")
    assert request.headers["Content-Type"] == "application/x-ndjson"
    assert request.headers["Authorization"] == "ApiKey encoded-key-0123"


async def test_documents_are_whole() -> None:
    """Read back, each document holds the event's id, its line, and its fields with exact numbers."""
    request = await sent_mixed("elasticsearch", labels={"team": "platform"})

    *texts, end = request.body.split(b"\n")
    actions, documents = list(map(orjson.loads, texts[::2])), list(map(orjson.loads, texts[1::2]))
    ids = [event.id for event in MIXED.events()]
    assert end == b""
    assert [action["create"]["_id"] for action in actions] == ids
    assert [document["event"] for document in documents] == [{"id": event_id} for event_id in ids]
    assert [document["message"] for document in documents] == [
        line.decode(errors="replace") for line in MIXED.lines()
    ]
    assert {document["labels"]["team"] for document in documents} == {"platform"}
    assert [document["kong"].get("audit", {}).get("trace_id") for document in documents] == [
        None,
        "3895213347334635099",
        "3895213347334635099",
        *[None] * 5,
        "18446744073709551616",
        None,
    ]


async def test_ids_of_the_cluster() -> None:
    """Without own ids the action names none."""
    request = await sent_mixed("elasticsearch", own_ids=False)

    assert set(request.body.split(b"\n")[:-1:2]) == {b'{"create":{}}'}


@pytest.mark.parametrize(
    ("path", "settings", "expected"),
    [
        ("", {}, "/logs-kong.audit-default/_bulk"),
        ("/", {"index": "audit"}, "/audit/_bulk"),
        ("/es%2Fproxy/", {"index": ".audit_1"}, "/es%2Fproxy/.audit_1/_bulk"),
    ],
)
async def test_address(path: str, settings: dict[str, object], expected: str) -> None:
    """The index goes below whatever path stands before it, and the answer is asked for in short."""
    config = kind(**settings)
    async with Siem() as siem, opened(config.config(siem, url=siem.base + path)) as destination:
        siem.then(KIND.take)
        await destination.send(MIXED)

    (request,) = siem.requests
    address, _, query = request.path.partition("?")
    assert address == expected
    assert query.startswith("filter_path=errors,error,status,items.*.status,")


async def test_pipeline() -> None:
    """An ingest pipeline is named in the address, where nothing in its name can break out."""
    request = await sent_mixed("elasticsearch", pipeline="kong&x=y")

    assert request.path.endswith("&pipeline=kong%26x%3Dy")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"bearer": "abc"}, "Bearer abc"),
        ({"basic": {"username": "relay", "password": "p:w"}}, "Basic cmVsYXk6cDp3"),
        ({"authorization": "Custom x"}, "Custom x"),
        ({"api_key": "abc"}, "ApiKey abc"),
    ],
)
async def test_credentials(settings: dict[str, object], expected: str | None) -> None:
    """Each way to authenticate becomes one header; a cluster without security takes none."""
    async with Siem() as siem, opened(kind(**settings).config(siem)) as destination:
        siem.then(KIND.take)
        await destination.send(MIXED)

    assert siem.requests[0].headers.getall("Authorization", [None]) == [expected]


async def test_large_documents_go_in_several_requests() -> None:
    """A request keeps to `batch.max_bytes` although documents are larger than lines."""
    chunk = chunk_of(sample("json")[:6])
    async with Siem() as siem, opened(KIND.config(siem, batch={"max_bytes": "3kB"})) as destination:
        siem.then(KIND.take)
        outcome = await destination.send(chunk)

    assert isinstance(outcome, Partial)
    assert 0 < len(outcome.delivered) < 6
    assert outcome.rest is None
    assert len(siem.requests[0].body) <= 3000


async def test_mixed_answer() -> None:
    """What is stored, refused, and to be sent again is told apart by the items' order."""
    items = [
        {"create": {"status": 201}},
        {"create": {"status": 400, "error": {"type": "document_parsing_exception", "reason": "[1:9] no"}}},
        {"create": {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "full"}}},
        {"create": {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "x"}}},
    ]
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.answer(body=orjson.dumps({"errors": True, "items": items}))
        outcome = await destination.send(chunk_of(sample("cef")[:4]))

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0, 3)
    assert outcome.rejected == (Rejection(1, Reason.REJECTED, "400 document_parsing_exception: [1:9] no"),)
    assert isinstance(outcome.rest, Throttled)


async def test_longest_answer() -> None:
    """An answer that refuses every event of a full batch in many words is read to its end."""
    error = {"type": "document_parsing_exception", "reason": "x" * 3000}
    lines = [b"%d" % n for n in range(1000)]
    body = orjson.dumps({"errors": True, "items": [{"create": {"status": 400, "error": error}}] * 1000})
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.answer(body=body)
        outcome = await destination.send(chunk_of(lines))

    assert isinstance(outcome, Partial)
    assert len(outcome.rejected) == 1000


async def test_answer_without_an_end() -> None:
    """An answer longer than anyone reads proves nothing; fewer events make a shorter one."""
    async with Siem() as siem, opened(KIND.config(siem, batch={"max_events": 10})) as destination:
        siem.answer(body=b'{"errors":false,"items":[' + b" " * 1_000_000)
        outcome = await destination.send(chunk_of([b"x"]))

    assert isinstance(outcome, TooLarge)


async def test_another_count() -> None:
    """An answer to another number of events than were sent is no success."""
    async with Siem() as siem, opened(KIND.config(siem)) as destination:
        siem.answer(body=b'{"errors":false,"items":[{"create":{"status":201}}]}').then(KIND.take)
        outcome = await destination.send(MIXED)
        again = await destination.send(MIXED)

    assert isinstance(outcome, Misconfigured)
    assert isinstance(again, Delivered)


def cluster(root: Answer, privileges: Answer, head: Answer) -> Callable[[Received], Answer]:
    """A cluster that answers the three questions of a probe."""

    def answer(request: Received) -> Answer:
        if request.path.endswith("/_has_privileges"):
            return privileges
        return head if request.method == "HEAD" else root

    return answer


ELASTIC = Answer(200, b'{"version":{"number":"9.1.0"},"tagline":"You Know, for Search"}')
OPEN = Answer(200, b'{"version":{"distribution":"opensearch","number":"2.19.1"}}')
NO_HANDLER = Answer(400, b'{"error":"no handler found for uri"}')
MAY = Answer(200, b'{"has_all_requested":true}')
MAY_NOT = Answer(200, b'{"has_all_requested":false}')


@pytest.mark.parametrize(
    ("root", "privileges", "head", "detail"),
    [
        (ELASTIC, MAY, 400, "Elasticsearch 9.1.0; these credentials may write to audit"),
        (Answer(403), MAY, 400, "reachable, version not told; these credentials may write to audit"),
        (OPEN, NO_HANDLER, 200, "OpenSearch 2.19.1; audit exists; may we write? not told"),
        (OPEN, NO_HANDLER, 404, "OpenSearch 2.19.1; audit does not exist yet; may we write? not told"),
        (OPEN, Answer(200, b"[]"), 403, "OpenSearch 2.19.1; may we write to audit? not told"),
    ],
)
async def test_probe(root: Answer, privileges: Answer, head: int, detail: str) -> None:
    """Product, version and permission are told as far as the cluster tells them, and no further."""
    async with Siem() as siem, opened(kind(index="audit").config(siem)) as destination:
        siem.then(cluster(root, privileges, Answer(head)))
        report = await destination.probe()

    assert report.ok
    assert report.detail == detail


@pytest.mark.parametrize(
    ("root", "privileges", "head", "detail"),
    [
        (ELASTIC, MAY_NOT, 200, "Elasticsearch 9.1.0; these credentials lack `create_doc` on audit"),
        (Answer(403), Answer(403), 403, "answered 403 Forbidden: it refuses our credentials"),
        (Answer(401), MAY, 200, "answered 401 Unauthorized: it refuses our credentials"),
        (
            Answer(200, b"<html>"),
            MAY,
            200,
            "answered 200 OK, but this is neither Elasticsearch nor OpenSearch",
        ),
    ],
)
async def test_probe_finds_a_fault(root: Answer, privileges: Answer, head: int, detail: str) -> None:
    """Wrong credentials, a missing privilege and a wrong address are told apart."""
    async with Siem() as siem, opened(kind(index="audit").config(siem)) as destination:
        siem.then(cluster(root, privileges, Answer(head)))
        report = await destination.probe()

    assert not report.ok
    assert report.detail == detail
