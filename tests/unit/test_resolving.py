"""Names are looked up without holding up anybody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from relay.resolving import ThreadResolver, addresses


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A name server that does not answer for `hang.example`, until the event is set."""
    answered = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **more: Any) -> Any:
        if host == "hang.example":
            answered.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield answered
    answered.set()


async def test_a_name_and_an_address() -> None:
    """Both give what aiohttp needs to connect."""
    for host in ("localhost", "127.0.0.1"):
        (found, *_) = await ThreadResolver().resolve(host, 8071)

        assert (found["host"], found["port"], found["hostname"]) == ("127.0.0.1", 8071, host)


async def test_a_name_that_is_none() -> None:
    """The failure is the system's own."""
    with pytest.raises(socket.gaierror):
        await ThreadResolver().resolve("no such name", 1)


async def test_whoever_gives_up_is_not_waited_for(hanging: threading.Event) -> None:
    """The time limit of a request holds, and its thread's late answer is nobody's."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ThreadResolver().resolve("hang.example", 1)
    hanging.set()
    assert await addresses("127.0.0.1", 1)


def test_names_that_hang_hold_up_no_connection(hanging: threading.Event) -> None:
    """Under uvloop too, which connects by way of the pool that it would look names up in."""

    async def scenario() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        resolvers = [ThreadResolver() for _ in range(8)]
        async with server, asyncio.TaskGroup() as group:
            hung = [group.create_task(_expect_failure(each)) for each in resolvers]
            await asyncio.sleep(0)
            async with asyncio.timeout(30):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                (found, *_) = await ThreadResolver().resolve("localhost", port)
            writer.close()
            assert found["host"] == "127.0.0.1"
            assert not any(task.done() for task in hung)
            hanging.set()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def _expect_failure(resolver: ThreadResolver) -> None:
    with pytest.raises(socket.gaierror):
        await resolver.resolve("hang.example", 1)
