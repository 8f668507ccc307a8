"""Who may send: compares a request's Authorization header with what its source is configured to accept.

Owns nothing but the comparison. Never keeps a credential in the clear, and never tells by the time it takes
how much of a wrong one was right. That a source exists is no secret: without it the answer is 404, not 401.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest

from relay.config.schema import Source

# What nothing hashes to; stands in where there is no source, so that the same work is done.
_NOBODY = (b"\0" * 32,)


class Gate:
    """The accepted Authorization values of all sources, as digests.

    Konnect sends the value configured at its destination verbatim, under any scheme or none
    (docs/konnect.md section 1). A source may accept several while the value is being changed.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._accepted = {
            source.name: tuple(_digest(secret.reveal()) for secret in source.authorization)
            for source in sources
        }

    def admits(self, source: str | None, authorization: str) -> bool:
        """Whether this header value, empty where there was none, opens *source*."""
        given = _digest(authorization)
        accepted = _NOBODY if source is None else self._accepted[source]
        # Every value is compared, and digests are of one length: the time taken tells nothing.
        return sum(compare_digest(given, each) for each in accepted) > 0


def _digest(value: str) -> bytes:
    # aiohttp hands bytes that are no UTF-8 over as surrogates; they must not raise here.
    return sha256(value.strip().encode("utf-8", "surrogateescape")).digest()
