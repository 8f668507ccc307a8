"""What the answers to bulk requests mean."""

from __future__ import annotations

import orjson
import pytest

from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Partial,
    Rejected,
    Throttled,
    TooLarge,
    Transient,
)
from relay.destinations.bulk_answer import judge
from relay.destinations.classify import Reply
from relay.model import Reason

CREATED = {"create": {"status": 201}}


def item(status: int, kind: str = "some_exception", reason: str = "words", **more: object) -> object:
    return {"create": {"status": status, "error": {"type": kind, "reason": reason}, **more}}


def verdict(*items: object, errors: object = None, count: int | None = None) -> Outcome:
    """Judge an answer of these items to as many events."""
    failed = any(b'"error":' in orjson.dumps(said) for said in items) if errors is None else errors
    body = orjson.dumps({"took": 3, "errors": failed, "items": list(items)})
    return judge(Reply(200, body=body), len(items) if count is None else count, 0.0, max_answer=100_000)


def test_stored() -> None:
    """Created, indexed, and there before: in all three cases the event is stored."""
    outcome = verdict(CREATED, {"create": {"status": 200}}, item(409, "version_conflict_engine_exception"))

    assert isinstance(outcome, Delivered)
    assert outcome.response.detail == "answered 200 OK"


def test_failure_store() -> None:
    """A document diverted to the failure store is stored, and said to be."""
    outcome = verdict(CREATED, {"create": {"status": 201, "failure_store": "used"}})

    assert isinstance(outcome, Delivered)
    assert outcome.response.detail == "answered 200 OK: 1 of 2 events went to the failure store"


@pytest.mark.parametrize("status", ["failed", "not_enabled"])
def test_failure_store_that_did_not_help(status: str) -> None:
    """A refused document stays refused, with a word about the failure store."""
    outcome = verdict(CREATED, item(400, "document_parsing_exception", failure_store=status))

    assert isinstance(outcome, Partial)
    (refusal,) = outcome.rejected
    words = status.replace("_", " ")
    assert refusal.detail == f"400 document_parsing_exception: words (failure store: {words})"


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, "document_parsing_exception", Reason.REJECTED),
        (400, "mapper_parsing_exception", Reason.REJECTED),
        (400, "illegal_argument_exception", Reason.REJECTED),
        (422, "some_exception", Reason.REJECTED),
        (413, "some_exception", Reason.TOO_LARGE),
    ],
)
def test_refused_one_by_one(status: int, kind: str, reason: Reason) -> None:
    """A document that cannot be stored is refused by its place; the others are not touched by it."""
    outcome = verdict(CREATED, item(status, kind), CREATED)

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0, 2)
    assert [(r.index, r.reason) for r in outcome.rejected] == [(1, reason)]
    assert outcome.rest is None


def test_cause_and_length_of_a_reason() -> None:
    """What is behind a refusal is told, within bounds."""
    error = {"type": "document_parsing_exception", "reason": "failed", "caused_by": {"reason": "y" * 1000}}
    outcome = verdict({"create": {"status": 400, "error": error}})

    assert isinstance(outcome, Partial)
    (refusal,) = outcome.rejected
    assert refusal.detail.startswith("400 document_parsing_exception: failed: yyy")
    assert len(refusal.detail) < 400


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, Throttled),
        (408, Transient),
        (409, Transient),
        (500, Transient),
        (503, Transient),
        (502, Transient),
    ],
)
def test_later(status: int, expected: type[Throttled | Transient]) -> None:
    """Busy shards and queues: the others are done, these wait; alone they are the whole outcome."""
    partial = verdict(CREATED, item(status))
    whole = verdict(item(status), item(status))

    assert isinstance(partial, Partial)
    assert partial.delivered == (0,)
    assert type(partial.rest) is expected
    assert type(whole) is expected
    assert whole.response.detail == f"answered 200 OK: but for 2 of 2 events {status} some_exception: words"


def test_retry_after_with_items() -> None:
    """A wish to be left alone is obeyed for the items as well."""
    body = orjson.dumps({"errors": True, "items": [item(429)]})

    outcome = judge(Reply(200, "7", body), 1, 0.0)

    assert isinstance(outcome, Throttled)
    assert outcome.retry_after == 7.0


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (401, "security_exception", "unable to authenticate"),
        (403, "security_exception", "action is unauthorized"),
        (403, "cluster_block_exception", "index read-only"),
        (404, "index_not_found_exception", "no such index"),
        (400, "index_closed_exception", "closed"),
        (400, "invalid_index_name_exception", "must be lowercase"),
        (400, "validation_exception", "this action would add [2] shards"),
        (400, "illegal_argument_exception", "pipeline with id [kong] does not exist"),
        (400, "illegal_argument_exception", "no write index is defined for alias [audit]."),
        (
            400,
            "illegal_argument_exception",
            "only write ops with an op_type of create are allowed in data streams",
        ),
    ],
)
def test_setup(status: int, kind: str, reason: str) -> None:
    """Where index, pipeline or privileges are wrong no event is spent on it."""
    whole = verdict(item(status, kind, reason), item(status, kind, reason))
    mixed = verdict(CREATED, item(status, kind, reason))

    assert isinstance(whole, Misconfigured)
    assert reason in whole.response.detail
    assert isinstance(mixed, Partial)
    assert (mixed.delivered, mixed.rejected, mixed.rest) == ((0,), (), None)


def test_a_quoted_document_blames_nobody_else() -> None:
    """What a document holds cannot make its own refusal look like a wrong setup."""
    reason = "failed to parse field [x]. Preview of field's value: 'pipeline with id [a] does not exist'"
    outcome = verdict(item(400, "illegal_argument_exception", reason))

    assert isinstance(outcome, Partial)
    assert len(outcome.rejected) == 1


def test_setup_and_busy() -> None:
    """With nothing stored and nothing refused, a wrong setup is the graver trouble."""
    assert isinstance(verdict(item(429), item(403)), Misconfigured)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Log in</html>",
        b"[]",
        b"{}",
        b'{"errors":false}',
        b'{"items":[{"create":{"status":201}},{"create":{"status":201}}]}',
        b'{"errors":"false","items":[{"create":{"status":201}},{"create":{"status":201}}]}',
        b'{"errors":false,"items":{}}',
        b'{"errors":false,"items":[{"create":{"status":201}}]}',
        b'{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":201}},{"create":{"status":201}}]}',
        b'{"errors":false,"items":[{"create":{"status":201}},{"create":{}}]}',
        b'{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":"201"}}]}',
        b'{"errors":false,"items":[{"create":{"status":201}},{}]}',
        b'{"errors":false,"items":[{"create":{"status":201}},null]}',
        b'{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":20',
        b'{"errors":true,"items":[{"create":{"status":201}},{"create":{"status":201}}]}',
        b'{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":400}}]}',
    ],
)
def test_nothing_is_delivered_by_guess(body: bytes) -> None:
    """A 200 that is malformed, cut off, miscounted or at odds with itself holds the destination."""
    assert isinstance(judge(Reply(200, body=body), 2, 0.0), Misconfigured)


def test_answer_that_was_not_read_to_its_end() -> None:
    """It may have been a good one; a smaller chunk gets a shorter answer."""
    assert isinstance(judge(Reply(200, body=b"x" * 10), 2, 0.0, max_answer=10), TooLarge)


def test_odd_statuses_are_no_success() -> None:
    """An item with a status that no item has is sent again rather than believed."""
    assert isinstance(verdict({"create": {"status": 202}}), Transient)


@pytest.mark.parametrize(
    ("expected", "status", "kind", "reason"),
    [
        (Rejected, 400, "parse_exception", "malformed"),
        (Rejected, 400, "illegal_argument_exception", "Malformed action/metadata line [3]"),
        (
            Misconfigured,
            400,
            "illegal_argument_exception",
            "request [/x/_bulk] contains unrecognized parameter",
        ),
        (Misconfigured, 400, "invalid_index_name_exception", "must be lowercase"),
        (Misconfigured, 401, "security_exception", "missing authentication credentials"),
        (Misconfigured, 403, "security_exception", "unauthorized"),
        (Misconfigured, 404, "index_not_found_exception", "no such index"),
        (Misconfigured, 406, "media_type_header_exception", "Invalid media-type"),
        (TooLarge, 413, "content_too_long", "too long"),
        (Throttled, 429, "es_rejected_execution_exception", "queue full"),
        (Transient, 500, "exception", "x"),
        (Transient, 503, "cluster_block_exception", "no master"),
        (Misconfigured, 201, "", ""),
        (Misconfigured, 204, "", ""),
    ],
)
def test_the_whole_request(expected: type[Outcome], status: int, kind: str, reason: str) -> None:
    """They go by the common table, save a 400 that blames the setup; no other 2xx is a success."""
    body = orjson.dumps({"error": {"type": kind, "reason": reason}, "status": status})

    assert type(judge(Reply(status, body=body), 2, 0.0)) is expected
