"""Signatures from the log to the SIEM: tagged, quarantined, without keys, with keys that come later."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from relay.konnect.jwks import Keyring, parse_jwks
from relay.konnect.pulled import line_of
from relay.model import Reason
from relay.queue.base import DeadLetterFilter
from relay.signing.keeper import AFTER_FAILURE, WITHOUT_KEYS
from tests.contract.delivery.rig import TIME_LIMIT, Rig
from tests.fakes.chunks import sample
from tests.fakes.events import cef
from tests.fakes.keys import KeyServer
from tests.fakes.siem import Siem
from tests.fakes.signing import JWKS_FILE, TEST, Signer, another

A, B = another(1), another(2)


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with KeyServer(A) as server:
        yield server


def signed(signer: Signer, *numbers: int) -> list[bytes]:
    return [signer.cef(cef(number)) for number in numbers]


def mixed() -> list[bytes]:
    """One of each result that quarantine keeps back, between good ones."""
    good = signed(TEST, 0, 1, 2, 3)
    return [
        good[0],
        good[1].replace(b"granted=true", b"granted=false"),
        good[2],
        cef(9),
        good[3],
        good[0][:-1],
    ]


def tags(siem: Siem) -> list[str]:
    return [json.loads(line)["kong"].get("signature") for line in siem.lines()]


async def counted(rig: Rig, source: str = "eu") -> Counter[str]:
    text = (await rig.metrics.exposition()).decode()
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("relay_signatures_total{") and f'source="{source}"' in line:
            name = line.partition('result="')[2].partition('"')[0]
            found[name] = int(float(line.rpartition(" ")[2]))
    return +found


# Off


async def test_off_changes_nothing(rig: Rig, siem: Siem) -> None:
    """No key is read, nothing is counted, and what goes out is what came in."""
    await rig.check_signatures(mode="off")
    await rig.start(url=siem.url)
    sent = await rig.append_lines(mixed())
    await rig.drained()

    assert siem.lines() == sent
    assert await counted(rig) == {}
    assert rig.checker.status("eu") is None


# Tag


async def test_tag(rig: Rig, siem: Siem) -> None:
    """Everything arrives, each event with its result; what went out as received is byte for byte that."""
    await rig.check_signatures(mode="tag", jwks=str(JWKS_FILE))
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    sent = await rig.append_lines(mixed())
    await rig.drained()

    assert tags(siem) == ["verified", "failed", "verified", "absent", "verified", "malformed"]
    assert [json.loads(line)["event"]["original"].encode() for line in siem.lines()] == sent
    assert rig.books().dead == 0
    assert await counted(rig) == {"verified": 3, "failed": 1, "absent": 1, "malformed": 1}


async def test_other_sources_are_left_alone(rig: Rig, siem: Siem) -> None:
    """The section is a source's own."""
    await rig.check_signatures("us", mode="quarantine", jwks=str(JWKS_FILE))
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    await rig.append_lines(mixed(), source="eu")
    await rig.drained()

    assert tags(siem) == [None] * 6
    assert await counted(rig) == await counted(rig, "us") == {}


async def test_an_event_is_counted_once(rig: Rig, siem: Siem) -> None:
    """However many destinations want it, and when; a replay of it is none of its own."""
    await rig.check_signatures(mode="tag", jwks=str(JWKS_FILE))
    await rig.start(url=siem.url)
    await rig.start("other", url=siem.url, format="json", filter={"min_severity": 10})
    for name in ("cef", "json", "cps"):
        await rig.append_lines(sample(name))
    await rig.drained()
    await rig.drained("other")
    assert await counted(rig) == {"verified": 84}

    await rig.queue.replay("siem", 0.0, rig.clock.now() + 1, None)
    await rig.until(lambda: rig.books().replayed == 84)
    assert await counted(rig) == {"verified": 84}
    status = rig.checker.status("eu")
    assert status is not None
    assert status.rules == {"cef": "C1", "json": "J1", "cps": "P1"}
    assert sum(status.results.values()) == 84


async def test_a_large_batch_is_checked_in_pieces(rig: Rig, siem: Siem) -> None:
    """Results stay with their events."""
    await rig.check_signatures(mode="tag", jwks=str(JWKS_FILE))
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    lines = [cef(n) if n % 7 == 0 else TEST.cef(cef(n)) for n in range(300)]
    await rig.append_lines(lines)
    await rig.drained()

    assert tags(siem) == ["absent" if n % 7 == 0 else "verified" for n in range(300)]


class Meeting:
    """A public key that each of two threads first uses when the other one does, too."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public = public
        self._met = threading.Barrier(2, timeout=20)
        self._seen = threading.local()

    def verify(self, signature: bytes, data: bytes) -> None:
        if not hasattr(self._seen, "once"):
            self._seen.once = True
            self._met.wait()
        self._public.verify(signature, data)


async def test_small_batches_are_checked_together(rig: Rig, siem: Siem) -> None:
    """One alone would keep one thread busy, or none but the event loop's."""
    key = parse_jwks(JWKS_FILE.read_bytes())[0]
    object.__setattr__(key, "public", Meeting(key.public))
    await rig.check_signatures(mode="tag", jwks=str(JWKS_FILE))
    rig.checker._desks["eu"].keeper.ring = Keyring((key,))
    for number in range(20):
        await rig.append_lines(signed(TEST, 2 * number, 2 * number + 1))
    await rig.start(url=siem.url, format="ecs", framing="ndjson", start_from="earliest")
    await rig.until(lambda: len(siem.lines()) == 40)

    assert tags(siem) == ["verified"] * 40


class Watched:
    """A public key that tells when it was used so many times."""

    def __init__(self, public: Ed25519PublicKey, times: int) -> None:
        self._public = public
        self._left = times
        self.used = threading.Event()

    def verify(self, signature: bytes, data: bytes) -> None:
        self._public.verify(signature, data)
        self._left -= 1
        if not self._left:
            self.used.set()


async def watch(rig: Rig, *, mode: str, times: int) -> Watched:
    """Check signatures with such a key."""
    key = parse_jwks(JWKS_FILE.read_bytes())[0]
    watched = Watched(key.public, times)
    object.__setattr__(key, "public", watched)
    await rig.check_signatures(mode=mode, jwks=str(JWKS_FILE))
    rig.checker._desks["eu"].keeper.ring = Keyring((key,))
    return watched


async def test_the_next_events_are_checked_while_a_request_is_in_the_air(rig: Rig, siem: Siem) -> None:
    """Both take long. What comes after that has to wait: memory is not for all of the log."""
    watched = await watch(rig, mode="tag", times=20)
    answer = asyncio.Event()
    siem.answer(after=answer)
    for number in range(0, 50, 10):
        await rig.append_lines(signed(TEST, *range(number, number + 10)))
    await rig.start(url=siem.url, batch={"max_events": 10}, start_from="earliest")
    await siem.received(1)

    assert await asyncio.to_thread(watched.used.wait, TIME_LIMIT)
    async with asyncio.timeout(TIME_LIMIT):
        while await counted(rig) != {"verified": 20}:  # told by the thread before the event loop has it
            await rig.queue.ping()
    answer.set()
    await rig.until(lambda: len(siem.lines()) == 50)
    assert siem.lines() == rig.sent


@pytest.mark.parametrize("status", [503, 401])
async def test_what_was_read_ahead_comes_after_what_is_sent_again(rig: Rig, siem: Siem, status: int) -> None:
    """After a retry, and after a hold, which forgets it; also where a filter left something out of it."""
    watched = await watch(rig, mode="tag", times=20)
    refusal = asyncio.Event()
    siem.answer(status, after=refusal)
    wanted: list[bytes] = []
    for number in range(0, 50, 10):
        severe = [cef(n).replace(b"portals|1|", b"portals|6|") for n in range(number, number + 9)]
        wanted += [TEST.cef(line) for line in severe]
        await rig.append_lines([*wanted[-9:], *signed(TEST, number + 9)])
    batch, severe_only = {"max_events": 9}, {"min_severity": 6}
    await rig.start(url=siem.url, start_from="earliest", batch=batch, filter=severe_only)
    await siem.received(1)
    assert await asyncio.to_thread(watched.used.wait, TIME_LIMIT)
    refusal.set()
    await rig.waits(1)
    await rig.until(lambda: rig.books().backlog == 0)

    assert siem.lines() == wanted
    assert (rig.books().delivered, rig.books().filtered, rig.books().dead) == (45, 5, 0)


async def test_tag_never_waits_for_keys(rig: Rig, siem: Siem, server: KeyServer) -> None:
    """While there are none, that is what events are tagged with."""
    await server.stop()
    await rig.check_signatures(mode="tag", jwks=server.url)
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    await rig.append_lines(signed(A, 1))
    await rig.drained()
    await server.start()
    await rig.clock.advance(WITHOUT_KEYS)
    await rig.append_lines(signed(A, 2))
    await rig.drained()

    assert tags(siem) == ["no_key", "verified"]


async def test_a_new_key_is_found_by_the_events_it_signed(rig: Rig, siem: Siem, server: KeyServer) -> None:
    """Nothing in an event names its key: one that fails makes the relay look, and it is checked again."""
    await rig.check_signatures(mode="quarantine", jwks=server.url)
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    await rig.append_lines(signed(A, 1))
    await rig.drained()
    server.publish(B)
    await rig.clock.advance(AFTER_FAILURE)
    await rig.append_lines([*signed(B, 2), *signed(A, 3)])
    await rig.drained()

    assert tags(siem) == ["verified"] * 3
    assert await counted(rig) == {"verified": 3}
    assert len(server.asked) == 2


async def test_forged_events_do_not_make_us_ask_again_and_again(
    rig: Rig, siem: Siem, server: KeyServer
) -> None:
    """A flood of them costs Konnect one request in five minutes."""
    await rig.check_signatures(mode="tag", jwks=server.url)
    await rig.start(url=siem.url)
    for number in range(20):
        await rig.append_lines(signed(B, number))
        await rig.drained()
    assert len(server.asked) == 1


# Quarantine


@pytest.mark.parametrize("settings", [{}, {"format": "json"}, {"redact": ["user_agent"]}])
async def test_quarantine(rig: Rig, siem: Siem, settings: dict[str, Any]) -> None:
    """What does not verify is kept with the reason, at each destination; the others go their way."""
    await rig.check_signatures(mode="quarantine", jwks=str(JWKS_FILE))
    await rig.start(url=siem.url, **settings)
    sent = await rig.append_lines(mixed())
    await rig.drained()

    assert len(siem.lines()) == 3
    letters = await rig.dead_letters()
    assert [(one.reason, one.event and one.event.line, one.detail) for one in letters] == [
        (Reason.SIGNATURE, sent[1], "no known key signed this line"),
        (Reason.SIGNATURE, sent[3], "it carries no signature"),
        (Reason.SIGNATURE, sent[5], "what stands in place of its signature is none"),
    ]
    books = rig.books()
    assert (books.delivered, books.dead, books.dead_by_reason) == (3, 3, {Reason.SIGNATURE: 3})


async def test_a_signature_and_a_redaction_that_both_fail(rig: Rig, siem: Siem) -> None:
    """The signature is the reason: it says more, and what was not signed need not be readable."""
    await rig.check_signatures(mode="quarantine", jwks=str(JWKS_FILE))
    await rig.start(url=siem.url, redact=["src"])
    await rig.append_lines([b"no record at all"])
    await rig.drained()

    (letter,) = await rig.dead_letters()
    assert letter.reason is Reason.SIGNATURE
    assert siem.requests == []


async def test_filtered_events_are_not_quarantined(rig: Rig, siem: Siem) -> None:
    """What a destination does not want is no dead letter of its."""
    await rig.check_signatures(mode="quarantine", jwks=str(JWKS_FILE))
    await rig.start(url=siem.url, filter={"min_severity": 6})
    await rig.append_lines([cef(1), *signed(TEST, 2)])
    await rig.drained()
    assert (rig.books().filtered, rig.books().dead) == (2, 0)


async def test_a_redriven_letter_arrives_with_its_result(rig: Rig, siem: Siem) -> None:
    """Whoever redrives it wants it to arrive: it is checked again and told, not kept back again."""
    await rig.check_signatures(mode="quarantine", jwks=str(JWKS_FILE))
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    await rig.append_lines(mixed())
    await rig.drained()
    before = await counted(rig)
    await rig.queue.redrive(DeadLetterFilter(reason=Reason.SIGNATURE))
    await rig.until(lambda: rig.books().dead == 0)

    assert sorted(tags(siem)) == ["absent", "failed", "malformed", *["verified"] * 3]
    assert await counted(rig) == before


async def test_a_letter_that_a_new_key_clears(rig: Rig, siem: Siem, server: KeyServer) -> None:
    """Quarantined because the key was not known yet; redriven later it verifies."""
    await rig.check_signatures(mode="quarantine", jwks=server.url)
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    await rig.append_lines(signed(B, 1))
    await rig.drained()
    assert rig.books().dead == 1

    server.publish(A, B)
    await rig.clock.advance(AFTER_FAILURE)
    await rig.queue.redrive(DeadLetterFilter())
    await rig.until(lambda: rig.books().dead == 0)
    assert tags(siem) == ["verified"]


async def test_without_keys_quarantine_waits(rig: Rig, siem: Siem, server: KeyServer) -> None:
    """Nothing unchecked gets out and nothing becomes a dead letter; other sources before it are sent."""
    await server.stop()
    await rig.check_signatures(mode="quarantine", jwks=server.url)
    await rig.start(url=siem.url)
    before = await rig.append(3, source="us")
    waiting = await rig.append_lines([*signed(A, 101), cef(102)])
    await rig.until(lambda: len(siem.lines()) == 3)
    assert await rig.waits(3) == [1.0] * 3

    assert (siem.lines(), rig.books().backlog, rig.books().dead) == (before, 2, 0)
    assert rig.log_stream.getvalue().count(b"signatures.keys_failed") == 1
    await server.start()
    await rig.waits(int(WITHOUT_KEYS) - 3)
    await rig.drained()
    assert siem.lines() == [*before, waiting[0]]
    assert rig.books().dead == 1


# Pulled


def entries(*numbers: int, signer: Signer | None = None) -> list[bytes]:
    """Lines of pulled entries, signed over the entry where there is a *signer*."""
    found = []
    for number in numbers:
        entry: dict[str, object] = {
            "type": "authorization",
            "ts": "2026-11-18T10:26:40Z",
            "trace_id": str(number),
        }
        if signer is not None:
            entry["signature"] = signer.text(json.dumps(entry, separators=(",", ":")).encode()).decode()
        found.append(line_of(entry))
    return found


@pytest.mark.parametrize("mode", ["tag", "quarantine"])
async def test_what_the_relay_pulled_is_never_kept_back(rig: Rig, siem: Siem, mode: str) -> None:
    """It came from Konnect's own API. Its result is what could be found of its signature, and no alarm."""
    await rig.check_signatures(mode=mode, jwks=str(JWKS_FILE))
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    await rig.append_lines([*entries(1, signer=TEST), *entries(2, signer=A), *entries(3)], pulled=True)
    await rig.drained()

    assert tags(siem) == ["verified", "absent", "absent"]
    assert rig.books().dead == 0
    assert await counted(rig) == {"verified": 1, "absent": 2}
    status = rig.checker.status("eu")
    assert status is not None
    assert status.rules == {"pulled": "S1"}


@pytest.mark.parametrize("mode", ["tag", "quarantine"])
async def test_a_line_that_claims_to_be_pulled_has_no_privilege(rig: Rig, siem: Siem, mode: str) -> None:
    """Whoever has the webhook's secret can send it. What a key signed is genuine, whoever brings it."""
    await rig.check_signatures(mode=mode, jwks=str(JWKS_FILE))
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    forged = [*entries(2, signer=A), *entries(3), b'{"relay_pulled":true,"granted":true}']
    await rig.append_lines([*entries(1, signer=TEST), *forged])
    await rig.drained()

    if mode == "tag":
        assert tags(siem) == ["verified", "absent", "absent", "absent"]
    else:
        assert tags(siem) == ["verified"]
        assert [one.event and one.event.line for one in await rig.dead_letters()] == forged


async def test_what_was_pulled_waits_for_no_key(rig: Rig, siem: Siem, server: KeyServer) -> None:
    """No key could keep it back. What lies behind it, sent by somebody, waits."""
    await server.stop()
    await rig.check_signatures(mode="quarantine", jwks=server.url)
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    await rig.append_lines([*entries(1, signer=A), *entries(2)], pulled=True)
    await rig.append_lines(entries(3, signer=A))
    await rig.until(lambda: len(siem.lines()) == 2)

    assert tags(siem) == ["no_key", "absent"]
    assert rig.books().backlog == 1


async def test_pulled_events_sent_again(rig: Rig, siem: Siem) -> None:
    """As a redriven dead letter, in a replay, and to a destination that comes later, also after a restart."""
    await rig.check_signatures(mode="quarantine", jwks=str(JWKS_FILE))
    siem.answer(400)
    await rig.start(url=siem.url, format="ecs", framing="ndjson")
    await rig.append_lines(entries(1), pulled=True)
    await rig.drained()
    (letter,) = await rig.dead_letters()
    assert letter.reason is Reason.REJECTED
    await rig.queue.redrive(DeadLetterFilter())
    await rig.until(lambda: rig.books().dead == 0)
    assert tags(siem) == ["absent"]

    await rig.queue.replay("siem", 0.0, rig.clock.now() + 1, None)
    await rig.until(lambda: rig.books().replayed == 1)
    await rig.stop()
    rig.restart_process()
    await rig.restart_queue()
    await rig.check_signatures(mode="quarantine", jwks=str(JWKS_FILE))
    await rig.start("late", url=siem.url, format="ecs", framing="ndjson", start_from="earliest")
    await rig.drained("late")
    assert tags(siem) == ["absent"] * 3
    assert (rig.books("siem").dead, rig.books("late").dead) == (0, 0)


# Without keys, and across restarts


async def test_a_wait_for_keys_can_be_stopped(rig: Rig, siem: Siem, server: KeyServer) -> None:
    """At once; and with the next start the events are there."""
    await server.stop()
    await rig.check_signatures(mode="quarantine", jwks=server.url)
    await rig.start(url=siem.url)
    await rig.append_lines(signed(A, 1, 2))
    await rig.clock.next_wake()
    await rig.stop()
    assert rig.books().backlog == 2

    await server.start()
    rig.restart_process()
    await rig.check_signatures(mode="quarantine", jwks=server.url)
    await rig.start(url=siem.url)
    await rig.drained()
    assert len(siem.lines()) == 2


async def test_a_restart_while_the_keys_are_away(
    rig: Rig, siem: Siem, server: KeyServer, tmp_path: Path
) -> None:
    """The keys of before are on disk beside the queue."""
    await rig.check_signatures(mode="quarantine", jwks=server.url)
    await rig.start(url=siem.url)
    await rig.append_lines(signed(A, 1))
    await rig.drained()
    await rig.stop()
    await server.stop()

    assert (tmp_path / "relay.db.jwks-eu.json").exists()
    rig.restart_process()
    await rig.restart_queue()
    await rig.check_signatures(mode="quarantine", jwks=server.url)
    await rig.start(url=siem.url)
    await rig.append_lines(signed(A, 2))
    await rig.drained()
    assert siem.lines() == signed(A, 1, 2)


async def test_a_server_that_hangs_delays_one_batch(rig: Rig, siem: Siem, server: KeyServer) -> None:
    """Several destinations wait for one request, and a stop in between is obeyed."""
    server.hangs = True
    await rig.check_signatures(mode="quarantine", jwks=server.url)
    await rig.start(url=siem.url)
    await rig.start("other", url=siem.url)
    await rig.append_lines(signed(A, 1))
    await server.arrived.wait()
    await rig.stop("other", overdue=True)
    server.hangs = False
    server.release.set()
    await rig.drained()

    assert siem.lines() == signed(A, 1)
    assert rig.books("other").backlog == 1


async def test_the_mode_follows_the_configuration(rig: Rig, siem: Siem) -> None:
    """Keys of a source that did not change stay; a changed mode holds for what is read from then on."""
    await rig.check_signatures(mode="tag", jwks=str(JWKS_FILE))
    await rig.start(url=siem.url)
    await rig.append_lines([cef(1)])
    await rig.drained()
    await rig.check_signatures(mode="tag", jwks=str(JWKS_FILE))
    status = rig.checker.status("eu")
    assert status is not None
    assert sum(status.results.values()) == 1
    await rig.check_signatures(mode="quarantine", jwks=str(JWKS_FILE))
    await rig.append_lines([cef(2)])
    await rig.drained()

    assert (rig.books().delivered, rig.books().dead) == (1, 1)


async def test_the_keys_are_followed_in_the_background(rig: Rig, server: KeyServer) -> None:
    """Without any event."""
    await rig.check_signatures(mode="tag", jwks=server.url)
    running = asyncio.create_task(rig.checker.run())
    await server.arrived.wait()
    await rig.clock.next_wake()
    status = rig.checker.status("eu")
    running.cancel()
    await asyncio.wait({running})

    assert status is not None
    assert (status.keys, status.trouble) == (1, None)
