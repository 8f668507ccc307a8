"""What is known of a webhook, and what follows from it: is it failing, was that a person, may we mend it.

Pure judgement over what Konnect said; when it is asked and what is done about it is `plan`'s affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.recovery.answers import WebhookState, WebhookStatus

INACTIVE: Final = "inactive"
"""The cause of the gap that a failing webhook opens."""

_TAKES_EFFECT: Final = 60.0  # seconds after which Konnect's status must know that we switched it on
_ASK_AGAIN: Final = 3600.0  # seconds until a webhook is tried that we were not allowed to switch on


@dataclass(frozen=True, slots=True)
class Hook:
    """What is known of a webhook."""

    polled_at: float
    status: WebhookStatus | None  # None: Konnect would not tell
    mended_at: float | None = None  # when we last switched it on
    mended_attempt: float | None = None  # the failed attempt, by Konnect's clock, after which we did
    well: WebhookStatus | None = None  # what Konnect said when it last was enabled and active
    elsewhere: str | None = None  # where it sends to, in words, if that is not here
    refused_at: float | None = None  # when Konnect last did not let us switch it on
    outdated: bool = False  # it has to be looked at anew, however lately that was done

    def is_due_at(self, interval: float) -> float:
        """When it is to be looked at again; *interval* and the result in seconds."""
        return 0.0 if self.outdated else self.polled_at + interval

    @property
    def is_failing(self) -> bool:
        """Whether Konnect calls it inactive, and has had a reason to since we switched it on.

        That is another attempt than the one before, whatever their times: they are of Konnect's clock.
        """
        if self.status is None or self.status.state is not WebhookState.INACTIVE:
            return False
        if self.mended_at is None or self._off_without_failure:
            return True
        at = self.status.last_attempt_at
        return at is not None and at != self.mended_attempt

    @property
    def off_by_hand(self) -> bool:
        """Whether somebody, not a failure, switched it off."""
        status = self.status
        if status is None or status.enabled:
            return False
        code = status.last_response_code
        if status.last_attempt_at is None or (code is not None and 200 <= code < 300):
            return True
        return self._off_without_failure

    @property
    def _off_without_failure(self) -> bool:
        """Whether it was well or switched on by us, and is off though nothing was tried since."""
        status, well = self.status, self.well
        if status is None or status.enabled:
            return False
        if well is not None and status.last_attempt_at == well.last_attempt_at:
            return True
        if self.mended_at is None or self.polled_at - self.mended_at < _TAKES_EFFECT:
            return False
        return status.last_attempt_at == self.mended_attempt

    @property
    def is_ours_to_mend(self) -> bool:
        """Whether Konnect, not a person, switched it off, it leads here as far as is known, and we may."""
        # Where a clock was set back that was in the future, and is not waited for.
        refused = self.refused_at is not None and abs(self.polled_at - self.refused_at) < _ASK_AGAIN
        return self.is_failing and not self.off_by_hand and self.elsewhere is None and not refused

    @property
    def receives(self) -> bool:
        """Whether a replay would get here."""
        if self.status is None or self.status.state is WebhookState.UNCONFIGURED:
            return False
        return self.elsewhere is None and not self.off_by_hand and not self.is_failing
