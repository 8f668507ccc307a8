"""Quarantine: bytes nobody could understand come back byte for byte, within a bounded space."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from relay import gzipped
from relay.errors import QueueError, QueueFull
from relay.queue.jetstream import link, quarantine
from relay.queue.jetstream.message import Meta
from relay.queue.jetstream.quarantine import HEADER, Quarantine
from tests.contract.jetstream.streams import LIMIT, Site, streams
from tests.fakes.clock import FakeClock
from tests.fakes.events import NOW
from tests.fakes.nats import NatsServer

MICROS = int(NOW * 1e6)


@pytest.fixture
async def sites(nats_server: NatsServer, prefix: str) -> AsyncIterator[list[Site]]:
    """Two replicas."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(streams(nats_server, prefix))
        yield [await stack.enter_async_context(Site.open(nats_server, prefix)) for _ in range(2)]


def made(site: Site, clock: FakeClock | None = None) -> Quarantine:
    return Quarantine(site.link, site.bucket, clock or FakeClock(NOW))


def junk(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def content(site: Site, entry: str) -> bytes | None:
    """The bytes of an entry as they were stored, or None if it is not whole."""
    first = await site.bucket.get(f"quarantine.{entry}.0")
    if first is None:
        return None
    parts = orjson.loads(first.headers[HEADER])["parts"]
    found = [await site.bucket.get(f"quarantine.{entry}.{n}") for n in range(parts)]
    return b"".join([each.value for each in found if each is not None])


async def about(site: Site, entry: str) -> object:
    first = await site.bucket.get(f"quarantine.{entry}.0")
    assert first is not None
    return orjson.loads(first.headers[HEADER])


def meta(seq: int) -> Meta:
    return Meta(seq, "eu", "13.1", NOW, (), 1, 0, 0, 0, None, None, "one")


async def test_while_nats_is_away_the_caller_is_told(sites: list[Site]) -> None:
    """Ingest then asks Konnect to try again: nothing is thrown away silently."""
    kept = made(sites[0])
    await sites[0].cut_off()

    with pytest.raises(QueueError):
        await kept.keep_body("eu", b"\x1f\x8b...", "gzip")
    assert kept.entries == 0


@pytest.mark.parametrize("size", [0, 100, 3 << 20])
async def test_a_body_comes_back_byte_for_byte(sites: list[Site], size: int) -> None:
    """Also one that fits no message."""
    body = junk(size)
    await made(sites[0]).keep_body("eu", body, "gzip")

    stored = await content(sites[1], f"body-{MICROS}")
    assert stored is not None
    assert gzipped.decompress(stored) == body
    assert await about(sites[1], f"body-{MICROS}") == {
        "source": "eu",
        "cause": "gzip",
        "bytes": size,
        "created_at": NOW,
        "parts": 5 if size > 1 << 20 else 1,
    }


async def test_the_largest_body_comes_back(sites: list[Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """32 MiB in one commit."""
    monkeypatch.setattr(link, "_ANSWER_SECONDS", LIMIT)  # for all of it, on a machine that has other work
    body = junk(32 << 20)
    kept = made(sites[0])
    await kept.keep_body("eu", body, "gzip")
    await kept.count()

    stored = await content(sites[1], f"body-{MICROS}")
    assert stored is not None
    assert gzipped.decompress(stored) == body
    assert kept.entries == 1


async def test_a_body_of_more_parts_than_a_commit_holds(tmp_path: Path) -> None:
    """A server with tiny messages takes it in several commits, the first part last."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer(tmp_path, settings={"max_payload": 2 << 10}))
        await stack.enter_async_context(streams(server, "relay"))
        site = await stack.enter_async_context(Site.open(server, "relay"))
        body = junk(2 << 20)
        kept = made(site)
        await kept.keep_body("eu", body, "gzip")

        stored = await content(site, f"body-{MICROS}")
        assert stored is not None
        assert gzipped.decompress(stored) == body
        parts = await site.bucket.count(f"quarantine.body-{MICROS}.*")
        assert parts > 1000
        await kept.count()
        assert kept.entries == 1


async def test_bodies_of_the_same_moment_are_different_entries(sites: list[Site]) -> None:
    """On one replica as on two."""
    one, two = made(sites[0]), made(sites[1])
    await asyncio.gather(
        *[kept.keep_body("eu", b"%d" % n, "gzip") for n, kept in enumerate([one, two, one, two])]
    )

    assert await sites[0].bucket.count("quarantine.*.0") == 4


async def test_a_batch_is_kept_once_whoever_finds_it(sites: list[Site]) -> None:
    """Two destinations' readers on two replicas read the same broken batch."""
    one, two = made(sites[0]), made(sites[1])
    answers = await asyncio.gather(*[kept.keep_batch(meta(7), b"broken") for kept in [one, two, one, two]])

    assert sorted(answers) == [False, False, False, True]
    assert not await two.keep_batch(meta(7), b"broken")
    assert await one.keep_batch(meta(8), b"")
    assert await content(sites[0], "batch-7") == b"broken"
    assert await about(sites[0], "batch-7") == {
        "source": "eu",
        "cause": "checksum",
        "bytes": 6,
        "seq": 7,
        "count": 0,
        "received_at": NOW,
        "created_at": NOW,
        "parts": 1,
    }
    await two.count()
    assert two.entries == 2


async def test_the_oldest_make_room(sites: list[Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is put aside by however many replicas, the space is bounded and the latest is there."""
    monkeypatch.setattr(quarantine, "_BYTES", 400_000)
    monkeypatch.setattr(quarantine, "_SLACK", 50_000)
    clock = FakeClock(NOW)
    one, two = made(sites[0], clock), made(sites[1], clock)
    for n in range(40):
        for kept in (one, two):
            await clock.advance(0.001)
            await kept.keep_body("eu", junk(10_000, n), "gzip")
        await one.count()
        assert min(2 * n, 25) <= one.entries <= (400_000 + 50_000) // 10_000

    latest = int(clock.now() * 1e6)
    assert await content(sites[0], f"body-{latest}") is not None
    assert await content(sites[0], f"body-{MICROS + 1000}") is None


async def test_an_entry_is_deleted_as_a_whole(sites: list[Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody finds half a body."""
    monkeypatch.setattr(quarantine, "_BYTES", 6 << 20)
    monkeypatch.setattr(quarantine, "_SLACK", 1)
    clock = FakeClock(NOW)
    kept = made(sites[0], clock)
    for n in range(4):
        await clock.advance(1)
        await kept.keep_body("eu", junk(2_500_000, n), "gzip")
        await kept.count()
        parts = await sites[0].bucket.count("quarantine.>")

        assert (kept.entries, parts) == (min(n + 1, 2), 4 * min(n + 1, 2))


async def test_a_body_that_cannot_be_stored_as_a_whole_is_no_entry(
    sites: list[Site], nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was room for the first commit only; the caller is told."""
    monkeypatch.setattr(quarantine, "_PARTS_A_COMMIT", 2)
    stream = sites[0].bucket.stream
    info = await nats_server.api(f"STREAM.INFO.{stream}")
    await nats_server.api(f"STREAM.UPDATE.{stream}", info["config"] | {"max_bytes": 2 << 20})
    kept = made(sites[0])
    with pytest.raises(QueueFull):
        await kept.keep_body("eu", junk(4 << 20), "gzip")
    await kept.count()

    assert kept.entries == 0
    assert await sites[0].bucket.count("quarantine.>") == 2


async def test_what_a_replica_left_half_stored_does_not_count_and_goes(
    sites: list[Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died between two commits: the rest is no entry, but it takes room until it is the oldest."""
    monkeypatch.setattr(quarantine, "_BYTES", 100_000)
    await sites[0].bucket.put("quarantine.body-1.1", junk(60_000))
    kept = made(sites[1])
    await kept.count()
    assert kept.entries == 0

    await kept.keep_body("eu", junk(60_000), "gzip")
    await kept.count()
    assert kept.entries == 1
    assert await sites[0].bucket.get("quarantine.body-1.1") is None
