"""Getting to NATS and staying there, and what is said where that fails."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import trustme
from nats.aio.client import Server
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from relay.config.destination import ClientTls
from relay.config.queue import JetStreamQueueConfig
from relay.config.secret import Secret
from relay.errors import ConfigError, QueueError
from relay.observe import logs
from relay.queue.jetstream import connect as connecting
from relay.queue.jetstream.client import Client
from relay.queue.jetstream.connect import Tour, connect
from tests.fakes.nats import NatsServer, TcpProxy
from tests.fakes.nkeys import KeyPair, creds, trusting
from tests.fakes.process import free_port, until

LIMIT = 30.0  # seconds anything may take
SOON = (
    0.6,
    3.0,
    10.0,
)  # seconds after which a failure is to be told; the next ones where it was not known yet
TOKEN = "s3cret-token"


class Diary:
    """What the relay logged."""

    def __init__(self) -> None:
        self._stream = io.BytesIO()
        self.log = logs.configure("info", stream=self._stream)

    def text(self) -> str:
        return self._stream.getvalue().decode()

    def events(self) -> list[str]:
        return [record["event"] for record in self.records()]

    def details(self) -> list[str]:
        return [record["detail"] for record in self.records() if "detail" in record]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def diary() -> Diary:
    return Diary()


def config(*servers: str, **keys: Any) -> JetStreamQueueConfig:
    return JetStreamQueueConfig(type="jetstream", servers=servers, connect_timeout=LIMIT, **keys)


@asynccontextmanager
async def connected(config: JetStreamQueueConfig, diary: Diary) -> AsyncIterator[Client]:
    client = await connect(config, log=diary.log, name="test")
    try:
        yield client
    finally:
        await client.close()


async def works(client: Client) -> bool:
    """Whether JetStream answers on this connection."""
    try:
        answer = await client.request("$JS.API.INFO", timeout=5)
    except NatsError:
        return False
    return "error" not in json.loads(answer.data)


async def refusal(config: JetStreamQueueConfig, diary: Diary, *, reasons: int = 1) -> str:
    """The sentence with which connecting fails; the queue logs nothing besides.

    It is told when the time is up, with what has come up by then: where those are fewer *reasons*, on a busy
    machine, the time was too short.
    """
    told = ""
    for seconds in SOON:
        with pytest.raises(QueueError) as raised:
            await connect(config.model_copy(update={"connect_timeout": seconds}), log=diary.log, name="test")
        assert [event for event in diary.events() if event.startswith("queue.")] == []
        told = str(raised.value)
        if (0 if told.endswith(": no answer") else 1 + told.count("; ")) >= reasons:
            break
    return told


# -- nobody there, or nobody of use --------------------------------------------------------------


async def test_nobody_listens(diary: Diary) -> None:
    """The sentence names every address that was tried."""
    url = f"nats://127.0.0.1:{free_port()}"

    assert await refusal(config(url), diary) == f"cannot connect to NATS at {url}: connection refused"


async def test_a_name_nobody_knows(diary: Diary) -> None:
    """One wrong name among others is told apart from a server that is down."""
    down = f"nats://127.0.0.1:{free_port()}"

    told = await refusal(config("nats://nats.invalid:4222", down), diary, reasons=2)

    start, _, reasons = told.partition(f"nats://nats.invalid:4222, {down}: ")
    assert start == "cannot connect to NATS at "
    assert set(reasons.split("; ")) == {"the name cannot be resolved", "connection refused"}


async def test_a_server_that_says_nothing(diary: Diary, nats_server: NatsServer) -> None:
    """A connection that opens is not yet a server."""
    async with TcpProxy(nats_server.port) as proxy:
        proxy.stall()

        told = await refusal(config(proxy.url), diary, reasons=0)

    assert told == f"cannot connect to NATS at {proxy.url}: no answer"


async def test_without_jetstream(tmp_path: Path, diary: Diary) -> None:
    """A NATS server that keeps nothing is no queue."""
    async with NatsServer(tmp_path, with_jetstream=False) as server:
        assert await refusal(config(server.url), diary) == (
            "NATS answers, but not on $JS.API: JetStream is not enabled, or not for this account"
        )


async def test_an_account_without_jetstream(tmp_path: Path, diary: Diary) -> None:
    """The server may have it, and the account not."""
    user = {"user": "relay", "password": "p"}
    accounts = {"audit": {"users": [user]}, "other": {"jetstream": "enabled", "users": []}}
    async with NatsServer(tmp_path, settings={"accounts": accounts}) as server:
        told = await refusal(config(server.url, user="relay", password=Secret("p")), diary)

    assert told.endswith(("is not enabled, or not for this account", "server, or not for this account"))


async def old_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Enough of a NATS 2.11 to be asked for its JetStream."""
    writer.write(b'INFO {"version":"2.11.9","headers":true,"max_payload":1048576}\r\n')
    info = json.dumps({"api": {"level": 1}}).encode()
    while line := await reader.readline():
        match line.split():
            case [b"PING"]:
                writer.write(b"PONG\r\n")
            case [b"PUB", b"$JS.API.INFO", reply, _]:
                writer.write(b"MSG %b 1 %d\r\n%b\r\n" % (reply, len(info), info))
    writer.close()


async def test_a_server_that_is_too_old(diary: Diary) -> None:
    """Atomic batches came with 2.12; nothing works without them."""
    async with await asyncio.start_server(old_server, "127.0.0.1", 0) as server:
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        told = await refusal(config(url), diary)

    assert told == "NATS 2.11.9 is too old; the relay needs 2.12 or later"


async def test_a_server_that_starts_late(tmp_path: Path, diary: Diary) -> None:
    """Relay and NATS may be started together, in any order."""
    server = NatsServer(tmp_path)
    connection = asyncio.create_task(connect(config(server.url), log=diary.log, name="test"))
    async with server:
        client = await connection
        assert await works(client)
        await client.close()

    assert diary.text() == ""


async def test_one_server_is_enough(diary: Diary, nats_server: NatsServer) -> None:
    """The others of a cluster may be down."""
    down = f"nats://127.0.0.1:{free_port()}"
    async with connected(config(down, nats_server.url, down), diary) as client:
        assert await works(client)


# -- who we are ----------------------------------------------------------------------------------


async def test_a_wrong_token(tmp_path: Path, diary: Diary) -> None:
    """The sentence does not hold it."""
    async with NatsServer(tmp_path, settings={"authorization": {"token": TOKEN}}) as server:
        told = await refusal(config(server.url, token=Secret("wr0ng")), diary)

    assert told.startswith(f"cannot connect to NATS at {server.url}: it refuses our credentials")
    assert "wr0ng" not in told


@pytest.mark.parametrize("known", [True, False])
async def test_a_token(tmp_path: Path, diary: Diary, known: bool) -> None:
    """Known or not asked for: one that is not needed does no harm."""
    settings = {"authorization": {"token": TOKEN}} if known else {}
    async with (
        NatsServer(tmp_path, settings=settings) as server,
        connected(config(server.url, token=Secret(TOKEN)), diary) as client,
    ):
        assert await works(client)


async def test_user_and_password(tmp_path: Path, diary: Diary) -> None:
    """The connection is named so that `nats server report connections` shows whose it is."""
    settings = {"authorization": {"user": "relay", "password": TOKEN}}
    async with (
        NatsServer(tmp_path, settings=settings, monitoring=True) as server,
        connected(config(server.url, user="relay", password=Secret(TOKEN)), diary) as client,
    ):
        assert await works(client)
        assert [each["name"] for each in (await server.monitor("connz"))["connections"]] == ["test"]


async def test_an_nkey(tmp_path: Path, diary: Diary) -> None:
    """The seed stays here; the server gets a signature."""
    user, stranger = KeyPair("user"), KeyPair("user")
    settings = {"authorization": {"users": [{"nkey": user.public}]}}
    async with NatsServer(tmp_path, settings=settings) as server:
        async with connected(config(server.url, nkey=Secret(user.seed)), diary) as client:
            assert await works(client)

        told = await refusal(config(server.url, nkey=Secret(stranger.seed)), diary)

    assert ": it refuses our credentials" in told


async def test_a_creds_file(tmp_path: Path, diary: Diary) -> None:
    """A user of an account of an operator, as `nsc` makes them; another account's user is refused."""
    operator, account, user = KeyPair("operator"), KeyPair("account"), KeyPair("user")
    async with NatsServer(tmp_path, settings=trusting(operator, account)) as server:
        async with connected(config(server.url, credentials=Secret(creds(user, account))), diary) as client:
            assert await works(client)

        strange = Secret(creds(user, KeyPair("account")))
        told = await refusal(config(server.url, credentials=strange), diary)

    assert ": it refuses our credentials" in told


async def test_a_damaged_seed(diary: Diary) -> None:
    """Found before anybody is asked."""
    seed = KeyPair("user").seed
    damaged = Secret(seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:])

    with pytest.raises(ConfigError, match=r"queue\.nkey: the seed is damaged"):
        await connect(config("nats://127.0.0.1:1", nkey=damaged), log=diary.log, name="test")


# -- TLS -----------------------------------------------------------------------------------------


class Certificates:
    """An authority, and what it issued for server and relay."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate for *name* and of its key."""
        issued = self.authority.issue_cert(name)
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return cert, key

    def settings(self, name: str = "127.0.0.1", *, verify: bool = False) -> dict[str, object]:
        """Of a server that shows a certificate for *name*, and with *verify* wants to see one."""
        cert, key = map(str, self.issue(name))
        return {"tls": {"cert_file": cert, "key_file": key, "ca_file": str(self.ca_file), "verify": verify}}


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


async def test_tls(tmp_path: Path, diary: Diary, certificates: Certificates) -> None:
    """An authority of one's own is trusted; nats:// will do where tls is configured."""
    tls = ClientTls(ca_file=certificates.ca_file)
    async with NatsServer(tmp_path, settings=certificates.settings()) as server:
        for url in (server.url, f"nats://127.0.0.1:{server.port}"):
            async with connected(config(url, tls=tls), diary) as client:
                assert await works(client)


async def test_an_untrusted_server(tmp_path: Path, diary: Diary, certificates: Certificates) -> None:
    """Without its authority the certificate is worth nothing."""
    async with NatsServer(tmp_path, settings=certificates.settings()) as server:
        told = await refusal(config(server.url), diary)

    assert "its certificate is not trusted: " in told


async def test_a_certificate_for_another_name(
    tmp_path: Path, diary: Diary, certificates: Certificates
) -> None:
    """The right authority is not enough."""
    tls = ClientTls(ca_file=certificates.ca_file)
    async with NatsServer(tmp_path, settings=certificates.settings("nats.example.com")) as server:
        told = await refusal(config(server.url, tls=tls), diary)
        async with connected(config(server.url, tls=ClientTls(verify=False)), diary) as client:
            assert await works(client)

    assert "its certificate is not trusted: " in told


async def test_a_server_that_wants_our_certificate(
    tmp_path: Path, diary: Diary, certificates: Certificates
) -> None:
    """With one the relay is let in, without one it is told why not."""
    cert, key = certificates.issue("relay.example.com")
    tls = ClientTls(ca_file=certificates.ca_file, cert=cert, key=key)
    async with NatsServer(tmp_path, settings=certificates.settings(verify=True)) as server:
        async with connected(config(server.url, tls=tls), diary) as client:
            assert await works(client)

        anonymous = ClientTls(ca_file=certificates.ca_file)
        told = await refusal(config(server.url, tls=anonymous), diary)

    assert "it refuses our client certificate" in told


async def test_nothing_is_said_to_a_server_without_tls(diary: Diary) -> None:
    """A tls:// server that offers none may be anybody; the credentials stay here."""
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.15.1","auth_required":true}\r\n')
        while data := await reader.read(1024):
            heard.extend(data)
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        url = f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        told = await refusal(config(url, token=Secret(TOKEN)), diary)

    assert told.endswith(": it does not offer tls")
    assert heard == b""


async def test_a_missing_authority_file(tmp_path: Path, diary: Diary) -> None:
    """The message names the key in the configuration."""
    tls = ClientTls(ca_file=tmp_path / "missing.pem")

    with pytest.raises(ConfigError, match=r"queue\.tls\.ca_file: .* cannot be used: No such file"):
        await connect(config("tls://127.0.0.1:1", tls=tls), log=diary.log, name="test")


# -- losing it and finding it again --------------------------------------------------------------


def logged(diary: Diary, *events: str) -> Callable[[], bool]:
    return lambda: diary.events() == list(events)


async def test_a_restarted_server(tmp_path: Path, diary: Diary) -> None:
    """The relay comes back by itself, and says so once, however often it had to try."""
    async with (
        NatsServer(tmp_path) as server,
        connected(config(server.url, token=Secret(TOKEN)), diary) as client,
    ):
        await server.kill()
        await until(lambda: "connection refused" in diary.details(), LIMIT, "a failed attempt")
        await server.start()
        await until(lambda: works(client), LIMIT, "the connection working again")
        await until(lambda: "queue.reconnected" in diary.events(), LIMIT, "its record")

    assert diary.events().count("queue.disconnected") == 1
    assert diary.events()[-1] == "queue.reconnected"
    assert diary.details().count("connection refused") == 1
    assert TOKEN not in diary.text()


async def test_subscriptions_outlive_the_connection(tmp_path: Path, diary: Diary) -> None:
    """Whoever listens need not know that there was an interruption."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        heard.put_nowait(message.data)

    async with NatsServer(tmp_path) as server, connected(config(server.url), diary) as client:
        await client.subscribe("talk", cb=hear)
        await server.restart()
        await until(lambda: works(client), LIMIT, "the connection working again")
        await client.publish("talk", b"again")

        async with asyncio.timeout(LIMIT):
            assert await heard.get() == b"again"


async def test_replaced_credentials(tmp_path: Path, diary: Diary) -> None:
    """The server throws the relay out; it tries on until its credentials are good again."""
    async with (
        NatsServer(tmp_path, settings={"authorization": {"token": TOKEN}}) as server,
        connected(config(server.url, token=Secret(TOKEN)), diary) as client,
    ):
        await server.reload(authorization={"token": "another"})
        await until(lambda: "it refuses our credentials" in diary.details(), LIMIT, "being refused")
        await server.reload(authorization={"token": TOKEN})
        await until(lambda: works(client), LIMIT, "the connection working again")

    assert TOKEN not in diary.text()


async def test_a_network_that_swallows_everything(
    tmp_path: Path, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pings notice; what could not be sent neither delays the next connection nor goes there."""
    arrived: list[bytes] = []

    async def arrive(message: Msg) -> None:
        arrived.append(message.data[:5])

    async with (
        NatsServer(tmp_path, name="one") as one,
        NatsServer(tmp_path, name="two") as two,
        TcpProxy(one.port) as proxy,
        connected(config(two.url), Diary()) as listener,
    ):
        await listener.subscribe("talk", cb=arrive)
        await listener.flush()
        monkeypatch.setattr(connecting, "_PING_SECONDS", 0.5)
        async with connected(config(proxy.url), diary) as client:
            client.set_server_pool([two.url])
            proxy.stall()
            for _ in range(20):  # more than the sockets on the way take
                await asyncio.wait_for(client.publish("talk", b"stale" + bytes(1 << 19)), LIMIT)
                if client.pending_data_size:
                    break
            await until(lambda: "queue.reconnected" in diary.events(), LIMIT, "another server being found")
            await client.publish("talk", b"fresh")
            await until(lambda: bool(arrived), LIMIT, "the message")

    assert arrived == [b"fresh"]


async def test_a_forbidden_subject(tmp_path: Path, diary: Diary) -> None:
    """The log says what the user may not do, once; the connection stays."""
    permissions = {"publish": {"deny": ["secret.>"]}}
    users = [{"user": "relay", "password": "p", "permissions": permissions}]
    async with (
        NatsServer(tmp_path, settings={"authorization": {"users": users}}) as server,
        connected(config(server.url, user="relay", password=Secret("p")), diary) as client,
    ):
        await client.publish("secret.a", b"")
        await client.publish("secret.a", b"")
        assert await works(client)
        await until(logged(diary, "queue.connection_failed"), LIMIT, "the record")

    (record,) = diary.records()
    assert record["detail"] == 'permissions violation for publish to "secret.a"'


async def test_a_forbidden_subject_is_spelled_as_it_was_asked_for(tmp_path: Path, diary: Diary) -> None:
    """Subjects are case-sensitive; what the log names has to be found in a configuration."""
    permissions = {"publish": {"deny": ["Secret.>"]}, "subscribe": {"deny": ["Secret.>"]}}
    users = [{"user": "relay", "password": "p", "permissions": permissions}]
    told: list[str] = []
    async with (
        NatsServer(tmp_path, settings={"authorization": {"users": users}}) as server,
        connected(config(server.url, user="relay", password=Secret("p")), diary) as client,
    ):
        client.when_forbidden.append(told.append)
        await client.publish("Secret.A", b"")
        await client.subscribe("Secret.*")
        await until(lambda: len(diary.records()) == 2, LIMIT, "both records")

    assert diary.details() == [
        'permissions violation for publish to "Secret.A"',
        'permissions violation for subscription to "Secret.*"',
    ]
    assert told == ["Secret.A"]


async def test_inboxes_of_ones_own(tmp_path: Path, diary: Diary) -> None:
    """A user that may not listen to everybody's answers has a prefix of its own."""
    permissions = {"subscribe": {"allow": ["_RELAY.>"]}}
    users = [{"user": "relay", "password": "p", "permissions": permissions}]
    async with NatsServer(tmp_path, settings={"authorization": {"users": users}}) as server:
        who: dict[str, Any] = {"user": "relay", "password": Secret("p")}
        async with connected(config(server.url, inbox_prefix="_RELAY", **who), diary) as client:
            assert await works(client)

        told = await refusal(config(server.url, **who), diary)

    assert "permissions violation for subscription to" in told


async def test_closing_does_not_wait_for_a_dead_network(diary: Diary, nats_server: NatsServer) -> None:
    """A relay that is told to stop must not hang on a server that does not read."""
    async with TcpProxy(nats_server.port) as proxy:
        client = await connect(config(proxy.url), log=diary.log, name="test")
        proxy.stall()
        for _ in range(20):
            await asyncio.wait_for(client.publish("talk", bytes(1 << 19)), LIMIT)
            if client.pending_data_size:
                break
        async with asyncio.timeout(LIMIT):
            await client.close()

    assert client.is_closed


# -- the order of servers ------------------------------------------------------------------------


def pool(*names: str) -> list[Server]:
    return [Server(uri=cast("Any", _Uri(name))) for name in names]


class _Uri:
    def __init__(self, netloc: str) -> None:
        self.netloc = netloc


def visits(tour: Tour, servers: list[Server], count: int) -> tuple[list[str], list[float]]:
    """The next stops, and the wait before each."""
    stops = [tour(servers, {}) for _ in range(count)]
    return [server.uri.netloc for server, _ in stops], [wait for _, wait in stops]


def test_every_server_is_tried_once_before_any_is_tried_again() -> None:
    """Quickly at first, then with waits that spread."""
    names, waits = visits(Tour(Random(1)), pool("a", "b", "c"), 9)

    assert [sorted(names[lap : lap + 3]) for lap in (0, 3, 6)] == [["a", "b", "c"]] * 3
    assert all(wait <= 0.1 for wait in waits[:3])
    assert all(0.25 <= wait <= 1.0 for wait in waits[3:])
    assert len(set(waits)) == 9


def test_many_relays_do_not_start_with_the_same_server() -> None:
    """The order is each relay's own."""
    firsts = {visits(Tour(Random(seed)), pool("a", "b", "c"), 1)[0][0] for seed in range(20)}

    assert firsts == {"a", "b", "c"}


def test_a_found_server_ends_the_tour() -> None:
    """The next loss is answered quickly again."""
    tour = Tour(Random(1))
    visits(tour, pool("a", "b"), 5)
    tour.arrived()

    names, waits = visits(tour, pool("a", "b"), 2)

    assert sorted(names) == ["a", "b"]
    assert all(wait <= 0.1 for wait in waits)


def test_servers_that_were_left_are_tried_last() -> None:
    """Those of no use come after all others, the one that was left last at the very end."""
    for seed in range(20):
        tour = Tour(Random(seed), ["c", "a"])

        names, _ = visits(tour, pool("a", "b", "c", "d"), 4)

        assert set(names[:2]) == {"b", "d"}
        assert names[2:] == ["c", "a"]


def test_a_server_that_left_the_cluster_is_not_visited() -> None:
    """The pool may change between two attempts."""
    tour = Tour(Random(1))
    (first,), _ = visits(tour, pool("a", "b"), 1)
    other = "b" if first == "a" else "a"

    names, _ = visits(tour, pool(first, "c"), 2)

    assert other not in names
