"""What the log says about power failures."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relay.config.queue import JetStreamQueueConfig
from relay.observe import logs
from relay.queue.jetstream import durability
from relay.queue.jetstream.durability import report
from tests.fakes.nats import NatsServer
from tests.fakes.process import free_port


async def reported(*monitoring: str, replicas: int = 3) -> dict[str, Any]:
    """The one line, without what every line has."""
    config = JetStreamQueueConfig(
        type="jetstream", servers=("nats://127.0.0.1:4222",), replicas=replicas, monitoring=monitoring
    )
    stream = io.BytesIO()
    await report(config, log=logs.configure("info", stream=stream))
    (record,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert record.pop("event") == "queue.durability"
    del record["timestamp"]
    return record  # type: ignore[no-any-return] # it comes from JSON


async def test_always(tmp_path: Path) -> None:
    """The only case without a warning."""
    async with (
        NatsServer(tmp_path, name="one", monitoring=True, sync_always=True) as one,
        NatsServer(tmp_path, name="two", monitoring=True, sync_always=True) as two,
    ):
        record = await reported(one.monitoring_url, two.monitoring_url)

    hosts = [f"127.0.0.1:{server.monitoring_port}" for server in (one, two)]
    assert record == {"level": "info", "sync": "always", "servers": hosts}


@pytest.mark.parametrize(
    ("replicas", "failure"),
    [
        (1, "a power failure or a crash of the server's machine"),
        (3, "a power failure of 2 of the 3 servers at once"),
        (5, "a power failure of 3 of the 5 servers at once"),
    ],
)
@pytest.mark.parametrize(("interval", "told"), [(None, "2m"), ("30s", "30s")])
async def test_an_interval(
    tmp_path: Path, replicas: int, failure: str, interval: str | None, told: str
) -> None:
    """How much may be lost, and by what: with the server's default, too."""
    settings = {} if interval is None else {"sync_interval": interval}
    async with NatsServer(tmp_path, monitoring=True, jetstream=settings) as server:
        record = await reported(server.monitoring_url, replicas=replicas)

    assert record == {
        "level": "warning",
        "sync": told,
        "unanswered": [],
        "detail": (
            f"{failure} may lose what was accepted within {told} before; sync_interval: always prevents it"
        ),
    }


async def test_the_least_careful_server_counts(tmp_path: Path) -> None:
    """An event may be on any of them."""
    async with (
        NatsServer(tmp_path, name="one", monitoring=True, sync_always=True) as one,
        NatsServer(tmp_path, name="two", monitoring=True, jetstream={"sync_interval": "5s"}) as two,
    ):
        assert (await reported(one.monitoring_url, two.monitoring_url))["sync"] == "5s"


async def test_nobody_to_ask() -> None:
    """Without endpoints nothing is known, and that is said."""
    record = await reported()

    assert (record["level"], record["sync"]) == ("warning", "unknown")
    assert "within an unknown time (by default 2m) before" in record["detail"]


async def test_one_that_does_not_answer(tmp_path: Path) -> None:
    """What the others say is no comfort."""
    down = f"127.0.0.1:{free_port()}"
    async with NatsServer(tmp_path, monitoring=True, sync_always=True) as server:
        record = await reported(server.monitoring_url, f"http://{down}")

    assert (record["level"], record["sync"], record["unanswered"]) == ("warning", "unknown", [down])


async def test_a_server_without_jetstream(tmp_path: Path) -> None:
    """It syncs nothing, and says nothing about it."""
    async with NatsServer(tmp_path, monitoring=True, with_jetstream=False) as server:
        assert (await reported(server.monitoring_url))["sync"] == "unknown"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"config":null}', b'{"config":{"sync_interval":"x"}}'])
async def test_something_else_at_that_address(body: bytes) -> None:
    """The relay starts all the same."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        assert (await reported(f"http://127.0.0.1:{runner.addresses[0][1]}"))["sync"] == "unknown"
    finally:
        await runner.cleanup()


async def test_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is not held up for long."""
    monkeypatch.setattr(durability, "_ANSWER_SECONDS", 0.2)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await reported(f"http://127.0.0.1:{port}"))["sync"] == "unknown"
