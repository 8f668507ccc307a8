"""Replay jobs: everything of a window once more, in other batches and under new header times.

A job walks through its statuses by the fake's clock, or, with `pace` None, when the test says `step`.
"""

from __future__ import annotations

import asyncio

from relay.clock import Clock
from tests.fakes.konnect.organisation import Organisation, Place
from tests.fakes.konnect.sender import Sender
from tests.fakes.konnect.truth import Truth


class Replays:
    """Runs the jobs that the API accepted."""

    def __init__(self, organisation: Organisation, truth: Truth, sender: Sender, clock: Clock) -> None:
        self.pace: float | None = 1.0  # seconds between accepted, pending and running
        self.batch = 7  # events in one; live batches are cut elsewhere
        self.fail_after: int | None = None  # the next job fails after so many batches
        self.admits = True  # a job whose batches were given up on ends as failed; False: as completed
        self._organisation = organisation
        self._truth = truth
        self._sender = sender
        self._clock = clock
        self._steps: dict[Place, asyncio.Semaphore] = {}

    def step(self, place: Place | None = None) -> None:
        """Let a job go on to its next status."""
        self._steps.setdefault(place or Place(), asyncio.Semaphore(0)).release()

    async def run(self, place: Place) -> None:
        """The job of *place*, which was just accepted, to its end."""
        for status in ("pending", "running"):
            await self._turn(place)
            self._become(place, status)
        await self._turn(place)
        fail_after, self.fail_after = self.fail_after, None
        self._become(place, "completed" if await self._resend(place, fail_after) else "failed")

    async def _resend(self, place: Place, fail_after: int | None) -> bool:
        """Whether all of the window was sent; to the webhook that is set now, not when it was asked."""
        if not self._sender.ready(place):
            return False
        job = self._organisation.job(place)
        events = [
            kept.event for kept in self._truth.held(place.region, place.portal, start=job.start, end=job.end)
        ]
        for number, first in enumerate(range(0, len(events), self.batch)):
            if number == fail_after:
                return False
            sending = self._sender.begin(place, events[first : first + self.batch], replay=True)
            await self._sender.send(sending)
            if not sending.accepted and not self._sender.ready(place):
                return not self.admits
        return fail_after is None

    async def _turn(self, place: Place) -> None:
        if self.pace is None:
            await self._steps.setdefault(place, asyncio.Semaphore(0)).acquire()
        else:
            await self._clock.sleep(self.pace)

    def _become(self, place: Place, status: str) -> None:
        job = self._organisation.job(place)
        job.status, job.updated_at = status, self._clock.now()
