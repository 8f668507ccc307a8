"""Whether a stored event may stand for one that says the same and is signed otherwise.

Such a pair is what a replay makes that stamps and signs anew, and also what a forger makes who sends a true
event's text first, under a signature of his own. Were the true one then dropped, nobody would ever see it. So
where signatures are checked, a stored event stands for another only if its own signature is good. Where that
cannot be told - no key, or nothing left but names - the new one is kept: twice is better than never.

Owns the question and its limit, and knows nothing of keys: who does answers it (`relay.signing.checker`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

# A second of one thread, or some more where they are forged. Konnect's batches are much smaller.
_MOST: Final = 10_000


class Judge(Protocol):
    """Who knows of signatures."""

    def checks(self, source: str) -> bool:
        """Whether anybody looks at the signatures of this source."""
        ...

    def verified(self, source: str, lines: Sequence[bytes]) -> Sequence[bool]:
        """Which of the lines are signed by a key that is at hand. Takes its time; any thread may ask."""
        ...


class NoJudge:
    """The judge until there is one: nothing is known to be signed, so nothing stands for anything else."""

    def checks(self, source: str) -> bool:
        del source
        return True

    def verified(self, source: str, lines: Sequence[bytes]) -> Sequence[bool]:
        del source
        return [False] * len(lines)


async def vouch(judge: Judge, source: str, lines: Iterable[bytes]) -> dict[bytes, bool]:
    """Which of the stored *lines* may stand for others; beyond a limit none may."""
    asked = list(dict.fromkeys(lines))
    some = asked[:_MOST]
    found = await asyncio.to_thread(judge.verified, source, some) if some else ()
    return dict.fromkeys(asked, False) | dict(zip(some, found, strict=True))
