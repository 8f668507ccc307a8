"""The result of the signature check in what vendors get."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from relay.destinations import datadog, elasticsearch, newrelic
from relay.model import Event
from tests.fakes.chunks import chunk_of, sample


@pytest.mark.parametrize("line", [sample("cef")[0], sample("json")[0], b"no record"])
def test_in_the_field_of_each(line: bytes) -> None:
    """Where a check was made its result stands beside the event's id; else nothing is there."""
    (event,) = chunk_of([line]).events()

    for written, expected in ((replace(event, signature="verified"), "verified"), (event, None)):
        assert _of_elasticsearch(written) == _of_datadog(written) == _of_newrelic(written) == expected


def _of_elasticsearch(event: Event) -> object:
    return json.loads(elasticsearch.document(event, labels=b""))["kong"].get("signature")


def _of_datadog(event: Event) -> object:
    return json.loads(datadog.write(event, head=b"{"))["kong"].get("signature")


def _of_newrelic(event: Event) -> object:
    return json.loads(newrelic.write(event))["attributes"].get("kong.signature")
