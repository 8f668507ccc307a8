"""How long to wait before a retry. Pure: owns the formula and neither waits nor counts."""

from __future__ import annotations

import math
from random import Random

_SPREAD = 0.25  # a wait is longer than its plain value by at most this share of it


def wait_before(
    retry: int,
    *,
    min_wait: float,
    max_wait: float,
    rng: Random,
    hint: float | None = None,
    max_hint: float = 0.0,
) -> float:
    """Seconds to wait before retry number *retry* (the first is 1).

        plain  = min(max_wait, min_wait * 2 ** (retry - 1))
        wait   = uniform(plain, min(max_wait, 1.25 * plain))
        result = max(wait, min(hint, max_hint))

    Konnect's documented policy (docs/konnect.md section 1) with jitter that only lengthens a wait:
    never below *min_wait*, never above *max_wait*. *hint* is what the destination asked for with
    `Retry-After`, in seconds; it lengthens the wait, up to *max_hint*, and never shortens it.
    """
    # 2.0 ** 1024 overflows; doubling a second sixty times outlasts any max_wait anyway.
    plain = min(max_wait, min_wait * 2.0 ** min(retry - 1, 60))
    wait = rng.uniform(plain, min(max_wait, (1 + _SPREAD) * plain))
    return max(wait, honoured(hint, max_hint))


def honoured(hint: float | None, max_hint: float) -> float:
    """The part of a `Retry-After` of *hint* seconds that is obeyed; 0 where there is none."""
    if hint is None or math.isnan(hint):
        return 0.0
    return max(0.0, min(hint, max_hint))
