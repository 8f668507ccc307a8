"""Bringing back what a reconciliation found missing: replay jobs over the windows it names, one at a time.

Owns the dealings with Konnect's one job per scope: begin, wait for whoever is faster, follow to the end.
Konnect sends everything in a window again; the relay's deduplication drops what it has. Decides nothing about
what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from relay.clock import Clock
from relay.recovery.answers import ReplayJob, ReplayState, Scope
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectConflict, KonnectError, KonnectThrottled, KonnectUnavailable
from relay.recovery.reconciling import Window

RETENTION: Final = 7 * 86_400.0  # seconds; then Konnect deletes an event for good
_POLL: Final = 5.0  # seconds between two looks at a job
_LONGEST: Final = 6 * 3600.0  # seconds a job may take, ours or another one
# Konnect's clock may be ahead of ours, and a window that begins too early is refused as a whole.
_SAFE: Final = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Replayed:
    """One job. Seconds since the epoch."""

    start: float
    end: float
    missing: int  # events that were missing in it
    state: ReplayState


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
    for start, end, missing in _joined(windows, margin, clock.now()):
        told(f"asking Konnect for {missing:,} missing events")
        job = await _job(api, scope, start, end, clock=clock, poll=poll)
        done(Replayed(start, end, missing, job.state))
        if job.state is not ReplayState.COMPLETED:
            return


def _joined(windows: Sequence[Window], margin: float, now: float) -> list[tuple[float, float, int]]:
    """The windows with their margins; where those overlap, one job does for both."""
    found: list[tuple[float, float, int]] = []
    oldest = now - RETENTION + _SAFE
    for window in windows:
        start, end = max(oldest, window.start / 1000 - margin), min(now, window.end / 1000 + margin)
        if start >= end:
            continue  # deleted by now
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], end, found[-1][2] + window.missing)
        else:
            found.append((start, end, window.missing))
    return found


async def _job(
    api: KonnectApi, scope: Scope, start: float, end: float, *, clock: Clock, poll: float
) -> ReplayJob:
    """Our job, over."""
    deadline = clock.monotonic() + _LONGEST
    begun = False
    while clock.monotonic() < deadline:
        try:
            if not begun:
                await api.start_replay(scope, start, end)
                begun = True
            job = await api.replay_job(scope)
        except KonnectConflict:
            job = await api.replay_job(scope)
            begun = _is(job, start, end)  # the answer to our own request may have been lost
        except (KonnectThrottled, KonnectUnavailable) as error:
            await clock.sleep(max(poll, error.retry_after or 0.0))
            continue
        if begun and job.state.over:
            return job
        await clock.sleep(poll)
    raise KonnectError("Konnect's replay job did not end in time.")


def _is(job: ReplayJob, start: float, end: float) -> bool:
    """Whether it is over this window; the API's times are whole milliseconds."""
    same = job.start is not None and abs(job.start - start) < 0.002
    return same and job.end is not None and abs(job.end - end) < 0.002
