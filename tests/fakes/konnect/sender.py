"""How Konnect posts batches to a webhook: five attempts at most, by its own clock.

Waits of 1, 2, 4 and 8 s; a connection error, 429 and 500 are tried again, any other refusal is final. A batch
that was given up on makes the webhook inactive, and nothing keeps it for later.

Where Konnect's documents leave something open this one is the harsher: an answer that does not come in time
and a bad certificate are not named among what is tried again, `Retry-After` is not heeded, and an inactive
webhook stays so until it is enabled anew, whatever else is accepted meanwhile.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import aiohttp

from relay.clock import Clock
from tests.fakes.konnect.events import AuditEvent
from tests.fakes.konnect.organisation import Organisation, Place, Webhook
from tests.fakes.konnect.writing import LogFormat, body

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds
RETRIED = frozenset({429, 500})
_ANSWER_LIMIT = 40.0  # real seconds Konnect is imagined to wait for an answer, where a test says nothing else


@dataclass(slots=True)
class Sending:
    """One batch and what became of it."""

    place: Place
    events: tuple[AuditEvent, ...]
    replay: bool = False
    answers: list[int | None] = field(default_factory=list)  # of each attempt; None: no whole answer
    refused_certificate: bool = False
    timed_out: bool = False  # an answer did not come in time
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def accepted(self) -> bool:
        return bool(self.answers) and self.answers[-1] is not None and 200 <= self.answers[-1] < 300

    @property
    def given_up(self) -> bool:
        """Whether it was tried and is gone. One that found no enabled webhook was never tried."""
        return self.over.is_set() and bool(self.answers) and not self.accepted


class Sender:
    """Posts to whatever a webhook is bound to at the time of each attempt."""

    def __init__(self, organisation: Organisation, clock: Clock, trust: ssl.SSLContext | None) -> None:
        self.sendings: list[Sending] = []
        self.inactive_stops = True  # an inactive webhook gets nothing until it is enabled anew
        self.disables = False  # one that was given up on reads as not enabled as well
        self.restamps = True  # a replay writes the headers anew, and so the signatures; False: the same bytes
        self.answer_limit = _ANSWER_LIMIT
        self._organisation = organisation
        self._clock = clock
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def ready(self, place: Place) -> bool:
        """Whether anything is sent for this place at all."""
        webhook = self._organisation.webhook(place)
        stopped = webhook.failing and self.inactive_stops
        return webhook.destination is not None and webhook.enabled and not stopped

    def begin(self, place: Place, events: Sequence[AuditEvent], *, replay: bool = False) -> Sending:
        """A batch that `send` is to be called with."""
        sending = Sending(place, tuple(events), replay)
        self.sendings.append(sending)
        return sending

    async def send(self, sending: Sending) -> None:
        """All attempts, to the end of the last wait at most."""
        try:
            await self._attempts(sending)
        finally:
            sending.over.set()

    async def _attempts(self, sending: Sending) -> None:
        if not self.ready(sending.place):
            return
        webhook = self._organisation.webhook(sending.place)
        # Whether a replay does is not known; a retry repeats the very bytes.
        payload = self._payload(webhook, sending)
        for wait in (0.0, *WAITS):
            if wait:
                await self._clock.sleep(wait)
            if webhook.destination is None or not webhook.enabled:
                return
            answer = await self._offer(webhook, sending, payload)
            sending.answers.append(answer)
            webhook.last_attempt_at = self._clock.now()
            webhook.last_code = answer
            if sending.accepted:
                webhook.failing = webhook.failing and self.inactive_stops
                webhook.last_message = None
                return
            webhook.last_message = "no answer" if answer is None else f"answered {answer}"
            if sending.refused_certificate or sending.timed_out:
                break
            if answer is not None and answer not in RETRIED:
                break
        webhook.failing = True
        webhook.enabled = webhook.enabled and not self.disables

    def _payload(self, webhook: Webhook, sending: Sending) -> bytes:
        assert webhook.destination is not None
        log_format = cast("LogFormat", webhook.destination.log_format)
        stamp = self._clock.now() if sending.replay and self.restamps else None
        return gzip.compress(body(sending.events, log_format, stamp=stamp), 1, mtime=0)

    async def _offer(self, webhook: Webhook, sending: Sending, payload: bytes) -> int | None:
        assert self._session is not None
        destination = webhook.destination
        assert destination is not None
        headers = {
            "Authorization": destination.authorization,
            "Content-Type": "text/plain",
            "Content-Encoding": "gzip",
        }
        trust: ssl.SSLContext | bool = (
            False if destination.skip_ssl_verification else self._trust if self._trust is not None else True
        )
        try:
            async with self._session.post(
                destination.endpoint,
                data=payload,
                headers=headers,
                ssl=trust,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self.answer_limit),
            ) as response:
                await response.read()
                return response.status
        except aiohttp.ClientConnectorCertificateError:
            sending.refused_certificate = True
            return None
        except TimeoutError:
            sending.timed_out = True
            return None
        except (aiohttp.ClientError, OSError):
            return None
