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
from relay.recovery.findings import Facts, Finding, Level, RelayView, findings
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
    relay=RelayView("konnect-us", NOW - 60, 0, None),
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
    finding = found("last batch", status=status, relay=RelayView("konnect-us", seen, 0, None))

    assert finding.level is level


@pytest.mark.parametrize(
    ("skew", "level"),
    [(4.0, Level.OK), (-20.0, Level.WARNING), (61.0, Level.PROBLEM), (-3600.0, Level.PROBLEM)],
)
def test_a_wrong_clock_is_told(skew: float, level: Level) -> None:
    """In both directions."""
    assert found("clock", skew=skew).level is level


@pytest.mark.parametrize(
    ("ago", "level", "words"),
    [
        (DAY, Level.WARNING, "144 h"),
        (6.5 * DAY, Level.PROBLEM, "12 h"),
        (8 * DAY, Level.PROBLEM, "has deleted"),
        (None, Level.WARNING, "never came."),
    ],
)
def test_open_gaps_by_the_time_that_is_left(ago: float | None, level: Level, words: str) -> None:
    """Konnect deletes after seven days."""
    oldest = None if ago is None else NOW - ago

    finding = found("gaps", relay=RelayView("konnect-us", NOW - 60, 3, oldest))

    assert finding.level is level
    assert words in finding.text


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
