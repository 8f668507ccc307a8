"""What was accepted and what became of it, as a stream."""

from __future__ import annotations

import sqlite3
from base64 import b64decode
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest

from relay.admin.times import rfc3339
from relay.config.destination import Filter
from relay.model import Reason
from tests.contract.admin.conftest import Admined
from tests.fakes.events import NOW, batch, cef, lines


def path(start: float = NOW - 3600, end: float = NOW + 3600, *, source: str | None = None) -> str:
    given = {"from": rfc3339(start), "to": rfc3339(end), **({"source": source} if source else {})}
    return "/api/v1/events?" + "&".join(f"{name}={quote(value)}" for name, value in given.items())


async def events(admin: Admined, *times: float, source: str | None = None) -> list[Any]:
    """The stream between its first and its last line."""
    header, *found, last = await documents(admin, *times, source=source)
    assert "version" in header
    assert last["events"] == len(found)
    return found


async def documents(admin: Admined, *times: float, source: str | None = None) -> list[Any]:
    answer: bytes = await admin.get(path(*times, source=source))
    assert answer.endswith(b"\n")
    return [orjson.loads(line) for line in answer.splitlines()]


@pytest.mark.parametrize(
    "query",
    ["", "from=yesterday&to=2026-08-22T09:30:00Z", "from=2026-08-22T09:30:00Z&to=2026-08-22T09:30:00Z"],
)
async def test_a_range_has_to_be_one(admin: Admined, query: str) -> None:
    """Without one, or with one that ends before it begins, nothing is read."""
    status, problem = await admin.ask("GET", f"/api/v1/events?{query}")

    assert status == 400 == problem["status"]


async def test_events_are_for_who_has_the_token(admin: Admined) -> None:
    """They are content."""
    status, _ = await admin.ask("GET", path(), Authorization="Bearer wrong")

    assert status == 401


async def test_a_process_that_only_accepts_cannot_tell(admin: Admined) -> None:
    """It does not see what the other one settles."""
    await admin.restart("ingest")

    assert (await admin.ask("GET", path()))[0] == 409


async def test_a_stream_that_breaks_off_shows_it(admin: Admined, tmp_path: Path) -> None:
    """Where the log cannot be read any more, the connection ends without the last line."""
    await admin.accept(5)
    with closing(sqlite3.connect(tmp_path / "relay.db")) as database:
        database.execute("ALTER TABLE batches RENAME TO gone")

    with pytest.raises(aiohttp.ClientError):
        await admin.get(path())


async def test_every_event_comes_with_its_fates(admin: Admined) -> None:
    """At each destination one of delivered, filtered, dead-lettered and backlog."""
    admin.control.filters["splunk"] = Filter(min_severity=6)
    await admin.accept(3)
    await admin.settle("sumo", delivered=1, dead=1)
    await admin.settle("splunk", delivered=0, filtered=3)

    found = await events(admin)

    assert [it["fates"] for it in found] == [
        {"splunk": "filtered", "sumo": "delivered"},
        {"splunk": "filtered", "sumo": "dead_lettered"},
        {"splunk": "filtered", "sumo": "backlog"},
    ]
    assert [it["line"].encode() for it in found] == lines(3)
    assert {it["source"] for it in found} == {"eu"}


async def test_what_is_no_proof_is_told(admin: Admined) -> None:
    """An event that a destination did not get for its signature, and whether the relay pulled it itself."""
    await admin.accept(3)
    await admin.settle("sumo", delivered=1, dead=1, reason=Reason.SIGNATURE)
    await admin.settle("splunk", delivered=2, dead=1)
    await admin.queue.append([replace(batch(lines(1, first=3)), pulled=True)])

    found = await events(admin)

    assert [it["kept_back"] for it in found] == [False, True, False, False]
    assert [it["pulled"] for it in found] == [False, False, False, True]


async def test_the_range_is_one_of_event_times(admin: Admined) -> None:
    """What happened in it counts, however late it came; its beginning belongs to it and its end does not."""
    admin.clock.jump(7200.0)
    await admin.accept(5)  # a millisecond apart

    found = await events(admin, NOW + 0.001, NOW + 0.004)

    assert [it["line"].encode() for it in found] == lines(5)[1:4]


async def test_one_source_can_be_asked_for(admin: Admined) -> None:
    """Those of the others are left out."""
    await admin.accept(1)
    await admin.accept(2, first=1, source="us")

    assert [it["source"] for it in await events(admin, source="us")] == ["us", "us"]


async def test_bytes_that_are_no_text_are_given_exactly(admin: Admined) -> None:
    """Beside their readable form."""
    line = cef(1) + b"\xff"
    await admin.queue.append([batch([line])])

    (found,) = await events(admin)

    assert b64decode(found["line_base64"]) == line


async def test_it_says_what_it_cannot_know(admin: Admined) -> None:
    """A log that still holds its first event has everything."""
    assert (await documents(admin))[-1] == {"events": 0, "retained_from": None}
    await admin.accept(1)
    assert (await documents(admin))[-1] == {"events": 1, "retained_from": None}


async def test_reading_events_leaves_a_trace(admin: Admined) -> None:
    """As every change does: it is content that was read."""
    await admin.get(path())

    assert [call.kwargs["path"] for call in admin.logged.calls] == ["/api/v1/events"]
