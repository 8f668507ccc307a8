"""The client of Konnect's control API against a Konnect on loopback."""

from __future__ import annotations

import pytest

from relay.config.secret import Secret
from relay.recovery.answers import ORGANISATION, PulledPage, ReplayState, Scope, Webhook, WebhookState
from relay.recovery.api import Hosts, KonnectApi
from relay.recovery.errors import (
    KonnectConflict,
    KonnectError,
    KonnectForbidden,
    KonnectNotFound,
    KonnectRefused,
    KonnectThrottled,
    KonnectUnauthorised,
    KonnectUnavailable,
)
from tests.contract.recovery.conftest import client
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import PORTAL, TOKEN, FakeKonnect, Fault, Maker, Place
from tests.fakes.konnect.pull_api import CursorForm
from tests.fakes.process import free_port

SECRET = Secret("Bearer a-fresh-authorization")
ENDPOINT = "https://relay.example.com/audit-logs/us"


async def pull(api: KonnectApi, *, start: float, end: float, size: int = 1000) -> list[PulledPage]:
    return [page async for page in api.pages(start, end, size=size)]


# What goes wrong


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, KonnectRefused),
        (401, KonnectUnauthorised),
        (403, KonnectForbidden),
        (404, KonnectNotFound),
        (408, KonnectUnavailable),
        (409, KonnectConflict),
        (418, KonnectRefused),
        (429, KonnectThrottled),
        (500, KonnectUnavailable),
        (503, KonnectUnavailable),
        (599, KonnectUnavailable),
    ],
)
async def test_each_refusal_is_an_error_of_its_kind(
    konnect: FakeKonnect, api: KonnectApi, status: int, kind: type[KonnectError]
) -> None:
    """Any call's failure is one of a few types that carry the status."""
    konnect.faults.add(Fault("GET", "/v3/audit-log-webhook/status", status=status))

    with pytest.raises(kind) as caught:
        await api.webhook_status(ORGANISATION)

    assert type(caught.value) is kind
    assert caught.value.status == status
    assert str(status) in str(caught.value)


async def test_a_wrong_token_is_told_without_the_token(konnect: FakeKonnect, clock: FakeClock) -> None:
    """401 says what to do, and the token is in no message."""
    async with client(konnect, clock, token="kpat_wrongWRONGwrong") as api:
        with pytest.raises(KonnectUnauthorised) as caught:
            await api.webhook(ORGANISATION)

    assert "access token" in str(caught.value)
    assert "kpat_" not in str(caught.value)


async def test_a_token_without_the_role_is_told_the_role(konnect: FakeKonnect, api: KonnectApi) -> None:
    """403 names the role that is missing."""
    konnect.organisation.tokens[TOKEN] = False

    with pytest.raises(KonnectForbidden, match="Audit Logs / Admin"):
        await api.replay_job(ORGANISATION)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), (None, None), ("soon", None)])
async def test_a_throttled_call_tells_how_long_to_wait(
    konnect: FakeKonnect, api: KonnectApi, header: str | None, seconds: float | None
) -> None:
    """`Retry-After` arrives with the error, where it is usable."""
    konnect.faults.add(Fault("*", "*", status=429, retry_after=header))

    with pytest.raises(KonnectThrottled) as caught:
        await api.webhook(ORGANISATION)

    assert caught.value.retry_after == seconds


async def test_an_echoed_secret_is_blotted_out(konnect: FakeKonnect, api: KonnectApi) -> None:
    """An error page that repeats the token and the authorization gives neither away."""
    body = f'{{"detail": "bad {TOKEN} and {SECRET.reveal()}\\nsecond line"}}'.encode()
    konnect.faults.add(Fault("POST", "*", status=400, body=body))

    with pytest.raises(KonnectRefused) as caught:
        await api.create_destination("relay", ENDPOINT, SECRET, log_format="cef")

    assert TOKEN not in str(caught.value)
    assert "a-fresh-authorization" not in str(caught.value)
    assert "bad <secret> and <secret> second line" in str(caught.value)


async def test_a_hanging_konnect_is_unavailable(konnect: FakeKonnect, clock: FakeClock) -> None:
    """Every call is bounded in time."""
    konnect.faults.add(Fault("*", "*", hang=True))

    async with client(konnect, clock, timeout=0.1) as api:
        with pytest.raises(KonnectUnavailable, match=r"no complete answer within 0\.1 s"):
            await api.webhook(ORGANISATION)


async def test_a_reset_connection_is_unavailable(konnect: FakeKonnect, api: KonnectApi) -> None:
    """A connection that breaks is told like any other failure, once aiohttp has tried a second one."""
    konnect.faults.add(Fault("PUT", "*", reset=True, times=2))

    with pytest.raises(KonnectUnavailable, match="before an answer came"):
        await api.start_replay(ORGANISATION, 1_749_999_000, 1_749_999_900)


async def test_no_konnect_at_all_is_unavailable(clock: FakeClock) -> None:
    """Without a route there is a sentence, not a stack trace."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with KonnectApi(Hosts(nowhere, nowhere), Secret("x" * 20), clock=clock) as api:
        with pytest.raises(KonnectUnavailable, match="cannot connect"):
            await api.destinations()


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b'{"webhook_enabled": "yes"}', b'{"last_attempt_at": "yesterday"}', b"\xff"],
)
async def test_an_answer_that_is_not_konnects_is_unavailable(
    konnect: FakeKonnect, api: KonnectApi, body: bytes
) -> None:
    """A success that cannot be read is no success."""
    konnect.faults.add(Fault("GET", "*/status", status=200, body=body))

    with pytest.raises(KonnectUnavailable, match="not Konnect's API"):
        await api.webhook_status(ORGANISATION)


async def test_a_redirect_is_not_followed(konnect: FakeKonnect, api: KonnectApi) -> None:
    """The token goes nowhere else."""
    konnect.faults.add(Fault("GET", "*", status=302))

    with pytest.raises(KonnectRefused):
        await api.webhook(ORGANISATION)

    assert len(konnect.calls) == 1


@pytest.mark.parametrize("region", ["", "US", "us.example.com/", "us-1"])
def test_a_region_that_is_no_word_makes_no_host(region: str) -> None:
    """Whatever is written there cannot send the token to another host."""
    with pytest.raises(ValueError, match="region"):
        Hosts.of_region(region)


# Webhooks


async def test_a_webhook_nobody_set_reads_as_unset(api: KonnectApi) -> None:
    """In all three views."""
    assert await api.webhook(ORGANISATION) == Webhook(None, enabled=False)
    assert (await api.inline_webhook()).endpoint is None
    assert (await api.webhook_status(ORGANISATION)).state is WebhookState.UNCONFIGURED


@pytest.mark.parametrize("portal", [None, PORTAL])
async def test_a_webhook_is_bound_switched_and_unset(
    konnect: FakeKonnect, api: KonnectApi, portal: str | None
) -> None:
    """For the organisation and for a Dev Portal; `enabled` goes with every change."""
    scope = Scope(portal)
    made = await api.create_destination("relay", ENDPOINT, SECRET, log_format="json")

    assert await api.set_webhook(scope, made.id, enabled=True) == Webhook(made.id, enabled=True)
    assert (await api.webhook_status(scope)).state is WebhookState.ACTIVE
    assert await api.set_webhook(scope, made.id, enabled=False) == Webhook(made.id, enabled=False)
    await api.unset_webhook(scope)
    assert await api.webhook(scope) == Webhook(None, enabled=False)

    path = f"/portals/{portal}/audit-log-webhook" if portal else "/v3/audit-log-webhook"
    assert all("enabled" in call.document() for call in konnect.called("PATCH", path))
    assert len(konnect.called("PATCH", path)) == 2


async def test_a_webhook_set_by_version_two_shows_its_endpoint(konnect: FakeKonnect, api: KonnectApi) -> None:
    """The inline view tells of a webhook that has no destination."""
    inline = konnect.organisation.new_destination("inline", ENDPOINT, "x")
    konnect.organisation.webhook(Place()).destination = inline

    assert (await api.webhook(ORGANISATION)).destination_id is None
    assert (await api.inline_webhook()).endpoint == ENDPOINT


async def test_a_portal_of_nobody_is_not_found(api: KonnectApi) -> None:
    """A portal id goes into the path whole, whatever it holds."""
    with pytest.raises(KonnectNotFound):
        await api.webhook(Scope("no/../such"))


async def test_a_failed_webhook_tells_its_last_answer(konnect: FakeKonnect, api: KonnectApi) -> None:
    """`inactive` comes with the code, the words and the time."""
    body = (
        b'{"webhook_enabled":true,"webhook_status":"inactive","last_attempt_at":"2025-06-15T15:06:40.52Z",'
        b'"last_response_code":401,"last_response_message":"Unauthorized"}'
    )
    konnect.faults.add(Fault("GET", "*/status", status=200, body=body))

    status = await api.webhook_status(ORGANISATION)

    assert status.state is WebhookState.INACTIVE
    assert (status.enabled, status.last_response_code, status.last_response_message) == (
        True,
        401,
        "Unauthorized",
    )
    assert status.last_attempt_at == 1_750_000_000.52


# Replay


async def test_no_job_yet_is_over(api: KonnectApi) -> None:
    """The year 1 stands for never."""
    job = await api.replay_job(ORGANISATION)

    assert (job.start, job.end, job.state, job.state.over) == (None, None, ReplayState.UNCONFIGURED, True)


async def test_a_replay_is_accepted_and_refuses_a_second(
    konnect: FakeKonnect, api: KonnectApi, clock: FakeClock
) -> None:
    """One job at a time for a scope, and a portal's is another scope."""
    konnect.replays.pace = None
    start = clock.now() - 3600

    job = await api.start_replay(ORGANISATION, start, clock.now())

    assert (job.start, job.end, job.state) == (start, clock.now(), ReplayState.ACCEPTED)
    assert not job.state.over
    with pytest.raises(KonnectConflict, match="currently running"):
        await api.start_replay(ORGANISATION, start, clock.now())
    assert (await api.start_replay(Scope(PORTAL), start, clock.now())).state is ReplayState.ACCEPTED


async def test_a_replay_from_before_the_seven_days_is_refused(api: KonnectApi, clock: FakeClock) -> None:
    """Konnect has deleted that for good."""
    with pytest.raises(KonnectRefused, match="7 days"):
        await api.start_replay(ORGANISATION, clock.now() - 8 * 86_400, clock.now())


async def test_an_unknown_status_is_not_taken_for_an_end(konnect: FakeKonnect, api: KonnectApi) -> None:
    """A word that Konnect learns later keeps a poller polling."""
    konnect.faults.add(Fault("GET", "*/audit-log-replay-job", status=200, body=b'{"status":"paused"}'))

    job = await api.replay_job(ORGANISATION)

    assert (job.state, job.state.over) == (ReplayState.UNKNOWN, False)


# Destinations


async def test_a_taken_name_is_a_conflict(api: KonnectApi) -> None:
    """Two destinations cannot be called the same."""
    await api.create_destination("relay", ENDPOINT, SECRET, log_format="cef")

    with pytest.raises(KonnectConflict, match="this name"):
        await api.create_destination("relay", ENDPOINT, SECRET, log_format="cef")


async def test_a_destination_in_use_cannot_be_deleted(konnect: FakeKonnect, api: KonnectApi) -> None:
    """And stays in use for a while after it was unset."""
    made = await api.create_destination("relay", ENDPOINT, SECRET, log_format="cef")
    await api.set_webhook(ORGANISATION, made.id, enabled=True)
    konnect.organisation.linger = 1

    with pytest.raises(KonnectConflict, match="in use"):
        await api.delete_destination(made.id)
    await api.unset_webhook(ORGANISATION)
    with pytest.raises(KonnectConflict, match="in use"):
        await api.delete_destination(made.id)
    await api.delete_destination(made.id)
    with pytest.raises(KonnectNotFound):
        await api.destination(made.id)


async def test_destinations_of_all_pages_are_found(konnect: FakeKonnect, api: KonnectApi) -> None:
    """Also more than one page of them, and one by its name."""
    for number in range(150):
        konnect.organisation.bind(ENDPOINT, "x", place=Place("us", str(number)))
    made = await api.create_destination("relay", ENDPOINT, SECRET, log_format="cps")

    assert len(await api.destinations()) == 151
    assert await api.destinations(name="relay") == (made,)
    assert await api.destinations(name="rel") == ()
    assert await api.destination(made.id) == made


async def test_a_new_authorization_is_sent_alone(konnect: FakeKonnect, api: KonnectApi) -> None:
    """Nothing else of the destination changes, and the answer does not hold it."""
    made = await api.create_destination("relay", ENDPOINT, SECRET, log_format="cps")

    assert await api.set_authorization(made.id, Secret("Bearer newer")) == made

    assert konnect.organisation.destinations[made.id].authorization == "Bearer newer"
    assert konnect.called("PATCH", made.id)[0].document() == {"authorization": "Bearer newer"}


# Pull


@pytest.mark.parametrize("form", ["path", "token", "url", "mangled", "at_meta"])
async def test_pages_follow_each_form_of_cursor(
    konnect: FakeKonnect, api: KonnectApi, clock: FakeClock, maker: Maker, form: CursorForm
) -> None:
    """Every entry of the range arrives once, newest first, with its signature."""
    start = clock.now() - 60
    konnect.record(maker.some(25, at=start))
    konnect.pull.cursor_form = form

    pages = await pull(api, start=start, end=clock.now(), size=10)

    stamps = [str(entry["ts"]) for page in pages for entry in page.entries]
    assert [len(page.entries) for page in pages] == [10, 10, 5]
    assert stamps == sorted(set(stamps), reverse=True)
    assert all("signature" in entry for page in pages for entry in page.entries)
    assert (pages[-1].cursor, pages[-1].repeated) == (None, False)


async def test_a_repeated_cursor_ends_the_pages(
    konnect: FakeKonnect, api: KonnectApi, clock: FakeClock, maker: Maker
) -> None:
    """A server that leads in a circle is left, and the last page says so."""
    konnect.record(maker.some(25, at=clock.now() - 60))
    konnect.pull.cursor_form = "repeated"

    pages = await pull(api, start=clock.now() - 60, end=clock.now(), size=10)

    assert [page.repeated for page in pages] == [False, True]


async def test_a_next_page_without_a_cursor_is_an_error(konnect: FakeKonnect, api: KonnectApi) -> None:
    """To stop there in silence would be to miss events."""
    body = b'{"data":[],"meta":{"page":{"next":"/audit-logs?page[before]=x"}}}'
    konnect.faults.add(Fault("GET", "/v3/audit-logs", status=200, body=body))

    with pytest.raises(KonnectUnavailable, match="next page"):
        await pull(api, start=0, end=1)


async def test_pulling_goes_on_after_a_failure(
    konnect: FakeKonnect, api: KonnectApi, clock: FakeClock, maker: Maker
) -> None:
    """From the cursor of the last page that came."""
    start = clock.now() - 60
    konnect.record(maker.some(25, at=start))
    konnect.faults.add(Fault("GET", "/v3/audit-logs", status=429, after=1))
    following = api.pages(start, clock.now(), size=10)
    pages = [await anext(following)]

    with pytest.raises(KonnectThrottled):
        await anext(following)
    pages += [page async for page in api.pages(start, clock.now(), size=10, cursor=pages[-1].cursor)]

    assert len({str(entry["trace_id"]) for page in pages for entry in page.entries}) == 25


async def test_the_range_and_the_type_narrow_what_is_pulled(
    konnect: FakeKonnect, api: KonnectApi, clock: FakeClock, maker: Maker
) -> None:
    """Both ends belong to the range; the organisation's log holds no portal's logins."""
    start = clock.now() - 60
    konnect.record(maker.some(30, at=start, every=1.0))
    konnect.record([maker.authentication(at=start, portal=PORTAL)])

    pages = [page async for page in api.pages(start + 3, start + 11, only="authorization")]

    assert [{"authorization"}] == [{entry["type"] for entry in page.entries} for page in pages]
    assert sum(len(page.entries) for page in pages) == 3


# The clock


async def test_the_clocks_are_compared(konnect: FakeKonnect, api: KonnectApi, clock: FakeClock) -> None:
    """By the Date of Konnect's latest answer, whatever it answered."""
    assert api.clock_skew is None
    konnect.date = "Sun, 15 Jun 2025 15:07:40 GMT"

    await api.webhook(ORGANISATION)

    assert api.clock_skew == 60.0
