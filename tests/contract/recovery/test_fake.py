"""The Konnect on loopback sends as the real one is documented to."""

from __future__ import annotations

import base64
import gzip
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from relay.konnect.parse import parse
from tests.fakes.chunks import sample
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import PORTAL, FakeKonnect, Maker, Place
from tests.fakes.konnect.writing import line
from tests.fakes.siem import Siem


@pytest.fixture
async def receiver() -> AsyncIterator[Siem]:
    async with Siem(path="/audit-logs/us") as receiver:
        yield receiver


async def test_a_batch_is_given_up_after_the_fourth_retry(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem
) -> None:
    """Waits of 1, 2, 4 and 8 s; then the webhook is inactive and nothing more is sent."""
    konnect.organisation.bind(receiver.url, "Bearer x")
    receiver.then(500)

    (sending,) = konnect.happen(maker.some(3, at=clock.now()))
    for wait in (1.0, 2.0, 4.0, 8.0):
        assert await clock.next_wake() == wait
        await clock.advance(wait)
    await konnect.sent()
    (later,) = konnect.happen(maker.some(3, at=clock.now()))
    await konnect.sent()

    assert sending.answers == [500] * 5
    assert (sending.given_up, later.answers) == (True, [])
    assert konnect.organisation.webhook(Place()).status == "inactive"
    assert len(konnect.held()) == 6


@pytest.mark.parametrize(("status", "attempts"), [(202, 1), (400, 1), (401, 1), (413, 1), (503, 1), (429, 2)])
async def test_what_is_tried_again(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem, status: int, attempts: int
) -> None:
    """429 and 500 and no other answer."""
    konnect.organisation.bind(receiver.url, "Bearer x")
    receiver.answer(status)

    (sending,) = konnect.happen(maker.some(3, at=clock.now()))
    if attempts > 1:
        assert await clock.next_wake() == 1.0
        await clock.advance(1.0)
    await konnect.sent()

    assert len(sending.answers) == attempts
    assert sending.accepted is (status in (202, 429))


async def test_who_asks_for_more_time_gets_none(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem
) -> None:
    """Konnect's documents name its waits and no Retry-After."""
    konnect.organisation.bind(receiver.url, "Bearer x")
    receiver.answer(429, headers={"Retry-After": "60"})

    konnect.happen(maker.some(3, at=clock.now()))

    assert await clock.next_wake() == 1.0


async def test_an_answer_that_does_not_come_is_final(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem
) -> None:
    """Whether the batch was stored or not: nothing says that a time-out is tried again."""
    konnect.sender.answer_limit = 0.05
    konnect.organisation.bind(receiver.url, "Bearer x")
    receiver.hang()

    (sending,) = konnect.happen(maker.some(3, at=clock.now()))
    await konnect.sent()

    assert (sending.answers, sending.timed_out) == ([None], True)
    assert konnect.organisation.webhook(Place()).status == "inactive"


@pytest.mark.parametrize("disables", [False, True])
async def test_an_inactive_webhook_stays_so(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem, disables: bool
) -> None:
    """Also when a batch that was on its way is accepted afterwards."""
    konnect.sender.disables = disables
    konnect.organisation.bind(receiver.url, "Bearer x")
    receiver.answer(500).answer(400)

    konnect.happen(maker.some(2, at=clock.now()), batch=1)
    assert await clock.next_wake() == 1.0  # one waits for its second attempt, the other was given up
    await clock.advance(1.0)
    await konnect.sent()

    webhook = konnect.organisation.webhook(Place())
    assert (webhook.status, webhook.enabled) == ("inactive", not disables)
    assert len(receiver.requests) == (2 if disables else 3)


async def test_a_receiver_that_is_gone_is_tried_again(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem
) -> None:
    """A refused connection counts like a 500."""
    konnect.organisation.bind(receiver.url, "Bearer x")
    await receiver.close()

    (sending,) = konnect.happen(maker.some(3, at=clock.now()))
    assert await clock.next_wake() == 1.0
    await receiver.start(receiver.port)
    await clock.advance(1.0)
    await konnect.sent()

    assert sending.answers == [None, 200]


@pytest.mark.parametrize("log_format", ["cef", "json", "cps"])
async def test_batches_are_as_konnect_writes_them(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem, log_format: str
) -> None:
    """gzip, one signed event a line, the authorization as it was given; twins are two lines."""
    konnect.organisation.bind(receiver.url, "Splunk x", log_format=log_format)
    events = maker.some(4, at=clock.now())

    konnect.happen([*events, events[0]])
    await konnect.sent()

    (request,) = receiver.requests
    lines = request.lines()
    assert request.headers["Authorization"] == "Splunk x"
    assert request.headers["Content-Type"] == "text/plain"
    assert gzip.decompress(request.raw) == request.body
    assert (len(lines), lines[0]) == (5, lines[4])
    records = [parse(each) for each in lines]
    assert all(record is not None for record in records)
    assert all(b"sig" in each for each in lines)


async def test_the_key_is_the_one_of_the_samples(
    konnect: FakeKonnect, maker: Maker, clock: FakeClock
) -> None:
    """Signatures cover the line without them, by the key that jwks.json shows to anyone."""
    url = f"{konnect.url()}/v2/audit-log-webhook/jwks.json"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        key = (await answer.json())["keys"][0]
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "="))
    text, _, signature = line(maker.authorization(at=clock.now()), "cef", stamp=clock.now()).rpartition(
        b" sig="
    )

    public.verify(base64.urlsafe_b64decode(signature + b"=="), text)

    sample_text, _, sample_signature = sample("cef")[0].rpartition(b" sig=")
    public.verify(base64.urlsafe_b64decode(sample_signature + b"=="), sample_text)


async def test_a_replay_sends_everything_again_in_other_batches(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem
) -> None:
    """Other boundaries, new header times, and only what lies in the window."""
    konnect.organisation.bind(receiver.url, "Bearer x")
    konnect.happen(maker.some(20, at=clock.now(), every=1.0), batch=10)
    await konnect.sent()
    first = receiver.lines()
    await clock.advance(3600)

    konnect.begin_replay(clock.now() - 3600, clock.now() - 3600 + 9)
    for _ in range(3):
        assert await clock.next_wake() == 1.0
        await clock.advance(1.0)

    assert await konnect.replayed() == "completed"
    assert [len(request.lines()) for request in receiver.requests] == [10, 10, 7, 3]
    assert not set(first) & set(receiver.lines()[20:])


async def test_a_replay_fails_half_way_when_told(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem
) -> None:
    """And the next one does not; a portal's goes to the portal's webhook."""
    konnect.organisation.bind(receiver.url, "Bearer x", place=Place(portal=PORTAL))
    konnect.record([maker.authentication(at=clock.now(), portal=PORTAL) for _ in range(20)])
    konnect.replays.fail_after, konnect.replays.pace = 1, None
    place = Place(portal=PORTAL)
    results = []

    for _ in range(2):
        konnect.begin_replay(clock.now() - 1, clock.now() + 1, place)
        for _ in range(3):
            konnect.replays.step(place)
        results.append(await konnect.replayed(place))

    assert results == ["failed", "completed"]
    assert len(receiver.lines()) == 7 + 20


async def test_a_disabled_webhook_gets_nothing(
    konnect: FakeKonnect, clock: FakeClock, maker: Maker, receiver: Siem
) -> None:
    """Neither do the seven days wait for anyone."""
    konnect.organisation.bind(receiver.url, "Bearer x")
    konnect.organisation.webhook(Place()).enabled = False

    konnect.happen(maker.some(3, at=clock.now()))
    await konnect.sent()
    assert (receiver.requests, len(konnect.held())) == ([], 3)

    await clock.advance(7 * 86_400 + 1)
    assert (konnect.held(), len(konnect.truth.deleted)) == ([], 3)


async def test_a_bad_certificate_is_final(clock: FakeClock, maker: Maker) -> None:
    """No second attempt; unless the destination says that nobody is to look."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with Siem(tls=context) as receiver, FakeKonnect(clock) as konnect:
        made = konnect.organisation.bind(receiver.url, "Bearer x")
        (refused,) = konnect.happen(maker.some(1, at=clock.now()))
        await konnect.sent()
        made.skip_ssl_verification = True
        konnect.organisation.webhook(Place()).failing = False
        (taken,) = konnect.happen(maker.some(1, at=clock.now()))
        await konnect.sent()

    assert (refused.answers, refused.refused_certificate) == ([None], True)
    assert taken.answers == [200]
