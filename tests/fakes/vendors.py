"""Vendors' servers as far as their contracts go: what they keep, and what they say about it.

Each is a function of a request for `Siem.act` and `Siem.then`; its other methods are moods of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import orjson

from tests.fakes.siem import Answer, Received

POISON = "poison"  # a line that holds it is refused


class Cluster:
    """An index of Elasticsearch: documents by id, only ever created, each with a status of its own."""

    def __init__(self) -> None:
        self.messages: dict[str, str] = {}
        self.created = 0

    def __call__(self, request: Received) -> Answer:
        return self._answer(request, busy_from=None)

    def busy(self, request: Received) -> Answer:
        """Store half of the documents and have no room for the others."""
        return self._answer(request, busy_from=len(request.lines()) // 4)

    def loses_the_answer(self, request: Received) -> Answer:
        """Store everything, and break off while saying so."""
        return replace(self(request), cut_after=10)

    def _answer(self, request: Received, busy_from: int | None) -> Answer:
        texts = list(map(orjson.loads, request.lines()))
        pairs = zip(texts[::2], texts[1::2], strict=True)
        items = [
            {"create": _error(429, "es_rejected_execution_exception")}
            if busy_from is not None and n >= busy_from
            else {"create": self._create(action["create"]["_id"], document["message"])}
            for n, (action, document) in enumerate(pairs)
        ]
        errors = any("error" in item["create"] for item in items)
        return Answer(200, orjson.dumps({"errors": errors, "items": items}))

    def _create(self, document_id: str, message: str) -> Mapping[str, object]:
        if POISON in message:
            return _error(400, "document_parsing_exception")
        if document_id in self.messages:
            return _error(409, "version_conflict_engine_exception")
        self.messages[document_id] = message
        self.created += 1
        return {"status": 201}


def _error(status: int, kind: str) -> Mapping[str, object]:
    return {"status": status, "error": {"type": kind, "reason": "some words"}}


class Ingester:
    """A stream of Loki: entries by stamp and line; the valid ones of a refused push are kept."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []  # what a query finds: exact copies are merged
        self.pushed = 0

    def __call__(self, request: Received) -> Answer:
        refused = 0
        for stamp, line, _ in self._values(request):
            if POISON in line:
                refused += 1
                continue
            self.pushed += 1
            if (stamp, line) not in self.entries:
                self.entries.append((stamp, line))
        if not refused:
            return Answer(204)
        old = b"entry for stream '{job=\"konnect-audit\"}' has timestamp too old: x, oldest acceptable is: y"
        return Answer(400, old if refused == 1 else b"%d errors like: %b" % (refused, old))

    def over_its_rate(self, request: Received) -> Answer:
        """Keep what is valid and answer 429 all the same."""
        self(request)
        return Answer(429, b"Per stream rate limit exceeded")

    def loses_the_answer(self, request: Received) -> Answer:
        """Keep what is valid, and break off while saying so."""
        self(request)
        return Answer(200, b"x" * 20, cut_after=10)

    @staticmethod
    def _values(request: Received) -> list[tuple[str, str, object]]:
        (stream,) = orjson.loads(request.body)["streams"]
        return [tuple(value) for value in stream["values"]]
