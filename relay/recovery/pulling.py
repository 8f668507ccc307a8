"""The organisation's log from end to end, whatever happens in between.

Owns the patience: a page that fails for a reason that passes is asked for again, from the cursor before it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from relay.clock import Clock
from relay.recovery.answers import PulledPage
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectError, KonnectThrottled, KonnectUnavailable
from relay.recovery.patience import Tries


async def whole_log(
    api: KonnectApi, start: float, end: float, *, clock: Clock
) -> AsyncGenerator[PulledPage, None]:
    """All pages from *start* to *end* inclusive, seconds since the epoch, newest first.

    Raises `KonnectError` where they do not come, or where Konnect's pages lead round in a circle: what came
    is not everything then.
    """
    cursor: str | None = None
    tries = Tries()
    while True:
        try:
            async with aclosing(api.pages(start, end, cursor=cursor)) as pages:
                async for page in pages:
                    if page.repeated:
                        raise KonnectError("Konnect's log cannot be read to its end: its pages repeat.")
                    yield page
                    tries.answered()
                    cursor = page.cursor
                return
        except (KonnectThrottled, KonnectUnavailable) as error:
            await clock.sleep(tries.pause(error))
