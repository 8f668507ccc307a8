"""What people get to read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.destinations.messages import Message, pagerduty, slack, teams
from relay.model import Event
from tests.fakes.chunks import chunk_of, sample

DENIED = (
    b"2025-06-18T21:02:36Z konghq.com CEF:0|KongInc|Konnect|1.0|konnect|Authz.portals|6|rt=1750280466889 "
    b"src=203.0.113.7 action=list granted=false org_id=o principal_id=p1 actor_id= trace_id=1 "
    b"user_agent=curl sig=x"
)
LOCKED = (
    b'{"event_class_id":"AUTHENTICATION_TYPE_SSO","name":"AUTHENTICATION_OUTCOME_LOCKED","principal_id":"p2",'
    b'"principal_name":"Ann <ann@example.com>","rt":1750280466889,"severity":6,"src":"203.0.113.8",'
    b'"success":false}'
)


def events(*lines: bytes) -> list[Event]:
    return list(chunk_of(list(lines)).events())


WHEN = "2025-06-18T21:01:06Z"


def test_words() -> None:
    """One line for each event: when, what, who, from where, and the id to find it by."""
    message = Message.of(events(DENIED, LOCKED))

    assert message.headline == "Access denied (1), Login to a locked or disabled account (1)"
    first, second = message.lines
    assert first.startswith(f"{WHEN} Access denied: p1 from 203.0.113.7 Authz.portals list (konnect-us, id ")
    assert second.startswith(
        f"{WHEN} Login to a locked or disabled account: Ann <ann@example.com> from 203.0.113.8"
    )
    assert (message.more, message.severity) == (0, "error")


def test_a_flood_is_one_message() -> None:
    """The first twenty are listed and the rest is counted."""
    message = Message.of(events(*[DENIED] * 500))

    assert message.headline == "Access denied (500)"
    assert len(message.lines) == 20
    assert message.text(10_000).endswith("\n… and 480 more")


def test_the_same_chunk_is_the_same_message() -> None:
    """A pager that gets it twice knows it."""
    bodies = {pagerduty(events(DENIED), routing_key="k") for _ in range(2)}

    assert len(bodies) == 1


def test_slack() -> None:
    """Plain text in blocks; the notification text is escaped."""
    body = json.loads(slack(events(LOCKED)))

    assert body["text"] == "Login to a locked or disabled account (1)"
    assert {block["text"]["type"] for block in body["blocks"]} == {"plain_text"}
    assert "Ann <ann@example.com>" in body["blocks"][1]["text"]["text"]


def test_teams() -> None:
    """An adaptive card without a single element that would take Markdown."""
    body = json.loads(teams(events(LOCKED, DENIED)))

    (attachment,) = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert {element["type"] for element in attachment["content"]["body"]} == {"RichTextBlock"}


def test_pagerduty() -> None:
    """The routing key goes into the body, the id of the first event is what repetitions are known by."""
    chunk = events(LOCKED, DENIED)

    body = json.loads(pagerduty(chunk, routing_key="r0uting"))

    assert body["routing_key"] == "r0uting"
    assert body["dedup_key"] == chunk[0].id
    assert body["payload"]["severity"] == "error"
    assert body["payload"]["timestamp"] == "2025-06-18T21:01:06Z"
    assert len(body["payload"]["custom_details"]["events"]) == 2


@pytest.mark.parametrize("line", [b"no record at all \x1b[31m", b"\xff\xfe", *sample("edge_unproven")])
def test_any_line_makes_a_message(line: bytes) -> None:
    """One printable line each, whatever it holds."""
    chunk = events(line)
    bodies = (slack(chunk), teams(chunk), pagerduty(chunk, routing_key="k"))
    documents: list[Any] = [json.loads(body) for body in bodies]

    (text,) = documents[2]["payload"]["custom_details"]["events"]
    assert text.isprintable()


def test_long_values_are_cut() -> None:
    """A caller cannot fill a room with one request."""
    message = Message.of(events(DENIED.replace(b"src=203.0.113.7", b"src=" + b"9" * 5000)))

    assert len(message.text(10_000)) < 500
    text = json.loads(slack(events(*[DENIED.replace(b"p1", b"p" * 200)] * 100)))["blocks"][1]["text"]["text"]
    assert 2000 < len(text) <= 3000
    assert int(text.rpartition("… and ")[2].removesuffix(" more")) == 100 - text.count("\n")
