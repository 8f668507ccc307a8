"""What recovery waits for, or what keeps a gap open, in a sentence for the status page."""

from __future__ import annotations

from relay.model import Recovering
from relay.recovery.answers import rfc3339
from relay.recovery.patience import Rest
from relay.recovery.state import State, Target


def waiting_for(state: State, now: float) -> Recovering:
    """Where nothing is being done."""
    if now < state.patience.everything.until:
        return Recovering(None, _again(state.patience.everything))
    for target in state.targets:
        if (obstacle := _of_webhook(state, target)) is not None:
            return Recovering(None, obstacle)
    for gap in sorted(state.gaps, key=lambda gap: gap.start):
        for target in state.targets:
            work = state.of(gap.id, target.scope)
            if work.trouble:
                trouble = f"{work.trouble}; tried again at {rfc3339(work.retry_at)}"
                return Recovering(gap.id, trouble if now < work.retry_at else work.trouble)
    resting = [rest for rest in state.patience.rests.values() if now < rest.until]
    if resting:
        return Recovering(None, _again(min(resting, key=lambda rest: rest.until)))
    return Recovering(None, "waiting" if state.gaps else "watching")


def _of_webhook(state: State, target: Target) -> str | None:
    hook = state.hooks.get(target.scope)
    if hook is not None and hook.elsewhere is not None:
        return f"the webhook of {target.scope} sends to {hook.elsewhere}, not to this relay"
    if hook is not None and hook.off_by_hand and hook.is_failing:
        return f"somebody switched off the webhook of {target.scope} in Konnect"
    if hook is not None and hook.refused_at is not None and hook.is_failing:
        return f"the relay may not switch on the webhook of {target.scope}, which Konnect has given up on"
    return None


def _again(rest: Rest) -> str:
    return f"{rest.trouble} Asked again at {rfc3339(rest.until)}."
