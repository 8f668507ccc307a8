"""The `syslog` destination against a server that is strict about frames and free in its manners."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from relay.clock import Clock, SystemClock
from relay.destinations import syslog_connection
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Partial,
    TooLarge,
    Transient,
)
from relay.destinations.syslog import SyslogDestination
from relay.destinations.syslog_config import SyslogConfig
from relay.errors import ConfigError
from relay.model import Reason, Unfit
from tests.contract.destinations.test_tls import refuse
from tests.fakes.chunks import chunk_of, sample
from tests.fakes.process import free_port
from tests.fakes.syslog import TIME_LIMIT, Framing, Manners, SyslogServer

LINES = [*sample("cef"), *sample("json"), *sample("cps"), b"not a record at all \xff"]
CHUNK = chunk_of(LINES)
PLAIN: dict[str, object] = {"protocol": "tcp", "timeout": 5}


def texts(lines: list[bytes]) -> list[bytes]:
    """What a message must end in: the line, for CEF without the time and host in front."""
    return [line[line.index(b"CEF:") :] if b" CEF:" in line[:80] else line for line in lines]


def carried(messages: list[bytes], lines: list[bytes]) -> bool:
    """Whether these messages are these lines, in order and complete."""
    return len(messages) == len(lines) and all(map(bytes.endswith, messages, texts(lines)))


def destination(address: str, clock: Clock | None = None, **settings: object) -> SyslogDestination:
    config = SyslogConfig.model_validate(
        {"name": "siem", "type": "syslog", "address": address, **PLAIN, **settings}
    )
    return SyslogDestination(config, clock=clock or SystemClock())


@asynccontextmanager
async def opened(
    address: str, clock: Clock | None = None, **settings: object
) -> AsyncIterator[SyslogDestination]:
    made = destination(address, clock, **settings)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


# -- what cannot be reached


async def test_refused() -> None:
    """A port nobody listens on may be a server that is starting: tried again."""
    async with opened(f"127.0.0.1:{free_port()}") as siem:
        outcome = await siem.send(CHUNK)
        report = await siem.probe()

    assert isinstance(outcome, Transient)
    assert outcome.response.detail == "cannot connect: Connection refused"
    assert (report.ok, report.detail) == (False, "cannot connect: Connection refused")


@pytest.mark.parametrize("protocol", ["tls", "tcp", "udp"])
async def test_no_such_name(protocol: str) -> None:
    """A name that does not resolve is tried again: name servers have bad days."""
    async with opened("siem.invalid:514", protocol=protocol) as siem:
        outcome = await siem.send(CHUNK)
        report = await siem.probe()

    assert isinstance(outcome, Transient)
    assert outcome.response.detail == "the name siem.invalid cannot be resolved"
    assert (report.ok, report.detail) == (False, outcome.response.detail)


async def test_tls_to_a_plain_port() -> None:
    """A port that does not speak TLS is tried again, and the time-out ends a handshake nobody answers."""
    async with (
        SyslogServer(manners=Manners(reads=False)) as server,
        opened(server.address, protocol="tls", timeout=1) as siem,
    ):
        outcome = await siem.send(CHUNK)
        report = await siem.probe()

    assert isinstance(outcome, Transient)
    assert (report.ok, report.detail) == (False, "the TLS handshake took longer than 1 s")
    assert server.messages == []


async def test_no_answer() -> None:
    """A host that does not even refuse costs the time-out."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        socket.socket() as first,
        socket.socket() as second,
    ):
        for other in (first, second):  # more than the backlog holds
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        async with opened(f"127.0.0.1:{listener.getsockname()[1]}", timeout=1) as siem:
            report = await siem.probe()

    assert (report.ok, report.detail) == (False, "cannot connect: no answer within 1 s")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_hanging_name_server(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does a name server that is silent, for a probe as well."""

    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(30))
    async with opened("siem.example.com:514", protocol=protocol, timeout=0.1) as siem:
        outcome = await siem.send(CHUNK)
        report = await siem.probe()
    done.set()

    assert isinstance(outcome, Transient)
    assert report.detail == "the name siem.example.com was not resolved within 0.1 s"


async def test_tls_answered_in_plain() -> None:
    """An answer that is not TLS is told apart from no answer."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example.com\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, opened(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", protocol="tls") as siem:
        outcome = await siem.send(CHUNK)

    assert isinstance(outcome, Transient)
    assert outcome.response.detail == "the TLS handshake failed"


async def test_untrusted(context: ssl.SSLContext) -> None:
    """A certificate nobody vouches for holds the destination and sends nothing."""
    async with (
        SyslogServer("octet_counting", tls=context) as server,
        opened(server.address, protocol="tls") as siem,
    ):
        outcome = await siem.send(CHUNK)
        report = await siem.probe()

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail.startswith("its certificate is not trusted: ")
    assert not report.ok
    assert server.messages == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_client_certificate(
    version: ssl.TLSVersion,
    authority: trustme.CA,
    context: ssl.SSLContext,
    ca_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where ours is missing, the destination is held, although TLS 1.3 says so only after the handshake."""
    monkeypatch.setattr(
        syslog_connection, "_FIRST_WORD", TIME_LIMIT
    )  # the server is a thread that may be late
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"localhost:{listener.getsockname()[1]}"
        async with (
            opened(address, protocol="tls", tls={"ca_file": ca_file}) as siem,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(asyncio.to_thread(refuse, listener, context))
            outcome = await siem.send(CHUNK)

    assert isinstance(outcome, Misconfigured)
    assert outcome.response.detail.startswith("it refuses our client certificate")


async def test_unusable_file(tmp_path: Path) -> None:
    """A file of authorities that is missing is a fault of the configuration."""
    made = destination("localhost", protocol="tls", tls={"ca_file": tmp_path / "ca.pem"})

    with pytest.raises(ConfigError, match=r"tls\.ca_file: .*ca\.pem cannot be used"):
        await made.open()
    await made.close()


# -- what arrives


@pytest.mark.parametrize("framing", ["lf", "octet_counting"])
async def test_tcp(framing: Framing) -> None:
    """Every event is one frame, in order, over one connection."""
    async with SyslogServer(framing) as server:
        async with opened(server.address, framing=framing) as siem:
            outcomes = [await siem.send(CHUNK) for _ in range(3)]
        await server.left()

    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    assert carried(server.messages, LINES * 3)
    assert len(server.lines) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("framing", ["lf", "octet_counting"])
async def test_tls_with_client_certificate(
    framing: Framing,
    version: ssl.TLSVersion,
    authority: trustme.CA,
    context: ssl.SSLContext,
    ca_file: Path,
    tmp_path: Path,
) -> None:
    """Over TLS as well, with our certificate where the server asks for it; large chunks included."""
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    ours = authority.issue_cert("relay.example.com")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    ours.cert_chain_pems[0].write_to_path(str(cert))
    ours.private_key_pem.write_to_path(str(key))
    tls = {"ca_file": ca_file, "cert": cert, "key": key}
    large = LINES * 30
    async with SyslogServer(framing, tls=context) as server:
        async with opened(server.address, protocol="tls", framing=framing, tls=tls) as siem:
            outcome = await siem.send(chunk_of(large))
            report = await siem.probe()
        await server.left(2)

    assert isinstance(outcome, Delivered)
    assert carried(server.lines[0].messages, large)
    assert report.ok
    assert report.detail.startswith(f"connected to localhost:{server.port} with TLSv1.")


async def test_sends_at_once() -> None:
    """Sends under way together do not mix their frames."""
    async with SyslogServer("octet_counting") as server:
        async with (
            opened(server.address, framing="octet_counting", max_in_flight=4) as siem,
            asyncio.TaskGroup() as tasks,
        ):
            sends = [tasks.create_task(siem.send(CHUNK)) for _ in range(8)]
        await server.left()

    assert all(isinstance(send.result(), Delivered) for send in sends)
    assert carried(server.messages, LINES * 8)


async def test_too_long() -> None:
    """A message over the limit is refused by name and never cut; the others go out."""
    lines = [LINES[0], b"x" * 5000, LINES[1]]
    async with SyslogServer() as server:
        async with opened(server.address, max_message="4KiB") as siem:
            outcome = await siem.send(chunk_of(lines))
            alone = await siem.send(chunk_of(lines[1:2]))
        await server.left()

    assert isinstance(outcome, Partial)
    assert outcome.delivered == (0, 2)
    ((index, reason, detail),) = [(each.index, each.reason, each.detail) for each in outcome.rejected]
    assert (index, reason) == (1, Reason.TOO_LARGE)
    assert detail == "the message has 5057 bytes, max_message is 4096"
    assert isinstance(alone, Partial)
    assert (alone.delivered, len(alone.rejected)) == ((), 1)
    assert carried(server.messages, [lines[0], lines[2]])


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_part_is_the_message(protocol: str) -> None:
    """What `check --explain` shows: the message with its header, or that it is too long to be sent."""
    siem = destination("127.0.0.1:1", protocol=protocol)
    events = list(chunk_of([LINES[0], b"x" * 70_000]).events())

    message, refused = (siem.part(event) for event in events)

    assert isinstance(message, bytes)
    assert message.startswith(b"<")
    assert message.endswith(LINES[0][LINES[0].index(b"CEF:") :])
    assert isinstance(refused, Unfit)
    assert refused.reason is Reason.TOO_LARGE


# -- what does not, at first


async def test_hanging_server() -> None:
    """Bytes that no TCP acknowledges are not delivered, however many the system took from us."""
    large = chunk_of([b"x" * 60_000] * 40)
    async with SyslogServer() as server:
        server.next.append(Manners(reads=False))
        async with opened(server.address, timeout=3) as siem:
            outcome = await siem.send(large)
            again = await siem.send(CHUNK)

    assert isinstance(outcome, Transient)
    assert outcome.response.detail == "not every byte was acknowledged within 3 s"
    assert isinstance(again, Delivered)
    assert carried(server.lines[1].messages, LINES)


async def test_taken_by_our_own_system_only() -> None:
    """What lies in our own send buffer, because the server's window is full, is not delivered."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        async with opened(f"127.0.0.1:{listener.getsockname()[1]}", timeout=1) as siem:
            outcome = await siem.send(chunk_of([b"x" * 30_000]))

    assert isinstance(outcome, Transient)
    assert outcome.response.detail == "not every byte was acknowledged within 1 s"


@pytest.mark.parametrize("manners", [Manners(after=3), Manners(after=3, ending="reset")])
async def test_broken_off_within_a_chunk(manners: Manners) -> None:
    """A chunk whose connection ends under it is sent again as a whole, on a new one."""
    large = [b"x" * 60_000] * 200  # more than the buffers in between hold
    async with SyslogServer() as server:
        server.next.append(manners)
        async with opened(server.address) as siem:
            outcome = await siem.send(chunk_of(large))
            again = await siem.send(chunk_of(large))
        await server.left()

    assert isinstance(outcome, Transient)
    assert outcome.response.detail.startswith("the connection broke: ")
    assert isinstance(again, Delivered)
    assert carried(server.lines[1].messages, large)


async def test_acknowledged_and_never_read() -> None:
    """What a dead server's system had acknowledged is sent again by itself, with no further event needed."""
    async with SyslogServer() as server:
        server.next.append(Manners(reads=False))
        async with opened(server.address) as siem:
            outcome = await siem.send(CHUNK)
            await server.connected(1)  # its kernel acknowledges before it knows
            server.lines[0].reset()
            messages = await server.got(len(LINES))

    assert isinstance(outcome, Delivered)
    assert carried(messages, LINES)


async def test_sent_again_before_anything_else() -> None:
    """The tail of a lost connection goes first, then the new events: nothing is missing, order is kept."""
    async with SyslogServer() as server, opened(server.address) as siem:
        await siem.send(chunk_of(LINES[:5]))
        await siem.send(chunk_of(LINES[5:10]))
        await server.got(10)
        await server.lines[0].close()
        await siem.send(chunk_of(LINES[10:20]))
        await server.got(30)

    assert carried(server.lines[1].messages, LINES[:20])


async def test_server_away_for_a_while() -> None:
    """The tail is kept as long as it takes to bring the connection back."""
    async with SyslogServer() as server:
        server.next.append(Manners(reads=False))
        async with opened(server.address) as siem:
            await siem.send(CHUNK)
            await server.connected(1)  # its kernel acknowledges before it knows
            await server.stop()
            while_away = await siem.send(CHUNK)
            await server.start()
            await server.got(len(LINES))
            back = await siem.send(CHUNK)
        await server.left()

    assert isinstance(while_away, Transient)
    assert isinstance(back, Delivered)
    assert carried(server.messages, LINES * 2)


class HastyClock(SystemClock):
    """Cuts waits of a second and more short, and remembers them."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if seconds >= 1:
            self.waits.append(seconds)
            seconds = 0.05
        await super().sleep(seconds)


async def test_server_that_only_takes_connections() -> None:
    """One that closes each connection at once is not tried without a pause, and served once it behaves."""
    clock = HastyClock()
    bad = Manners(after=1, ending="reset")
    async with SyslogServer() as server:
        server.next.extend([Manners(), bad, bad])
        async with opened(server.address, clock) as siem:
            await siem.send(CHUNK)
            await server.got(len(LINES))
            await server.lines[0].close()
            await server.got(2 * len(LINES) + 2)

    assert clock.waits[:2] == [1.0, 2.0]
    assert carried(server.lines[3].messages, LINES)


async def test_hanging_while_sent_again() -> None:
    """What is sent again may fail as well; it is owed all the same."""
    large = [b"x" * 60_000] * 40
    clock = HastyClock()
    async with SyslogServer() as server:
        server.next.extend([Manners(), Manners(reads=False)])
        async with opened(server.address, clock, timeout=5) as siem:
            assert isinstance(await siem.send(chunk_of(large)), Delivered)
            await server.got(len(large))
            await server.lines[0].close()
            await server.got(2 * len(large))

    assert carried(server.lines[2].messages, large)


async def test_where_the_system_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a count of what was acknowledged, a second without an error has to do."""
    monkeypatch.setattr("relay.destinations.syslog_connection._unacknowledged", lambda _: None)
    clock = HastyClock()
    async with SyslogServer() as server:
        async with opened(server.address, clock) as siem:
            outcome = await siem.send(CHUNK)
        await server.left()

    assert isinstance(outcome, Delivered)
    assert clock.waits == [1.0]
    assert carried(server.messages, LINES)


async def test_nothing_sent_again() -> None:
    """With `resend_last: 0s` a new connection begins with new events."""
    async with SyslogServer() as server:
        async with opened(server.address, resend_last="0s") as siem:
            await siem.send(CHUNK)
            await server.got(len(LINES))
            await server.lines[0].close()
            await siem.send(chunk_of(LINES[:3]))
        await server.left()

    assert carried(server.lines[1].messages, LINES[:3])


async def test_cancelled_send() -> None:
    """A cancelled send leaves a torn frame at most, and nothing ever follows it on that connection."""
    large = chunk_of([b"x" * 60_000] * 40)
    async with SyslogServer("octet_counting") as server:
        server.next.append(Manners(reads=False))
        async with (
            opened(server.address, framing="octet_counting") as siem,
            asyncio.TaskGroup() as tasks,
        ):
            sending = tasks.create_task(siem.send(large))
            await server.connected(1)
            waiting = tasks.create_task(siem.send(CHUNK))
            await asyncio.sleep(0)
            sending.cancel()
        await server.left()

    assert isinstance(waiting.result(), Delivered)
    assert carried(server.lines[1].messages, LINES)


# -- leaving


async def test_close_waits_for_the_other_side() -> None:
    """A server that dies unread while we take leave gets everything once more."""
    async with SyslogServer() as server:
        server.next.append(Manners(reads=False))
        async with opened(server.address) as siem, asyncio.TaskGroup() as tasks:
            await siem.send(CHUNK)
            await server.connected(1)  # its kernel acknowledges before it knows
            closing = tasks.create_task(siem.close())
            await asyncio.sleep(0)
            assert not closing.done()
            server.lines[0].reset()
        await server.left()

    assert carried(server.messages, LINES)


async def test_close_notify(context: ssl.SSLContext, ca_file: Path) -> None:
    """TLS ends with a close_notify, so that the server can tell the end from a cut."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"localhost:{listener.getsockname()[1]}"
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(asyncio.to_thread(read_to_the_end, listener, context))
            async with opened(address, protocol="tls", tls={"ca_file": ca_file}) as siem:
                await siem.send(chunk_of(LINES[:1]))

    assert reading.result().endswith(texts(LINES[:1])[0])


def read_to_the_end(listener: socket.socket, context: ssl.SSLContext) -> bytes:
    """All bytes of one connection; raises `ssl.SSLEOFError` where it is cut off."""
    connection, _ = listener.accept()
    with context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as wrapped:
        received = b""
        while data := wrapped.recv(65_536):
            received += data
        return received


# -- UDP


@asynccontextmanager
async def udp_server() -> AsyncIterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        yield server


async def test_udp() -> None:
    """One datagram for each event."""
    async with (
        udp_server() as server,
        opened(f"127.0.0.1:{server.getsockname()[1]}", protocol="udp") as siem,
    ):
        report = await siem.probe()
        outcome = await siem.send(CHUNK)
        async with asyncio.timeout(TIME_LIMIT):
            loop = asyncio.get_running_loop()
            messages = [await loop.sock_recv(server, 65_536) for _ in LINES]

    assert isinstance(outcome, Delivered)
    assert outcome.response.detail == f"{len(LINES)} datagrams sent; UDP reports nothing"
    assert carried(messages, LINES)
    assert report.ok
    assert "nobody can tell" in report.detail


async def test_udp_to_nobody() -> None:
    """That nobody listens is known once the other host says so, which may be too late for a chunk."""
    async with opened(f"127.0.0.1:{free_port()}", protocol="udp") as siem:
        outcomes = [await siem.send(chunk_of(LINES[:1])) for _ in range(2)]

    trouble = [outcome for outcome in outcomes if isinstance(outcome, Transient)]
    assert trouble
    assert trouble[0].response.detail == "cannot send: Connection refused"


async def test_udp_too_long_for_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system will not put into a datagram is too large, even below max_message."""

    async def refuse_long(_: socket.socket, data: bytes) -> None:
        raise OSError(errno.EMSGSIZE, f"{len(data)}")  # macOS: above 9216 bytes by default

    async with udp_server() as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        async with opened(address, protocol="udp", max_message=65_507) as siem:
            monkeypatch.setattr(asyncio.get_running_loop(), "sock_sendall", refuse_long)
            outcome = await siem.send(chunk_of([b"x" * 60_000]))

    assert isinstance(outcome, TooLarge)
