"""What `konnect doctor` makes of what it saw: one finding for each question, and what to do next.

Pure functions from facts to findings; the facts come from `relay.recovery.examination`. Never does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from relay.recovery.answers import ReplayJob, ReplayState, Scope, WebhookState, WebhookStatus, rfc3339
from relay.recovery.binding import Binding, same_endpoint, shown
from relay.recovery.errors import KonnectError, KonnectForbidden, KonnectNotFound, KonnectUnauthorised
from relay.recovery.finding import Finding, Level
from relay.recovery.gap_finding import OpenGap, gap_finding
from relay.recovery.probe import Answered, Certificate

_DAY: Final = 86_400.0
_SAME_BATCH: Final = 300.0  # seconds by which both sides may differ over when the last batch came
_QUIET: Final = _DAY  # without any batch for longer, something may be wrong
_EXPIRY_NEAR, _EXPIRY_URGENT = 21 * _DAY, 3 * _DAY
_SKEW_SMALL, _SKEW_LARGE = 5.0, 60.0  # seconds


@dataclass(frozen=True, slots=True)
class RelayView:
    """What the relay itself says of the source. Times in seconds since the epoch."""

    source: str
    last_event_at: float | None  # the last request may have been our own, an empty one
    gaps: tuple[OpenGap, ...]
    lost_gaps: int  # closed after Konnect had deleted events of them


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was seen of one webhook. An error stands where its answer would be."""

    scope: Scope
    now: float  # seconds since the epoch
    expected: str | None  # the endpoint that Konnect should send to
    bound: Binding | KonnectError
    status: WebhookStatus | KonnectError
    job: ReplayJob | KonnectError
    skew: float | None  # seconds Konnect's clock is ahead of ours
    certificate: Certificate | None
    answered: Answered | None  # None: no authorization is known here
    relay: RelayView | str  # or why the relay could not be asked


def findings(facts: Facts) -> tuple[Finding, ...]:
    """All of them, in the order in which they should be read."""
    return tuple(finding for check in _CHECKS for finding in check(facts))


def _access(facts: Facts) -> Iterator[Finding]:
    """Whether Konnect can be asked at all."""
    errors = [it for it in (facts.bound, facts.status, facts.job) if isinstance(it, KonnectError)]
    if not errors:
        yield Finding("access", Level.OK, "Konnect's API answers and accepts the token.")
        return
    match errors[0]:
        case KonnectUnauthorised():
            step = "make a new access token in Konnect"
        case KonnectForbidden():
            step = "give the token's account the role Audit Logs / Admin"
        case KonnectNotFound():
            step = "is the region right, and the portal's id?"
        case _:
            step = "try again; is there a route from here, and a proxy to be named in recovery.konnect?"
    yield Finding("access", Level.PROBLEM, str(errors[0]), step)


def _webhook(facts: Facts) -> Iterator[Finding]:
    bound, status = facts.bound, facts.status
    if isinstance(bound, KonnectError) or isinstance(status, KonnectError):
        return
    whose = f"The webhook of {facts.scope}"
    if not bound.in_use:
        yield Finding("webhook", Level.PROBLEM, f"{whose} is not set.", "konnect-relay konnect setup")
    elif not bound.enabled:
        step = "konnect-relay konnect setup switches it on"
        yield Finding("webhook", Level.PROBLEM, f"{whose} is switched off.", step)
    elif status.state is WebhookState.INACTIVE:
        text = f"{whose} is inactive: Konnect has given up on a batch, and may not send."
        step = "mend what stands below, then konnect-relay konnect setup switches it on again"
        yield Finding("webhook", Level.PROBLEM, text, step)
    elif status.state is WebhookState.ACTIVE:
        yield Finding("webhook", Level.OK, f"{whose} is enabled and active.")
    else:
        text = f"{whose} is enabled, and its status is {status.state.value}."
        yield Finding("webhook", Level.WARNING, text, "look at it in Konnect")


def _endpoint(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.bound, KonnectError) or not facts.bound.in_use:
        return
    endpoint = facts.bound.endpoint
    if facts.expected is None:
        text = f"Konnect sends to {shown(endpoint)}; nothing says whether that is this relay."
        yield Finding("endpoint", Level.WARNING, text, "give --url, or set recovery.konnect.url")
    elif not same_endpoint(endpoint, facts.expected):
        text = f"Konnect sends to {shown(endpoint)}, not to {shown(facts.expected)}."
        yield Finding("endpoint", Level.PROBLEM, text, "konnect-relay konnect setup --take-over")
    else:
        yield Finding("endpoint", Level.OK, f"Konnect sends to {shown(endpoint)}.")
    destination = facts.bound.destination
    if destination is not None and destination.skip_ssl_verification:
        text = "Konnect does not check the relay's certificate (skip_ssl_verification)."
        yield Finding("endpoint", Level.WARNING, text, "switch it off at the destination in Konnect")


def _certificate(facts: Facts) -> Iterator[Finding]:
    seen = facts.certificate
    if seen is None:
        return
    if seen.problem is not None or seen.expires_at is None:
        step = (
            "renew it, and have the relay or the proxy send the whole chain"
            if seen.untrusted
            else "is the relay reachable from outside at this name and port?"
        )
        yield Finding("certificate", Level.PROBLEM, f"The certificate: {seen.problem}.", step)
        return
    left = seen.expires_at - facts.now
    text = f"The certificate is trusted and valid for {left / _DAY:.0f} more days."
    if left < _EXPIRY_URGENT:
        yield Finding("certificate", Level.PROBLEM, text, "renew it now: without it nothing comes")
    elif left < _EXPIRY_NEAR:
        yield Finding("certificate", Level.WARNING, text, "renew it")
    else:
        yield Finding("certificate", Level.OK, text)


def _intake(facts: Facts) -> Iterator[Finding]:
    answered = facts.answered
    if answered is None:
        return
    if answered.accepted:
        yield Finding("intake", Level.OK, "The relay answers there and accepts the configured authorization.")
    elif answered.status is None:
        text = f"The relay does not answer there, as seen from here: {answered.detail}."
        yield Finding("intake", Level.PROBLEM, text, "is the relay running, and the way to it open?")
    elif answered.status == 401:
        text = "The relay does not accept the authorization that this configuration names."
        yield Finding("intake", Level.PROBLEM, text, "is it the running relay's configuration? reload it")
    else:
        text = f"What answers there says {answered.status}, which the relay's intake would not."
        yield Finding("intake", Level.PROBLEM, text, "do the path and the proxy lead to the relay?")


def _last_batch(facts: Facts) -> Iterator[Finding]:
    status = facts.status
    if isinstance(status, KonnectError) or status.state is WebhookState.UNCONFIGURED:
        return
    at, code = status.last_attempt_at, status.last_response_code
    if at is None:
        text = "Konnect has sent nothing yet."
        yield Finding("last batch", Level.WARNING, text, "log in to Konnect anew, and look again in a minute")
        return
    when = f"Konnect's last attempt was at {rfc3339(at)}"
    if code is None or not 200 <= code < 300:
        said = "got no answer" if code is None else f"was answered {code}"
        yield Finding("last batch", Level.PROBLEM, f"{when} and {said}.", _ADVICE.get(code, _ADVICE[None]))
        return
    if isinstance(facts.relay, RelayView):
        seen = facts.relay.last_event_at
        if seen is None or seen < at - _SAME_BATCH:
            here = "nothing has come" if seen is None else f"the last one came at {rfc3339(seen)}"
            text = f"{when} and was answered {code}, but to the source {facts.relay.source} {here}."
            doubt = "does something else answer for the relay, e.g. a proxy? or were all of them duplicates?"
            yield Finding("last batch", Level.WARNING if seen else Level.PROBLEM, text, doubt)
            return
    quiet = facts.now - at > _QUIET
    text = f"{when} and was answered {code}."
    step = "a quiet organisation, or none of its events come here" if quiet else None
    yield Finding("last batch", Level.WARNING if quiet else Level.OK, text, step)


_ADVICE: Final = {
    None: "is the relay running and reachable from outside, with a good certificate?",
    401: "Konnect's authorization is not the relay's: konnect-relay konnect rotate",
    404: "the path is not a source's: compare the endpoint with the configuration",
    413: "raise server.max_body, or the proxy's limit",
    429: "the relay was full: konnect-relay status",
    500: "the relay could not commit: look into its log",
}


def _clock(facts: Facts) -> Iterator[Finding]:
    if facts.skew is None:
        return
    size = abs(facts.skew)
    if size <= _SKEW_SMALL:
        yield Finding("clock", Level.OK, "This machine's clock agrees with Konnect's.")
        return
    direction = "behind" if facts.skew > 0 else "ahead of"
    text = f"This machine's clock is {size:.0f} s {direction} Konnect's."
    level = Level.WARNING if size <= _SKEW_LARGE else Level.PROBLEM
    yield Finding("clock", level, text, "set it by NTP: gaps are noted by this clock")


def _gaps(facts: Facts) -> Iterator[Finding]:
    relay = facts.relay
    if isinstance(relay, str):
        yield Finding(
            "relay", Level.WARNING, relay, "run this where the relay runs, or give --source and --admin-url"
        )
        return
    yield gap_finding(relay.source, relay.gaps, relay.lost_gaps, facts.scope, facts.now)


def _replay(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.job, KonnectError):
        return
    job = facts.job
    if job.state is ReplayState.FAILED and job.start is not None and job.end is not None:
        span = f"{rfc3339(job.start)} to {rfc3339(job.end)}"
        text = f"The last replay job, of {span}, failed."
        step = "unless the gaps say that the relay is at it: konnect-relay konnect recover with these times"
        yield Finding("replay", Level.WARNING, text, step)
    elif not facts.job.state.over:
        yield Finding("replay", Level.OK, f"A replay job is {facts.job.state.value}.")


_CHECKS: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    _access,
    _webhook,
    _endpoint,
    _certificate,
    _intake,
    _last_batch,
    _clock,
    _gaps,
    _replay,
)
