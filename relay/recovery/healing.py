"""Replay jobs for the commands: over what a reconciliation found missing, or over a span that a person names.

Owns the dealings with Konnect's one job per scope: begin, wait for whoever is faster, follow to the end.
Konnect sends everything in a window again; the relay's deduplication drops what it has. Decides nothing about
what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from relay.clock import Clock
from relay.observe.ledger import KONNECT_RETENTION, RETENTION_SLACK
from relay.recovery.answers import ReplayJob, ReplayState, Scope
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectConflict, KonnectError, KonnectThrottled, KonnectUnavailable
from relay.recovery.patience import Tries
from relay.recovery.reconciling import Window

_POLL: Final = 5.0  # seconds between two looks at a job
_LONGEST: Final = 6 * 3600.0  # seconds a job may take, ours or another one
# The API's times are whole milliseconds, and nobody has promised not to cut them to seconds.
_SAME: Final = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Replayed:
    """One job. Seconds since the epoch."""

    start: float
    end: float
    missing: int  # events that were missing in it
    state: ReplayState

    @property
    def completed(self) -> bool:
        """Whether everything in it was sent."""
        return self.state is ReplayState.COMPLETED


async def replay(
    api: KonnectApi,
    scope: Scope,
    windows: Sequence[Window],
    *,
    clock: Clock,
    margin: float,
    poll: float = _POLL,
    told: Callable[[str], None],
    done: Callable[[Replayed], None],
) -> None:
    """Have Konnect send these windows again, widened by *margin* seconds, for times are not exact.

    *done* gets each job when it is over; one that failed is the last one. Raises `KonnectError` where Konnect
    takes none, or where one does not end within hours.
    """
    for start, end, missing in widened(windows, margin, clock.now()):
        told(f"asking Konnect for {missing:,} missing events")
        job = await run_job(api, scope, start, end, clock=clock, poll=poll, told=told)
        done(Replayed(start, end, missing, job.state))
        if job.state is not ReplayState.COMPLETED:
            return


def widened(windows: Sequence[Window], margin: float, now: float) -> list[tuple[float, float, int]]:
    """The windows with their margins, as start, end and what is missing; those that overlap are one."""
    found: list[tuple[float, float, int]] = []
    oldest = now - KONNECT_RETENTION + RETENTION_SLACK
    for window in windows:
        start, end = max(oldest, window.start / 1000 - margin), min(now, window.end / 1000 + margin)
        if start >= end:
            continue  # deleted by now
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], end, found[-1][2] + window.missing)
        else:
            found.append((start, end, window.missing))
    return found


async def run_job(
    api: KonnectApi,
    scope: Scope,
    start: float,
    end: float,
    *,
    clock: Clock,
    poll: float = _POLL,
    told: Callable[[str], None],
) -> ReplayJob:
    """Have this window sent again; the job when it is over, completed or failed.

    Another job, the relay's own for example, is waited for, for hours if need be, and *told* hears of it.
    Raises `KonnectError` where Konnect takes none, or cannot be asked for a minute.
    """
    deadline = clock.monotonic() + _LONGEST
    begun, tries = False, Tries()
    while clock.monotonic() < deadline:
        wait = poll
        try:
            if not begun:
                with suppress(KonnectConflict):  # somebody else's, or ours, and the answer was lost
                    await api.start_replay(scope, start, end)
            job = await api.replay_job(scope)
        except (KonnectThrottled, KonnectUnavailable) as error:
            wait = max(poll, tries.pause(error))
        else:
            tries.answered()
            # Where another one has taken its place, nobody knows how ours ended: it is begun again.
            begun = _is(job, start, end)
            if begun and job.state.over:
                return job
            told(f"replay job {job.state.value}" if begun else "waiting for another replay job")
        await clock.sleep(wait)
    raise KonnectError("Konnect's replay job did not end in time.")


def _is(job: ReplayJob, start: float, end: float) -> bool:
    """Whether it is over this window."""
    same = job.start is not None and abs(job.start - start) < _SAME
    return same and job.end is not None and abs(job.end - end) < _SAME
