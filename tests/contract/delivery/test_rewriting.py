"""Events in another format, and without what a destination must not see, from the log to the SIEM."""

from __future__ import annotations

import json

from relay.model import Reason
from relay.queue.base import DeadLetterFilter
from tests.contract.delivery.rig import Rig
from tests.fakes.chunks import sample
from tests.fakes.siem import Siem

UNREADABLE = b"no record at all"


async def test_another_format(rig: Rig, siem: Siem) -> None:
    """What arrives is the format asked for; books and bytes add up."""
    await rig.start(url=siem.url, format="json")
    await rig.append_lines(sample("cef"))
    await rig.drained()

    received = [json.loads(line) for line in siem.lines()]
    assert [each["sig"] for each in received] == [_sig(line) for line in sample("cef")]
    assert all(isinstance(each["trace_id"], str) for each in received)
    assert rig.books().delivered == len(received) == 28


async def test_a_line_that_cannot_be_read_goes_out_and_is_counted(rig: Rig, siem: Siem) -> None:
    """It is wrapped where the format is an object; an audit log is never refused for its looks."""
    await rig.start(url=siem.url, format="json")
    await rig.append_lines([sample("cef")[0], UNREADABLE])
    await rig.drained()

    first, second = (json.loads(line) for line in siem.lines())
    assert first["name"]
    assert second["message"] == UNREADABLE.decode()
    assert len(second["event_id"]) == 32
    assert (await _series(rig))['relay_unread_events_total{destination="siem"}'] == 1


async def test_redacted_fields_do_not_leave(rig: Rig, siem: Siem) -> None:
    """In the format as received too: dropped, masked or hashed, and marked."""
    line = sample("cef")[0]
    assert b" user_agent=" in line
    assert b" src=127.0.0.1 " in line
    how = {"fields": {"user_agent": "drop", "src": "mask", "principal_id": "hash"}, "key": "k"}
    await rig.start(url=siem.url, redact=how)
    await rig.append_lines([line])
    await rig.drained()

    (received,) = siem.lines()
    assert b"user_agent=" not in received
    assert b" src=*** " in received
    assert b" relay_redacted=user_agent,src,principal_id" in received
    assert received.endswith(line[line.rindex(b" sig=") :])
    principal = line.partition(b" principal_id=")[2].partition(b" ")[0]
    assert principal
    assert principal not in received


async def test_without_reading_it_nothing_is_let_out(rig: Rig, siem: Siem) -> None:
    """Where fields must not leave, a line that cannot be read becomes a dead letter, as it was received."""
    await rig.start(url=siem.url, redact=["user_agent"])
    sent = await rig.append_lines([sample("cef")[0], UNREADABLE, sample("cef")[1], UNREADABLE + b"!"])
    await rig.drained()

    assert len(siem.lines()) == 2
    assert not [line for line in siem.lines() if UNREADABLE in line]
    letters = await rig.dead_letters()
    assert [(one.reason, one.event and one.event.line) for one in letters] == [
        (Reason.UNCONVERTIBLE, sent[1]),
        (Reason.UNCONVERTIBLE, sent[3]),
    ]
    assert (rig.books().delivered, rig.books().dead) == (2, 2)


async def test_nothing_but_unreadable_lines(rig: Rig, siem: Siem) -> None:
    """No request is made for a chunk of which nothing may leave."""
    await rig.start(url=siem.url, redact=["src"])
    await rig.append_lines([UNREADABLE])
    await rig.drained()

    assert siem.requests == []
    assert rig.books().dead == 1


async def test_chunks_are_cut_by_what_goes_out(rig: Rig, siem: Siem) -> None:
    """ECS is several times as long as CEF: requests stay below the limit all the same."""
    await rig.start(url=siem.url, format="ecs", framing="ndjson", batch={"max_bytes": "16KiB"})
    await rig.append_lines(sample("cef") * 3)
    await rig.drained()

    assert all(len(request.body) <= 16 * 1024 for request in siem.requests)
    assert sum(len(request.lines()) for request in siem.requests) == 84


async def test_dead_letters_are_what_was_received(rig: Rig, siem: Siem) -> None:
    """A refused event is kept as Konnect sent it, so that another format can be tried on it."""
    siem.answer(400).then(200)
    await rig.start(url=siem.url, format="ocsf")
    sent = await rig.append_lines(sample("json")[:1])
    await rig.drained()

    (letter,) = await rig.dead_letters()
    assert letter.event is not None
    assert letter.event.line == sent[0]
    await rig.queue.redrive(DeadLetterFilter())
    await rig.until(lambda: rig.books().dead == 0)
    (received,) = siem.lines()
    assert json.loads(received)["raw_data"] == sent[0].decode()


async def test_destinations_that_want_the_same_share_the_work(rig: Rig, siem: Siem) -> None:
    """Five destinations that want JSON cost one conversion."""
    names = ["siem", "b", "c", "d", "e"]
    for name in names:
        await rig.start(name, url=siem.url, format="json")
    await rig.append_lines(sample("cef"))
    for name in names:
        await rig.until(lambda name=name: rig.books(name).backlog == 0)  # type: ignore[misc]

    assert len(rig.views._kept) == 1
    assert len(siem.lines()) == 5 * 28


def _sig(line: bytes) -> str:
    return line[line.rindex(b" sig=") + 5 :].decode()


async def _series(rig: Rig) -> dict[str, float]:
    text = (await rig.metrics.exposition()).decode()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines() if line[:1] != "#")
    }
