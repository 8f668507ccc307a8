"""The report an auditor files."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from relay.konnect.peek import EventType
from relay.queue.fates import Fate
from relay.recovery.answers import ReplayState
from relay.recovery.healing import Replayed
from relay.recovery.keys import Key
from relay.recovery.page import html
from relay.recovery.reconciling import Listed, Outcome, Window
from relay.recovery.report import Circumstances, Healing, document, enveloped

EVIL = "<script>alert(1)</script>\u2028&"
ABOUT = Circumstances(
    made_at="2026-08-22T09:30:00.000Z",
    made_by="auditor@host",
    version="1.0",
    region="us",
    konnect="https://us.api.konghq.com",
    relay="http://127.0.0.1:8072",
    relay_version="1.0",
    replica="c0ffee",
    source="konnect-us",
    start="2026-08-21T00:00:00.000Z",
    end="2026-08-22T00:00:00.000Z",
    retained_from=None,
    discarded={"siem": 3},
)
KEY = Key(EventType.AUTHORIZATION, 1_750_000_000_000, "t", "o", "", "p", EVIL, "list", "true")
OUTCOME = Outcome(
    konnect=5,
    accepted=4,
    received=4,
    alike=0,
    missing=1,
    unproven=0,
    extra=0,
    portal=2,
    unreadable=0,
    kept_back=0,
    deleted_before=None,
    konnect_unreadable=0,
    destinations={"siem": {**dict.fromkeys(Fate, 0), Fate.DELIVERED: 3, Fate.FILTERED: 1}},
    extra_at={"siem": 0},
    organisations=("o",),
    listed_missing=(Listed(KEY, 1),),
    listed_extra=(),
    windows=(Window(1_750_000_000_000, 1_750_000_060_000, 1),),
)
HEALING = Healing(
    (Replayed(1.75e9, 1.75e9 + 60, 1, ReplayState.FAILED),),
    1,
    f"It failed: {EVIL}",
    ({"from": "2025-06-15T15:06:40.000Z", "to": EVIL, "entries": 2, "accepted": 1, "source": "us"},),
    f"Nor this: {EVIL}",
)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_page_runs_nothing_that_an_event_says() -> None:
    """Names and paths are chosen by callers; the one script element is data, and nothing is fetched."""
    tags = _Tags()
    tags.feed(html(document(ABOUT, OUTCOME, HEALING)))

    scripts = [attributes for tag, attributes in tags.seen if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "report"}]
    assert not [attributes for _, attributes in tags.seen if attributes.keys() & {"src", "href"}]


def test_the_page_holds_the_report_it_shows() -> None:
    """With the digest of just that."""
    report = document(ABOUT, OUTCOME, HEALING)
    page = html(report)

    found = re.search(r'id="report">(.*?)</script>', page)
    assert found is not None
    assert json.loads(found[1]) == report
    assert enveloped(report)["sha256"] in page


def test_the_digest_can_be_made_with_any_tool() -> None:
    """It is that of compact JSON with sorted keys."""
    envelope = enveloped(document(ABOUT, OUTCOME, HEALING))

    compact = json.dumps(envelope["report"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert envelope["sha256"] == hashlib.sha256(compact.encode()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "missing"),
        ({"missing": 0}, "complete"),
        ({"missing": 0, "unproven": 1}, "unproven"),
        ({"missing": 0, "konnect_unreadable": 1}, "unproven"),
        ({"missing": 0, "extra": 9}, "complete"),
    ],
)
def test_the_verdict_is_one_word(changes: dict[str, Any], verdict: str) -> None:
    """Only what is provably there is complete."""
    report = document(ABOUT, replace(OUTCOME, **changes), None)

    assert report["verdict"] == verdict
    assert f'class="verdict {verdict}"' in html(report)


def test_a_destinations_columns_add_up_to_konnects_events() -> None:
    """Received, filtered, dead-lettered, backlog and not owed, with what is missing."""
    report: Any = document(ABOUT, OUTCOME, None)
    (siem,) = report["destinations"]

    names = ("received", "missing", "unproven", "dead_lettered", "filtered", "backlog", "not_owed")
    assert sum(siem[name] for name in names) == report["totals"]["konnect"]
