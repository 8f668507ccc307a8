"""Opening the connection to NATS, and staying connected.

Owns the options of the client, the order in which servers are tried, and the words for whatever goes wrong.
A secret is in none of them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

import orjson
from nats.aio.client import Server
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from relay.config.destination import ClientTls
from relay.config.queue import JetStreamQueueConfig
from relay.errors import ConfigError, QueueError
from relay.observe.logs import Log
from relay.queue.jetstream.client import Client
from relay.queue.jetstream.identity import Identity
from relay.queue.jetstream.pausing import pause
from relay.tls import client_context

# Atomic batches (ADR-50) came with API level 2, in NATS 2.12.
_API_LEVEL: Final = 2
_OLDEST: Final = "2.12"
_NOT_ENABLED: Final = frozenset((10035, 10039, 10076))

_ATTEMPT_SECONDS: Final = 2.0  # with one server, before the next one is tried
_AGAIN_SECONDS: Final = 0.25  # between attempts with the same server at the start
# A connection on which nothing answers is given up after three of these. The relay's leases are lost before.
_PING_SECONDS: Final = 2
_MISSED_PINGS: Final = 2
_FIRST_WAIT: Final = (0.0, 0.1)  # seconds before each server is tried for the first time after a loss
_LATER_WAIT: Final = (0.25, 1.0)


async def connect(config: JetStreamQueueConfig, *, log: Log, name: str) -> Client:
    """Connect to one of the servers, and from then on again to any of them whenever the connection is lost.

    *name* shows in the server's list of connections. Raises `ConfigError` for files and keys that cannot be
    used, and `QueueError` when there is no usable JetStream within `connect_timeout`.
    """
    identity = _identity(config)
    tls = await asyncio.to_thread(_context, config)
    client = Client(encrypted=config.encrypted, identity=identity)
    tour = Tour(Random(), client.avoided)  # noqa: S311 - spreads connections, keeps no secret
    reporter = _Reporter(client, tour, log)
    try:
        async with asyncio.timeout(config.connect_timeout):
            await client.connect(
                servers=list(config.servers),
                name=name,
                tls=tls,
                user=config.user,
                password=None if config.password is None else config.password.reveal(),
                token=None if config.token is None else config.token.reveal(),
                signature_cb=None if identity is None else identity.sign,
                user_jwt_cb=None if identity is None or identity.jwt is None else identity.user_jwt,
                inbox_prefix=config.inbox_prefix,
                connect_timeout=_ATTEMPT_SECONDS,  # type: ignore[arg-type] # any number will do
                reconnect_time_wait=_AGAIN_SECONDS,  # type: ignore[arg-type] # any number will do
                max_reconnect_attempts=-1,
                reconnect_to_server_handler=tour,
                ping_interval=_PING_SECONDS,
                max_outstanding_pings=_MISSED_PINGS,
                error_cb=reporter.failed,
                disconnected_cb=reporter.disconnected,
                reconnected_cb=reporter.reconnected,
            )
            await _find_jetstream(client, config.api_prefix, reporter)
    except TimeoutError:
        await client.close()
        where = ", ".join(config.servers)
        reasons = "; ".join(reporter.reasons) or "no answer"
        raise QueueError(f"cannot connect to NATS at {where}: {reasons}") from None
    except BaseException:
        await client.close()
        raise
    reporter.begin()
    return client


class Tour:
    """Which server is tried next, and after which wait: all of them in a random order, again and again.

    Quickly at first, because any other server of a cluster will do; then slowly, so that many relays do not
    run over a cluster that is just coming back. Those in *avoided* come last, in that order.
    """

    def __init__(self, rng: Random, avoided: Sequence[str] = ()) -> None:
        self._rng = rng
        self._avoided = avoided
        self._ahead: list[str] = []
        self._laps = 0

    def __call__(self, pool: list[Server], info: Mapping[str, Any]) -> tuple[Server, float]:
        """As the client's `reconnect_to_server_handler`. The wait is in seconds."""
        known = {server.uri.netloc: server for server in pool}
        self._ahead = [each for each in self._ahead if each in known]
        if not self._ahead:
            self._ahead = list(known)
            self._rng.shuffle(self._ahead)
            self._ahead.sort(key=self._rank)  # the next one is taken from the end
            self._laps += 1
        wait = self._rng.uniform(*(_FIRST_WAIT if self._laps == 1 else _LATER_WAIT))
        return known[self._ahead.pop()], wait

    def _rank(self, name: str) -> int:
        return -1 - self._avoided.index(name) if name in self._avoided else 0

    def arrived(self) -> None:
        """A server was found; the next loss begins a new tour."""
        self._ahead = []
        self._laps = 0


class _Reporter:
    """Tells the log what happens to the connection, each reason once until it is connected again."""

    def __init__(self, client: Client, tour: Tour, log: Log) -> None:
        self._client = client
        self._tour = tour
        self._log = log
        self._begun = False
        self.reasons: dict[str, None] = {}  # in the order they came up

    def begin(self) -> None:
        """From here on whatever goes wrong is logged; until then it is the caller's to raise."""
        self._begun = True
        self._tour.arrived()
        self.reasons.clear()

    async def failed(self, error: Exception) -> None:
        reason = sentence(error)
        if reason not in self.reasons:
            self.reasons[reason] = None
            if self._begun:
                self._log.warning("queue.connection_failed", detail=reason)

    async def disconnected(self) -> None:
        if self._client.is_closed:  # by us, or for good; the latter is told as every other failure
            return
        self._client.forget_unsent()
        for tell in self._client.when_dropped:
            tell()
        if self._begun:
            self._log.warning("queue.disconnected", server=self._server())

    async def reconnected(self) -> None:
        self._tour.arrived()
        self.reasons.clear()
        if self._begun:
            self._log.info("queue.reconnected", server=self._server())

    def _server(self) -> str | None:
        url = self._client.connected_url
        return None if url is None else url.netloc


def sentence(error: Exception) -> str:
    """What went wrong, in words that hold nothing of what we sent."""
    text = str(error).lower()
    match error:
        case socket.gaierror():
            return "the name cannot be resolved"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            return f"it refuses our client certificate ({error.reason})"
        case ssl.SSLError():
            return "the TLS handshake failed"
        case TimeoutError():
            return "no answer"
        case OSError():
            return os.strerror(error.errno).lower() if error.errno else "the connection broke"
        case NatsError() if "authorization violation" in text or "authentication" in text:
            return "it refuses our credentials"
        case NatsError() if "permissions violation" in text:  # with the subject as it is written
            return str(error).removeprefix("nats: ").strip("' ")
        case NatsError():
            return text.removeprefix("nats: ").strip("' ")
        case _:
            return f"the connection failed ({type(error).__name__})"


async def _find_jetstream(client: Client, api_prefix: str, reporter: _Reporter) -> None:
    """Wait until JetStream answers. Raises `QueueError` where it is switched off or too old."""
    while True:
        try:
            answer = await client.request(f"{api_prefix}.INFO", timeout=_ATTEMPT_SECONDS)
        except NoRespondersError:
            raise QueueError(
                f"NATS answers, but not on {api_prefix}: JetStream is not enabled, or not for this account"
            ) from None
        except NatsError as error:  # a time-out, or the connection was lost again
            await reporter.failed(error)
            await pause()
            continue
        info = orjson.loads(answer.data)
        refusal = info.get("error")
        if refusal is None:
            break
        if refusal.get("err_code") in _NOT_ENABLED:
            raise QueueError("JetStream is not enabled on the NATS server, or not for this account")
        await reporter.failed(NatsError(refusal.get("description", "JetStream is not ready")))
        await pause()
    if info.get("api", {}).get("level", 0) < _API_LEVEL:
        found = client.connected_server_version
        version = f"{found.major}.{found.minor}.{found.patch}"
        raise QueueError(f"NATS {version} is too old; the relay needs {_OLDEST} or later")


def _identity(config: JetStreamQueueConfig) -> Identity | None:
    """Raises `ConfigError`."""
    if config.credentials is not None:
        key, identity = "credentials", Identity.of_creds(config.credentials)
    elif config.nkey is not None:
        key, identity = "nkey", Identity(config.nkey)
    else:
        return None
    try:
        identity.public_key()
    except ValueError:
        raise ConfigError([f"queue.{key}: the seed is damaged, its checksum is wrong"]) from None
    return identity


def _context(config: JetStreamQueueConfig) -> ssl.SSLContext:
    """Also without TLS in the configuration: a server may demand it of everyone. Blocks."""
    try:
        return client_context(config.tls or ClientTls())
    except ConfigError as error:
        raise ConfigError([f"queue.{problem}" for problem in error.problems]) from error
