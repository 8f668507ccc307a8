"""HAProxy as deploy/compose-cluster configures it: what Konnect is told when relays are ill or gone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.e2e.support import give_up
from tests.fakes.process import START_LIMIT, free_port, until

FOLDER = Path(__file__).parents[2] / "deploy" / "compose-cluster"

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Backend:
    """Stands where a relay stands: one port that takes batches and one that tells whether it can commit."""

    def __init__(self) -> None:
        self.port, self.admin_port = free_port(), free_port()
        self.ready = True
        self.taken = 0
        self.probed = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Backend]:
        async with AsyncExitStack() as stack:
            await _serve(stack, self.port, self._take)
            await _serve(stack, self.admin_port, self._readyz)
            yield self

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.taken += 1
        if body == b"die":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text="stored")

    async def _readyz(self, request: web.BaseRequest) -> web.StreamResponse:
        self.probed += 1
        return web.Response(status=200 if self.ready and request.path == "/readyz" else 503)


async def _serve(stack: AsyncExitStack, port: int, handler: Handler) -> None:
    runner = web.ServerRunner(web.Server(handler), handle_signals=False)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", port).start()


def _start(program: str, file: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([program, "-db", "-f", file], stdout=subprocess.DEVNULL)


class Front:
    """HAProxy with the shipped file, in front of two backends on loopback."""

    def __init__(self, folder: Path, backends: list[Backend]) -> None:
        self.port = free_port()
        self.backends = backends
        self._file = folder / "haproxy.cfg"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Front]:
        program = shutil.which("haproxy")
        if program is None:
            give_up("haproxy is missing (Debian package haproxy)")
        text = (FOLDER / "haproxy.cfg").read_text()
        text = text.replace("bind :8071", f"bind 127.0.0.1:{self.port}")
        text = text.replace("/usr/local/etc/haproxy", str(FOLDER))
        for number, backend in enumerate(self.backends, 1):
            checked = f" port {backend.admin_port}"
            text = text.replace(
                f"server relay-{number} relay-{number}:8071",
                f"server relay-{number} 127.0.0.1:{backend.port}{checked}",
            )
        text = text.replace(" check port 8072 inter 2s", " check inter 50ms")
        # A probe has as long as there is between two, unless this is set.
        text = text.replace(
            "timeout connect 2s", f"timeout connect {START_LIMIT:g}s\n    timeout check {START_LIMIT:g}s"
        )
        self._file.write_text(text)
        process = _start(program, self._file)
        try:
            await until(lambda: self._listens(process), START_LIMIT, "HAProxy listening")
            yield self
        finally:
            process.kill()
            process.wait()

    async def post(self, body: bytes = b"x") -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{self.port}/audit-logs/konnect-us", data=body) as answer,
        ):
            return answer.status

    async def _listens(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, "HAProxy ended"
        try:
            async with aiohttp.ClientSession() as session:
                await session.get(f"http://127.0.0.1:{self.port}/")
        except aiohttp.ClientConnectorError:
            return False
        return True


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(Backend().running()) for _ in range(2)]
        yield await stack.enter_async_context(Front(tmp_path, backends).running())


async def noticed(backend: Backend) -> None:
    """Wait until HAProxy knows how *backend* is: it believes the second probe in a row."""
    since = backend.probed
    await until(lambda: backend.probed >= since + 3, START_LIMIT, "HAProxy noticing")


async def test_konnect_is_told_500_when_nobody_is_there(tmp_path: Path) -> None:
    """Of all answers that say "not now" Konnect repeats a request after that one."""
    async with Front(tmp_path, [Backend(), Backend()]).running() as front:
        assert await front.post() == 500


async def test_konnect_is_told_500_when_a_relay_dies_with_the_request(front: Front) -> None:
    """It may be stored or not; sent again, a stored one is recognised."""
    assert await front.post(b"die") == 500


async def test_a_relay_that_cannot_commit_is_left_out(front: Front) -> None:
    """As soon as its readiness says so; the other one takes everything."""
    ill, well = front.backends
    ill.ready = False
    await noticed(ill)
    before = ill.taken

    assert [await front.post() for _ in range(6)] == [200] * 6
    assert ill.taken == before
    assert well.taken >= 6


async def test_relays_that_cannot_commit_say_so_themselves(front: Front) -> None:
    """They note the gap; HAProxy could not."""
    for backend in front.backends:
        backend.ready = False
    for backend in front.backends:
        await noticed(backend)

    assert await front.post() == 200
