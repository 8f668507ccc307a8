"""The decision of recovery: a state and a time in, the next action out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay.model import Gap
from relay.observe.ledger import KONNECT_RETENTION, RETENTION_SLACK
from relay.recovery.actions import Action, Close, Judge, Look, Mend, Poll, Pull, Replay, Wait
from relay.recovery.answers import ORGANISATION, ReplayState, Scope, WebhookState, WebhookStatus
from relay.recovery.hook import INACTIVE, Hook
from relay.recovery.outcome import busy, failed, failed_job, fetched, forbidden, postponed
from relay.recovery.patience import Call, Kind, Patience, Rest
from relay.recovery.plan import decide
from relay.recovery.state import Job, Rules, State, Target, Window, Work, window_of

NOW = 1_795_000_000.0
RULES = Rules()
HOUR = 3600.0

ORG = Target("us")
PORTAL = Target("portal", Scope("p1"))
GAP = Gap(1, "us", NOW - HOUR, NOW - 600, "downtime", 0)
GROWING = Gap(1, "us", NOW - 2 * HOUR + 20, NOW - 5, "429", 400)
WELL = WebhookStatus(True, WebhookState.ACTIVE, NOW - 700, 200, None)
FAILED = WebhookStatus(False, WebhookState.INACTIVE, NOW - 700, 500, "answered 500")
WELL_BEFORE = replace(WELL, last_attempt_at=NOW - 780)
BY_HAND = WebhookStatus(False, WebhookState.INACTIVE, NOW - 700, 200, None)
UNSET = WebhookStatus(False, WebhookState.UNCONFIGURED, None, None, None)
WINDOW = Window(GAP.start - 120, GAP.end + 120)
JOB = Job(1, ORG, WINDOW, NOW - 100, NOW - 50)
OVER = replace(JOB, state=ReplayState.COMPLETED, over_at=NOW - 30)


def state(**changes: Any) -> State:
    """An hour's gap, a webhook that is well and was looked at a moment ago."""
    whole = State((ORG,), (GAP,), hooks={ORGANISATION: Hook(NOW - 5, WELL)})
    return replace(whole, **changes)


def hooks(status: WebhookStatus | None, *, mended_at: float | None = None) -> dict[Scope, Hook]:
    return {ORGANISATION: Hook(NOW - 5, status, mended_at)}


def work(**changes: Any) -> dict[tuple[int, Scope], Work]:
    return {(1, ORGANISATION): replace(Work(), **changes)}


def resting(kind: Kind, failures: int = 1, *, until: float = NOW + 10, target: Target = ORG) -> Patience:
    return Patience(rests={Call(kind, target.scope): Rest(failures, until, "it failed")})


LOST = "what became of the replay job cannot be seen: it failed"
TOO_LARGE = "this relay refused a batch of it as too large (413): raise server.max_body"
MANY = RULES.calls
PULLED = Window(NOW - 1800, WINDOW.end - 60)

TABLE: dict[str, tuple[State, Action]] = {
    "asked to be left alone": (state(patience=Patience(Rest(1, NOW + 30))), Wait(NOW + 30)),
    "nobody has looked yet": (state(hooks={}), Poll(ORG)),
    "not for a minute": (state(hooks={ORGANISATION: Hook(NOW - 60, WELL)}), Poll(ORG)),
    "a status that cannot be had, and was": (
        state(hooks={ORGANISATION: Hook(NOW - 90, WELL)}, patience=resting(Kind.STATUS)),
        Replay(GAP, ORG, WINDOW),
    ),
    "a status that cannot be had": (state(hooks={}, patience=resting(Kind.STATUS)), Wait(NOW + 10)),
    "a status that cannot be had for long": (
        state(hooks={}, patience=resting(Kind.STATUS, MANY)),
        Pull(GAP, ORG, WINDOW),
    ),
    "a status from before a restart": (
        state(hooks={ORGANISATION: Hook(NOW - 5, WELL, outdated=True)}),
        Poll(ORG),
    ),
    "a replay could not be begun": (state(patience=resting(Kind.REPLAY)), Wait(NOW + 10)),
    "replays cannot be begun": (state(patience=resting(Kind.REPLAY, MANY)), Pull(GAP, ORG, WINDOW)),
    "replays could not be begun": (
        state(patience=resting(Kind.REPLAY, MANY, until=NOW)),
        Replay(GAP, ORG, WINDOW),
    ),
    "neither can be begun": (
        state(
            patience=Patience(
                rests={
                    Call(Kind.REPLAY, ORGANISATION): Rest(MANY, NOW + 20),
                    Call(Kind.PULL, ORGANISATION): Rest(MANY, NOW + 10),
                }
            )
        ),
        Wait(NOW + 10),
    ),
    "a pull that has begun": (
        state(work=work(pulled=PULLED)),
        Pull(GAP, ORG, Window(WINDOW.start, PULLED.end), PULLED),
    ),
    "a pull that has begun, and the gap grew": (
        state(work=work(pulled=Window(NOW - 1800, GAP.end - 1))),
        Pull(GAP, ORG, Window(WINDOW.start, GAP.end - 1), Window(NOW - 1800, GAP.end - 1)),
    ),
    "a pull that has begun and failed": (
        state(work=work(pulled=PULLED), patience=resting(Kind.PULL)),
        Wait(NOW + 10),
    ),
    "a pull that fails and fails": (
        state(work=work(pulled=PULLED, pull=True), patience=resting(Kind.PULL, MANY)),
        Replay(GAP, ORG, WINDOW),
    ),
    "it cannot be switched on": (
        state(hooks=hooks(FAILED), patience=resting(Kind.MEND)),
        Wait(NOW + 55),
    ),
    "it cannot be switched on for long": (
        state(hooks=hooks(FAILED), patience=resting(Kind.MEND, MANY)),
        Pull(GAP, ORG, WINDOW),
    ),
    "what fails for a portal is the portal's": (
        state(targets=(PORTAL, ORG), patience=resting(Kind.STATUS, target=PORTAL)),
        Replay(GAP, ORG, WINDOW),
    ),
    "nothing to do": (state(gaps=()), Wait(NOW + 55)),
    "a gap": (state(), Replay(GAP, ORG, WINDOW)),
    "a gap of a source we cannot ask for": (state(gaps=(replace(GAP, source="eu"),)), Wait(NOW + 55)),
    "a gap that is not written down yet": (state(gaps=(replace(GAP, id=0),)), Wait(NOW + 55)),
    "a gap that may still grow": (state(gaps=(replace(GAP, end=NOW - 5),)), Wait(NOW + 15)),
    "no room": (state(accepting=False), Wait(NOW + 55)),
    "a failure of a moment ago": (state(work=work(retry_at=NOW + 20)), Wait(NOW + 20)),
    "Konnect gave up": (state(hooks=hooks(FAILED)), Mend(ORG)),
    "Konnect gave up, and we have no room": (state(hooks=hooks(FAILED), accepting=False), Wait(NOW + 55)),
    "switched on, nothing sent since": (
        state(hooks={ORGANISATION: Hook(NOW - 5, FAILED, NOW - 20, FAILED.last_attempt_at)}),
        Replay(GAP, ORG, WINDOW),
    ),
    "switched on, failed again at once": (
        state(gaps=(), hooks=hooks(replace(FAILED, last_attempt_at=NOW - 10), mended_at=NOW - 20)),
        Wait(NOW + 55),
    ),
    "switched on by a clock that is ahead of Konnect's, failed again": (
        state(gaps=(), hooks={ORGANISATION: Hook(NOW - 5, FAILED, NOW - 630, NOW - 720)}),
        Mend(ORG),
    ),
    "switched on in the time before the clock was set back": (
        state(gaps=(), hooks={ORGANISATION: Hook(NOW - 5, FAILED, NOW + 86400, NOW - 900)}),
        Mend(ORG),
    ),
    "not allowed in the time before the clock was set back": (
        state(gaps=(), hooks={ORGANISATION: Hook(NOW - 5, FAILED, refused_at=NOW + 86400)}),
        Mend(ORG),
    ),
    "not allowed a moment ago": (
        state(gaps=(), hooks={ORGANISATION: Hook(NOW - 5, FAILED, refused_at=NOW - 4)}),
        Wait(NOW + 55),
    ),
    "not allowed a while ago": (
        state(gaps=(), hooks={ORGANISATION: Hook(NOW - 5, FAILED, refused_at=NOW - 600)}),
        Wait(NOW + 55),
    ),
    "switched on long ago, failed again": (
        state(hooks=hooks(FAILED, mended_at=NOW - 750)),
        Mend(ORG),
    ),
    "switched on, failed and well since, failed again at once": (
        state(
            hooks={ORGANISATION: Hook(NOW - 5, FAILED, NOW - 800, NOW - 900, well=WELL_BEFORE)},
        ),
        Mend(ORG),
    ),
    "failed again, but it was switched on a moment ago": (
        state(
            hooks={
                ORGANISATION: Hook(
                    NOW - 5, replace(FAILED, last_attempt_at=NOW - 10), NOW - 300, NOW - 900, WELL_BEFORE
                )
            }
        ),
        Wait(NOW + 55),
    ),
    "already switched on after this very attempt": (
        state(gaps=(), hooks={ORGANISATION: Hook(NOW - 5, FAILED, NOW - 710, NOW - 700)}),
        Wait(NOW + 55),
    ),
    "switched on long ago after this very attempt, and off": (
        state(hooks={ORGANISATION: Hook(NOW - 5, FAILED, NOW - 650, NOW - 700)}),
        Pull(GAP, ORG, WINDOW),
    ),
    "well after an old failure, then switched off": (
        state(
            hooks={
                ORGANISATION: Hook(
                    NOW - 5,
                    FAILED,
                    NOW - 650,
                    NOW - 700,
                    well=replace(FAILED, enabled=True, state=WebhookState.ACTIVE),
                )
            }
        ),
        Pull(GAP, ORG, WINDOW),
    ),
    "it leads elsewhere": (
        state(hooks={ORGANISATION: Hook(NOW - 5, WELL, elsewhere="https://other")}),
        Pull(GAP, ORG, WINDOW),
    ),
    "it leads elsewhere and failed there": (
        state(gaps=(), hooks={ORGANISATION: Hook(NOW - 5, FAILED, elsewhere="https://other")}),
        Wait(NOW + 55),
    ),
    "a portal's leads elsewhere": (
        State(
            (PORTAL,),
            (replace(GAP, source="portal"),),
            hooks={PORTAL.scope: Hook(NOW - 5, WELL, elsewhere="https://other")},
        ),
        Wait(NOW + 55),
    ),
    "switched off by somebody": (state(hooks=hooks(BY_HAND)), Pull(GAP, ORG, WINDOW)),
    "an inactive webhook's gap grows": (
        state(hooks=hooks(BY_HAND), gaps=(replace(GAP, cause=INACTIVE, start=NOW - 900),)),
        Wait(NOW + 55),
    ),
    "no webhook at all": (state(hooks=hooks(UNSET)), Pull(GAP, ORG, WINDOW)),
    "the status is not for us": (state(hooks=hooks(None)), Pull(GAP, ORG, WINDOW)),
    "a replay will not do": (state(work=work(pull=True)), Pull(GAP, ORG, WINDOW)),
    "a portal cannot be pulled": (
        State(
            (PORTAL,),
            (replace(GAP, source="portal"),),
            hooks={PORTAL.scope: Hook(NOW - 5, UNSET)},
        ),
        Wait(NOW + 55),
    ),
    "our job runs": (state(job=replace(JOB, asked_at=NOW - 2)), Wait(NOW + 3)),
    "our job was not looked at": (state(job=JOB), Look(JOB)),
    "our job cannot be looked at": (state(job=JOB, patience=resting(Kind.JOB)), Wait(NOW + 10)),
    "our job cannot be looked at for long": (
        state(job=JOB, patience=resting(Kind.JOB, MANY)),
        Judge(JOB, LOST),
    ),
    "completed, the webhook cannot be looked at": (
        state(
            job=OVER,
            hooks={ORGANISATION: Hook(NOW - 20, WELL)},
            patience=resting(Kind.STATUS, MANY),
        ),
        Judge(OVER, LOST),
    ),
    "completed, where it led cannot be seen": (
        state(job=OVER, patience=resting(Kind.BINDING, MANY)),
        Judge(OVER, LOST),
    ),
    "failed, for it was too large for us": (
        state(
            job=replace(OVER, state=ReplayState.FAILED),
            gaps=(GAP, Gap(2, "us", NOW - 90, NOW - 80, "413", 1), Gap(3, "us", NOW - 90, NOW, "429", 1)),
        ),
        Judge(replace(OVER, state=ReplayState.FAILED), TOO_LARGE, lasting=True),
    ),
    "completed, but a proxy would not have it": (
        state(
            job=OVER,
            hooks=hooks(
                replace(FAILED, last_attempt_at=NOW - 60, last_response_code=413), mended_at=NOW - 90
            ),
        ),
        Judge(
            OVER,
            "Konnect gave up on a batch that was answered 413; is it a proxy's limit?",
            lasting=True,
        ),
    ),
    "our job does not end": (
        state(job=replace(JOB, began_at=NOW - 21_600, state=ReplayState.UNKNOWN)),
        Judge(
            replace(JOB, began_at=NOW - 21_600, state=ReplayState.UNKNOWN),
            "Konnect's replay job was still unknown after 6 h",
        ),
    ),
    "our job failed": (
        state(job=replace(OVER, state=ReplayState.FAILED)),
        Judge(replace(OVER, state=ReplayState.FAILED), "Konnect's replay job ended as failed"),
    ),
    "our job failed on our account": (
        state(
            job=replace(OVER, state=ReplayState.FAILED),
            gaps=(GAP, Gap(2, "us", NOW - 90, NOW - 80, "429", 1)),
        ),
        Judge(replace(OVER, state=ReplayState.FAILED), "Konnect's replay job ended as failed", ours=True),
    ),
    "completed, the last batch may be in the air": (
        state(job=replace(OVER, over_at=NOW - 5)),
        Wait(NOW + 15),
    ),
    "completed, the webhook was not looked at since": (
        state(job=OVER, hooks={ORGANISATION: Hook(NOW - 20, WELL)}),
        Poll(ORG),
    ),
    "completed": (state(job=OVER), Judge(OVER, "")),
    "completed, but refused": (
        state(job=OVER, gaps=(GAP, Gap(2, "us", NOW - 90, NOW - 80, "429", 1))),
        Judge(OVER, "requests were refused while it ran", ours=True),
    ),
    "completed, refusals of another source": (
        state(job=OVER, gaps=(GAP, Gap(2, "eu", NOW - 90, NOW - 80, "429", 1))),
        Judge(OVER, ""),
    ),
    "completed, but given up": (
        state(job=OVER, hooks=hooks(replace(FAILED, last_attempt_at=NOW - 60), mended_at=NOW - 90)),
        Judge(OVER, "Konnect gave up on a batch while it ran"),
    ),
    "fetched": (state(work=work(covered=WINDOW)), Close(GAP, None)),
    "fetched, but it grew": (
        state(work=work(covered=Window(WINDOW.start, GAP.end - 200))),
        Replay(replace(GAP, start=GAP.end - 200), ORG, Window(GAP.end - 320, WINDOW.end)),
    ),
    "it grows": (state(gaps=(replace(GAP, end=NOW - 5),)), Wait(NOW + 15)),
    "it was down for hours until a moment ago": (
        state(gaps=(replace(GROWING, cause="downtime", refusals=0),)),
        Wait(NOW + 15),
    ),
    "it was down for hours, and the webhook went inactive by it": (
        state(
            gaps=(
                replace(GROWING, cause="downtime", refusals=0, end=NOW - 25),
                Gap(2, "us", NOW - 2 * HOUR, NOW - 5, INACTIVE, 0),
            )
        ),
        Wait(NOW + 15),
    ),
    "it grows for more than an hour": (
        state(gaps=(GROWING,)),
        Replay(replace(GROWING, end=NOW - 20), ORG, Window(GROWING.start - 120, NOW)),
    ),
    "it is not over by far, for the clock was set back": (
        state(gaps=(replace(GROWING, cause="downtime", refusals=0, end=NOW + 86400),)),
        Replay(
            replace(GROWING, cause="downtime", refusals=0, end=NOW - 20),
            ORG,
            Window(GROWING.start - 120, NOW),
        ),
    ),
    "it grows, and its first hour was fetched": (
        state(gaps=(GROWING,), work=work(covered=Window(GROWING.start - 120, NOW - HOUR))),
        Wait(NOW + 15),
    ),
    "it grows, and a pull of its first hour goes on": (
        state(gaps=(GROWING,), work=work(pulled=Window(NOW - 1.5 * HOUR, NOW - HOUR))),
        Pull(
            replace(GROWING, end=NOW - HOUR),
            ORG,
            Window(GROWING.start - 120, NOW - HOUR),
            Window(NOW - 1.5 * HOUR, NOW - HOUR),
        ),
    ),
    "somebody switched it off hours ago": (
        state(gaps=(replace(GROWING, cause=INACTIVE, end=NOW - 30),), hooks=hooks(BY_HAND)),
        Pull(replace(GROWING, cause=INACTIVE, end=NOW - 30), ORG, Window(GROWING.start - 120, NOW)),
    ),
    "somebody switched it off, and all of it was fetched": (
        state(
            gaps=(replace(GROWING, cause=INACTIVE, end=NOW - 30),),
            hooks=hooks(BY_HAND),
            work=work(covered=Window(GROWING.start - 120, NOW)),
        ),
        Wait(NOW + 55),
    ),
    "fetched, the beginning was gone": (
        state(work=work(covered=Window(GAP.start + 60, NOW)), gaps=(replace(GAP, start=NOW - 8 * 86400),)),
        Replay(replace(GAP, start=NOW - 8 * 86400), ORG, Window(NOW - KONNECT_RETENTION + 60, GAP.end + 120)),
    ),
    "all of it is gone": (
        state(gaps=(replace(GAP, start=NOW - 9 * 86400, end=NOW - 8 * 86400),)),
        Wait(NOW + 55),
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_decision(case: str) -> None:
    """One row each: what is known, and what follows."""
    given, expected = TABLE[case]

    assert decide(given, NOW, RULES) == expected


def test_the_oldest_gap_comes_first_and_one_that_waits_holds_up_none() -> None:
    """A gap in its back-off does not keep the next one from being fetched."""
    far = Gap(2, "us", NOW - 9 * HOUR, NOW - 8 * HOUR, "500", 3)
    assert decide(state(gaps=(GAP, far)), NOW, RULES) == Replay(far, ORG, window_of(far, NOW, RULES))

    waiting = state(gaps=(GAP, far), work={(2, ORGANISATION): Work(retry_at=NOW + 10)})
    assert decide(waiting, NOW, RULES) == Replay(GAP, ORG, WINDOW)


@pytest.mark.parametrize(
    ("ended", "noticed", "expected"),
    [
        (40.0, 15.0, Wait(NOW + 5)),
        (100.0, 15.0, Wait(NOW + 5)),
        (121.0, 15.0, None),  # beyond the margin nobody waits for another
        (100.0, 21.0, None),  # both are over
    ],
)
def test_a_gap_that_was_noticed_a_moment_later_is_waited_for(
    ended: float, noticed: float, expected: Wait | None
) -> None:
    """Down time, and that Konnect gave up meanwhile: one job for the two."""
    gap = replace(GAP, end=NOW - ended)
    late = Gap(2, "us", NOW - ended - 10, NOW - noticed, INACTIVE, 0)
    action = decide(state(gaps=(gap, late)), NOW, RULES)

    assert action == expected if expected is not None else isinstance(action, Replay)


def test_gaps_that_overlap_are_fetched_together() -> None:
    """The down time and the webhook that went inactive by it are one trouble, and one job."""
    other = Gap(2, "us", GAP.end + 30, GAP.end + 90, INACTIVE, 0)
    both = state(gaps=(GAP, other))
    window = Window(WINDOW.start, other.end + 120)
    assert decide(both, NOW, RULES) == Replay(GAP, ORG, window)

    done = fetched(both, 1, ORG, window, NOW, RULES)
    assert decide(done, NOW, RULES) == Close(GAP, None)
    assert decide(replace(done, gaps=(other,)), NOW, RULES) == Close(other, None)


def test_what_was_fetched_before_a_gap_was_over_does_not_count_for_it() -> None:
    """The events of its end had not happened yet."""
    later = replace(GAP, id=2, end=NOW - 30)
    done = fetched(state(gaps=(GAP, later)), 1, ORG, Window(WINDOW.start, NOW), NOW - 60, RULES)

    assert done.of(1, ORGANISATION).covered == Window(WINDOW.start, NOW)
    assert done.of(2, ORGANISATION).covered is None


def test_a_gap_whose_beginning_was_gone_tells_so() -> None:
    """It is lost up to where the window began."""
    old = replace(GAP, start=NOW - 8 * 86400)
    window = window_of(old, NOW, RULES)
    done = fetched(state(gaps=(old,)), 1, ORG, window, NOW, RULES)

    assert decide(done, NOW, RULES) == Close(old, NOW - KONNECT_RETENTION + 60)
    # Konnect goes on deleting; what was fetched stays fetched.
    late = replace(done, hooks={ORGANISATION: Hook(NOW + 500, WELL)})
    assert decide(late, NOW + 500, RULES) == Close(old, NOW - KONNECT_RETENTION + 60)


def test_failures_wait_longer_and_longer_and_end_in_a_pull() -> None:
    """Never more than a quarter of an hour; only the organisation's log can be pulled."""
    found = Work()
    waits = []
    for _ in range(8):
        found = failed(found, NOW, RULES, "no", can_pull=True)
        waits.append(found.retry_at - NOW)
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]
    assert found.pull

    assert not failed(replace(found, pull=False), NOW, RULES, "no", can_pull=False).pull


def test_what_this_relay_will_never_take_is_not_sent_again() -> None:
    """Each attempt would switch the webhook off: it is pulled, or, where that cannot be, tried much later."""
    pulled = failed(Work(), NOW, RULES, "413", can_pull=True, lasting=True)
    assert (pulled.pull, pulled.retry_at) == (True, NOW + RULES.retry)

    portal = failed(Work(), NOW, RULES, "413", can_pull=False, lasting=True)
    assert (portal.pull, portal.retry_at) == (False, NOW + RULES.hopeless)


def test_a_job_that_failed_failed_for_all_gaps_it_was_for() -> None:
    """They wait together; one that it did not reach, and one that came up later, do not."""
    near = Gap(2, "us", GAP.end + 30, GAP.end + 90, INACTIVE, 0)
    far = replace(GAP, id=3, start=NOW - 9 * HOUR, end=NOW - 8 * HOUR)
    later = replace(GAP, id=4, start=JOB.began_at + 1, end=JOB.began_at + 2)
    job = replace(JOB, window=Window(WINDOW.start, NOW))
    given = state(gaps=(GAP, near, far, later))

    after = failed_job(given, job, NOW, RULES, "no", ours=False, lasting=False)
    assert {key[0]: each.failures for key, each in after.work.items()} == {1: 1, 2: 1}

    ours = failed_job(given, job, NOW, RULES, "no", ours=True, lasting=False)
    assert {each.retry_at for each in ours.work.values()} == {NOW + RULES.retry}
    assert len(ours.work) == 4


def test_what_waits_is_not_fetched_together_with_what_does_not() -> None:
    """A window that is refused as a whole keeps only its own gap open."""
    other = Gap(2, "us", GAP.end + 30, GAP.end + 90, INACTIVE, 0)
    given = state(gaps=(GAP, other), work=work(retry_at=NOW + HOUR))

    assert decide(given, NOW, RULES) == Replay(other, ORG, window_of(other, NOW, RULES))


def test_what_is_pulled_is_not_replayed_together_with_what_is_not() -> None:
    """It would come twice, in two writings."""
    other = Gap(2, "us", GAP.end + 30, GAP.end + 90, INACTIVE, 0)
    given = state(gaps=(GAP, other), work=work(pulled=PULLED), patience=resting(Kind.PULL))

    assert decide(given, NOW, RULES) == Replay(other, ORG, window_of(other, NOW, RULES))


def test_what_was_fetched_of_a_gap_that_grows_is_kept() -> None:
    """The next part begins where this one ended, by the margin earlier; the whole is then covered."""
    first = Window(GROWING.start - 120, NOW - HOUR)
    done = fetched(state(gaps=(GROWING,)), 1, ORG, first, NOW - HOUR, RULES)
    assert done.of(1, ORGANISATION).covered == Window(first.start, NOW - HOUR - 20)

    over = replace(GROWING, end=NOW - 600)
    rest = Window(NOW - HOUR - 140, NOW - 480)
    action = decide(replace(done, gaps=(over,)), NOW, RULES)
    assert action == Replay(replace(over, start=NOW - HOUR - 20), ORG, rest)

    whole = fetched(replace(done, gaps=(over,)), 1, ORG, rest, NOW, RULES)
    assert decide(whole, NOW, RULES) == Close(over, None)


def test_what_a_gap_has_grown_by_since_it_was_pulled_is_pulled() -> None:
    """A replay begins the margin earlier, and would bring twice what was pulled of that."""
    given = state(gaps=(GROWING,), work=work(pulled=Window(NOW - HOUR - 60, NOW - HOUR)))
    first = Window(GROWING.start - 120, NOW - HOUR)
    done = fetched(given, 1, ORG, first, NOW - HOUR, RULES, by_pull=True)

    over = replace(GROWING, end=NOW - 600)
    action = decide(replace(done, gaps=(over,)), NOW, RULES)
    assert action == Pull(replace(over, start=NOW - HOUR - 20), ORG, Window(NOW - HOUR - 140, NOW - 480))


def test_a_part_of_another_gap_counts_for_nothing() -> None:
    """Neither as fetched nor as an attempt that went well."""
    given = state(work=work(failures=2))
    after = fetched(given, 2, ORG, Window(GAP.end - 60, NOW), NOW, RULES)

    assert after.of(1, ORGANISATION) == given.of(1, ORGANISATION)


def test_a_job_of_others_that_does_not_end_is_not_waited_for_for_ever() -> None:
    rules = Rules()
    first = busy(Work(), NOW, rules, can_pull=True)
    assert (first.pull, first.retry_at) == (False, NOW + rules.busy)

    later = NOW + rules.job_most
    assert not busy(first, later - 1, rules, can_pull=True).pull
    assert busy(first, later, rules, can_pull=True).pull
    assert not busy(first, later, rules, can_pull=False).pull  # a portal's log cannot be pulled


def test_what_konnect_forbids_is_tried_the_other_way_and_then_rarely() -> None:
    """Once a replay and a pull are both forbidden, an hour passes before the next attempt."""
    pull = forbidden(Work(), NOW, RULES, "403", can_pull=True)
    assert (pull.pull, pull.retry_at) == (True, 0.0)

    neither = forbidden(pull, NOW, RULES, "403", can_pull=True)
    assert (neither.pull, neither.retry_at) == (False, NOW + HOUR)


def test_our_own_failure_postpones_all_gaps_of_the_source() -> None:
    """While we refuse, the next gap would fare no better; another source is not concerned."""
    other = replace(GAP, id=2, start=NOW - 9 * HOUR, end=NOW - 8 * HOUR)
    both = state(gaps=(GAP, other))

    assert decide(postponed(both, ORG, NOW + 40), NOW, RULES) == Wait(NOW + 40)
    assert decide(postponed(both, PORTAL, NOW + 40), NOW, RULES) == decide(both, NOW, RULES)


@pytest.mark.parametrize(
    "left",
    [
        Work(covered=Window(NOW - 9 * 86400 - 120, NOW - 8 * 86400), pull=True),
        Work(pulled=Window(NOW - 9 * 86400, NOW - 8 * 86400)),
    ],
)
def test_a_hole_behind_what_was_fetched_ends_nothing(left: Work) -> None:
    """A part was fetched, and then for a week nothing could be. The rest comes, and the hole is told."""
    gap = replace(GAP, start=NOW - 9 * 86400, cause=INACTIVE)
    given = state(gaps=(gap,), work={(1, ORGANISATION): left})
    for _ in range(2):
        action = decide(given, NOW, RULES)
        if not isinstance(action, Close):
            assert isinstance(action, Pull | Replay)
            given = fetched(given, 1, ORG, action.window, NOW, RULES)

    assert decide(given, NOW, RULES) == Close(gap, NOW - KONNECT_RETENTION + RETENTION_SLACK)


def test_the_last_moments_of_a_gap_that_grows_are_fetched_once_they_are_over() -> None:
    """Konnect tries again, and its log may lack them: what came of them with a part is not all."""
    growing = state(gaps=(GROWING,), work=work(pull=True))
    first = decide(growing, NOW, RULES)
    assert isinstance(first, Pull)
    done = fetched(growing, 1, ORG, first.window, NOW, RULES, by_pull=True)
    assert isinstance(decide(done, NOW + 14, RULES), Wait)

    rest = decide(done, NOW + 15, RULES)
    assert rest == Pull(replace(GROWING, start=NOW - 20), ORG, Window(NOW - 140, NOW + 15))
    assert isinstance(rest, Pull)
    whole = fetched(done, 1, ORG, rest.window, NOW + 15, RULES, by_pull=True)
    assert decide(whole, NOW + 15, RULES) == Close(GROWING, None)


@pytest.mark.parametrize("margin", [0.0, 7.1, 120.0])
def test_what_is_over_is_fetched_once(margin: float) -> None:
    """As soon as it can be, and with whatever margin."""
    rules = Rules(margin=margin)
    given = state(gaps=(replace(GAP, end=NOW - rules.settle),))
    action = decide(given, NOW, rules)
    assert isinstance(action, Replay)
    done = fetched(given, 1, ORG, action.window, NOW, rules)

    assert isinstance(decide(done, NOW, rules), Close)


def test_a_webhook_that_nobody_can_look_at_any_more_keeps_nothing_from_being_fetched() -> None:
    """It was inactive, and its gap is widened by no look, so that it never is an hour long."""
    gap = replace(GAP, cause=INACTIVE, start=NOW - HOUR, end=NOW - HOUR + 600)
    given = state(gaps=(gap,), hooks=hooks(BY_HAND), patience=resting(Kind.STATUS, MANY, until=NOW + 300))
    assert isinstance(decide(given, NOW + 19, RULES), Wait)

    action = decide(given, NOW + 20, RULES)
    assert action == Pull(gap, ORG, window_of(gap, NOW, RULES))
    assert isinstance(action, Pull)
    done = fetched(given, 1, ORG, action.window, NOW + 20, RULES, by_pull=True)
    assert isinstance(decide(done, NOW + 20, RULES), Wait)
