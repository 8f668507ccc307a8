"""What `konnect doctor` makes of what it saw."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.recovery.answers import (
    DestinationInfo,
    ReplayJob,
    ReplayState,
    Scope,
    WebhookState,
    WebhookStatus,
)
from relay.recovery.binding import Binding
from relay.recovery.errors import (
    KonnectError,
    KonnectForbidden,
    KonnectNotFound,
    KonnectUnauthorised,
    KonnectUnavailable,
)
from relay.recovery.finding import Finding, Level
from relay.recovery.findings import Facts, RelayView, findings
from relay.recovery.gap_finding import OpenGap
from relay.recovery.probe import Answered, Certificate

NOW = 1_795_000_000.0
DAY = 86_400.0
ENDPOINT = "https://relay.example.com/audit-logs/konnect-us"
OURS = DestinationInfo("1", "konnect-relay-us", ENDPOINT, "cef", skip_ssl_verification=False)
HEALTHY = Facts(
    scope=Scope(),
    now=NOW,
    expected=ENDPOINT,
    bound=Binding("1", OURS, ENDPOINT, enabled=True),
    status=WebhookStatus(True, WebhookState.ACTIVE, NOW - 60, 200, None),
    job=ReplayJob(None, None, ReplayState.UNCONFIGURED, None),
    skew=0.5,
    certificate=Certificate(None, NOW + 60 * DAY),
    answered=Answered(200, ""),
    relay=RelayView("konnect-us", NOW - 60, (), 0),
)


def found(check: str, **changes: object) -> Finding:
    """The one finding of this name, with these facts changed."""
    (finding,) = [it for it in findings(replace(HEALTHY, **changes)) if it.check == check]  # type: ignore[arg-type]  # named in each test
    return finding


def last(code: int | None, *, ago: float = 60, state: WebhookState = WebhookState.ACTIVE) -> WebhookStatus:
    return WebhookStatus(True, state, NOW - ago, code, None)


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (KonnectUnauthorised("401."), "token"),
        (KonnectForbidden("403."), "Audit Logs / Admin"),
        (KonnectNotFound("404."), "region"),
        (KonnectUnavailable("No route."), "route"),
    ],
)
def test_a_konnect_that_cannot_be_asked_is_a_problem(error: KonnectError, step: str) -> None:
    """It is said once, and what else can be seen is judged all the same."""
    report = findings(replace(HEALTHY, bound=error, status=error, job=error, skew=None))

    assert [it.level for it in report] == [Level.PROBLEM, Level.OK, Level.OK, Level.OK]
    assert [it.check for it in report] == ["access", "certificate", "intake", "gaps"]
    assert step in str(report[0].next)


@pytest.mark.parametrize(
    ("bound", "status", "words"),
    [
        (
            Binding(None, None, None, enabled=False),
            WebhookStatus(False, WebhookState.UNCONFIGURED, None, None, None),
            "not set",
        ),
        (
            Binding("1", OURS, ENDPOINT, enabled=False),
            WebhookStatus(False, WebhookState.INACTIVE, None, None, None),
            "switched off",
        ),
        (Binding("1", OURS, ENDPOINT, enabled=True), last(401, state=WebhookState.INACTIVE), "inactive"),
    ],
)
def test_a_webhook_that_sends_nothing_is_a_problem(bound: Binding, status: WebhookStatus, words: str) -> None:
    """Each with the command that mends it."""
    finding = found("webhook", bound=bound, status=status)

    assert finding.level is Level.PROBLEM
    assert words in finding.text
    assert "konnect setup" in str(finding.next)


def test_a_status_nobody_knows_is_a_warning() -> None:
    """A word Konnect has learned since."""
    assert found("webhook", status=last(200, state=WebhookState.UNKNOWN)).level is Level.WARNING


def test_a_webhook_that_points_elsewhere_is_a_problem() -> None:
    """The key in its endpoint is not shown."""
    elsewhere = Binding("2", None, "https://other.example.com/in?code=s3cret", enabled=True)

    finding = found("endpoint", bound=elsewhere)

    assert finding.level is Level.PROBLEM
    assert "s3cret" not in finding.text


def test_an_endpoint_that_cannot_be_compared_is_a_warning() -> None:
    """Nothing here says where the relay is."""
    assert found("endpoint", expected=None).level is Level.WARNING


def test_an_unchecked_certificate_is_a_warning() -> None:
    """Beside the finding about where Konnect sends."""
    lax = replace(OURS, skip_ssl_verification=True)
    report = findings(replace(HEALTHY, bound=Binding("1", lax, ENDPOINT, enabled=True)))

    assert [it.level for it in report if it.check == "endpoint"] == [Level.OK, Level.WARNING]


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (Certificate("it is not trusted: certificate has expired", untrusted=True), Level.PROBLEM),
        (Certificate("cannot connect: Connection refused"), Level.PROBLEM),
        (Certificate(None, NOW + 2 * DAY), Level.PROBLEM),
        (Certificate(None, NOW + 20 * DAY), Level.WARNING),
        (Certificate(None, NOW + 22 * DAY), Level.OK),
    ],
)
def test_a_certificate_by_the_days_it_has_left(seen: Certificate, level: Level) -> None:
    """Time enough to renew it is told in advance."""
    assert found("certificate", certificate=seen).level is level


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        (Answered(401, ""), "does not accept"),
        (Answered(404, ""), "404"),
        (Answered(None, "cannot connect: Connection refused"), "Connection refused"),
    ],
)
def test_an_intake_that_would_not_take_a_batch_is_a_problem(answered: Answered, words: str) -> None:
    """As an empty request shows."""
    finding = found("intake", answered=answered)

    assert finding.level is Level.PROBLEM
    assert words in finding.text


@pytest.mark.parametrize("code", [None, 401, 404, 413, 418, 429, 500])
def test_a_refused_last_batch_is_a_problem(code: int | None) -> None:
    """With what that answer means."""
    finding = found("last batch", status=last(code))

    assert finding.level is Level.PROBLEM
    assert finding.next


@pytest.mark.parametrize(
    ("status", "seen", "level"),
    [
        (WebhookStatus(True, WebhookState.ACTIVE, None, None, None), None, Level.WARNING),
        (last(200), None, Level.PROBLEM),
        (last(200), NOW - 600, Level.WARNING),
        (last(202, ago=2 * DAY), NOW - 2 * DAY, Level.WARNING),
        (last(200), NOW - 200, Level.OK),
    ],
)
def test_the_last_batch_came_here(status: WebhookStatus, seen: float | None, level: Level) -> None:
    """What Konnect says and what the relay says are compared."""
    finding = found("last batch", status=status, relay=RelayView("konnect-us", seen, (), 0))

    assert finding.level is level


@pytest.mark.parametrize(
    ("skew", "level"),
    [(4.0, Level.OK), (-20.0, Level.WARNING), (61.0, Level.PROBLEM), (-3600.0, Level.PROBLEM)],
)
def test_a_wrong_clock_is_told(skew: float, level: Level) -> None:
    """In both directions."""
    assert found("clock", skew=skew).level is level


def gap(ago: float, **changes: object) -> OpenGap:
    """An hour long, which the relay is to fetch."""
    opened = OpenGap(7, NOW - ago, NOW - ago + 3600, by_relay=True, doing="waiting", at_work=False)
    return replace(opened, **changes)  # type: ignore[arg-type]  # named in each test


def seen(*gaps: OpenGap, lost: int = 0, **changes: object) -> Finding:
    return found("gaps", relay=RelayView("konnect-us", NOW - 60, gaps, lost), **changes)


AT_WORK = {"doing": "replaying the hour", "at_work": True}
STUCK = {"doing": "somebody switched off the webhook"}


@pytest.mark.parametrize(
    ("opened", "level", "words", "step"),
    [
        (gap(DAY, **AT_WORK), Level.WARNING, "144 h. The relay is at it: replaying the hour", "look again"),
        (gap(6.5 * DAY, **AT_WORK), Level.WARNING, "12 h. The relay is at it", "look again"),
        (gap(DAY, **STUCK), Level.WARNING, "says: somebody switched off", "mend it or fetch it now"),
        (gap(6.5 * DAY, **STUCK), Level.PROBLEM, "says: somebody switched off", "mend it or fetch it now"),
        (gap(7 * DAY - 1800, **STUCK), Level.PROBLEM, "30 min", "konnect recover --from"),
        (gap(7 * DAY + 1800, **STUCK), Level.PROBLEM, "deleted its beginning", "konnect recover --from"),
        (gap(8 * DAY, **STUCK), Level.PROBLEM, "deleted all of it", "nothing brings it back"),
        (gap(DAY, doing=None), Level.WARNING, "Nobody is at it", "is one running?"),
        (gap(6.5 * DAY, doing=None), Level.PROBLEM, "Nobody is at it", "is one running?"),
        (gap(DAY, by_relay=False), Level.WARNING, "does not fetch it", "then konnect-relay gaps close 7"),
        (gap(6.5 * DAY, by_relay=False), Level.PROBLEM, "does not fetch it", "gaps close 7"),
    ],
)
def test_an_open_gap_by_who_fetches_it_and_the_time_left(
    opened: OpenGap, level: Level, words: str, step: str
) -> None:
    """Konnect deletes after seven days: the last one is a problem unless the relay is at it."""
    finding = seen(opened)

    assert finding.level is level
    assert words in finding.text
    assert step in str(finding.next)


def test_the_oldest_gap_counts() -> None:
    """Its events are deleted first; the next step names its times, with a margin, and the portal."""
    finding = seen(gap(DAY), gap(2 * DAY, by_relay=False), gap(3600), scope=Scope("p1"))

    assert "3 open gaps; the oldest is from 2026-11-16T11:06:40" in finding.text
    assert finding.next == (
        "konnect-relay konnect recover --from 2026-11-16T11:04:40.000Z --to 2026-11-16T12:08:40.000Z"
        " --portal p1, then konnect-relay gaps close 7"
    )


def test_a_gap_that_is_not_written_down_yet_has_no_number() -> None:
    """There is nothing to close by."""
    assert "gaps close" not in str(seen(gap(DAY, id=0, by_relay=False)).next)


def test_lost_gaps_are_mentioned() -> None:
    """Nothing can be done about them, so they are no problem of today."""
    finding = seen(lost=2)

    assert finding.level is Level.OK
    assert "2 earlier gaps are lost" in finding.text


def test_a_relay_that_cannot_be_asked_is_a_warning() -> None:
    """Doctor may run elsewhere."""
    assert found("relay", relay="No relay answers.").level is Level.WARNING


@pytest.mark.parametrize(
    ("state", "level"), [(ReplayState.FAILED, Level.WARNING), (ReplayState.RUNNING, Level.OK)]
)
def test_a_replay_job_is_told(state: ReplayState, level: Level) -> None:
    """One that failed, and one at work."""
    assert found("replay", job=ReplayJob(NOW - 60, NOW, state, NOW)).level is level


def test_a_healthy_relay_has_nothing_but_good_news() -> None:
    """Every finding is ok, and none asks for anything."""
    report = findings(HEALTHY)

    assert {it.level for it in report} == {Level.OK}
    assert [it.next for it in report] == [None] * len(report)
    assert [it.check for it in report] == [
        "access",
        "webhook",
        "endpoint",
        "certificate",
        "intake",
        "last batch",
        "clock",
        "gaps",
    ]
