"""The keys of one source: read at the start, followed while the relay runs, never forgotten too soon.

Owns when keys are read again: every hour, and when events fail, since a new key may be the reason, but then
at most every five minutes. However many ask at once, one request is made. A failure changes nothing: the keys
at hand stay in force, and it is logged once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, assert_never

from relay.clock import Clock
from relay.config.secret import SecretUrl
from relay.config.signatures import PinnedKeys
from relay.errors import ConfigError, KeysUnusable
from relay.konnect.jwks import Key, Keyring, parse_jwks, parse_keys
from relay.observe.logs import Log
from relay.signing.cache import Cached, KeyCache

EVERY: Final = 3600.0  # seconds between looks at a URL
FILE_EVERY: Final = 60.0  # at a file, which costs nothing
AFTER_FAILURE: Final = 300.0  # at most so often because events, or the last request, failed
WITHOUT_KEYS: Final = 15.0  # while there is no key at all

Fetch = Callable[[str], Awaitable[bytes]]
"""Gets the document at a URL, or raises `KeysUnusable`."""


class KeyKeeper:
    """`open` first. Without *writes* the cache is only read."""

    def __init__(
        self,
        source: str,
        origin: SecretUrl | Path | PinnedKeys,
        *,
        cache: Path | None,
        writes: bool = True,
        fetch: Fetch,
        clock: Clock,
        log: Log,
    ) -> None:
        self.source = source
        self.ring = Keyring()
        self.read_at: float | None = None  # when the keys were read last, seconds since the epoch
        self.trouble: str | None = None  # why they could not be read the last time
        self._origin = origin
        self._fetch = fetch
        self._clock = clock
        self._log = log.bind(source=source)
        self._lock = asyncio.Lock()
        self._tried_at: float | None = None  # monotonic
        self._writes = writes
        self._cache = (
            KeyCache(cache, origin.reveal()) if cache is not None and isinstance(origin, SecretUrl) else None
        )

    def __repr__(self) -> str:
        return f"<KeyKeeper {self.source} {len(self.ring.current)} keys>"

    async def open(self) -> None:
        """Read what is at hand without the network. Raises `ConfigError` for a file that is unusable."""
        match self._origin:
            case PinnedKeys() as pinned:
                keys = parse_keys([key.model_dump(exclude_none=True) for key in pinned.keys])
                self.ring = Keyring(keys)
            case Path() as path:
                try:
                    self._follow(await _read(path))
                except KeysUnusable as error:
                    raise ConfigError([f"sources.{self.source}.signatures.jwks: {path}: {error}"]) from error
                self._tried_at = self._clock.monotonic()
            case SecretUrl():
                cached = await asyncio.to_thread(self._cache.read) if self._cache else None
                if cached is not None:
                    self.ring, self.read_at = cached.keyring, cached.fetched_at
            case _:
                assert_never(self._origin)

    async def refresh_when_due(self) -> None:
        """What somebody has to call now and then."""
        every = FILE_EVERY if isinstance(self._origin, Path) else EVERY
        if self.trouble is not None:
            every = min(every, AFTER_FAILURE)
        await self.refresh(every if self.ring.keys else WITHOUT_KEYS)

    async def refresh(self, not_within: float) -> None:
        """Read the keys again, unless that was tried less than *not_within* seconds ago. Never fails."""
        if isinstance(self._origin, PinnedKeys):
            return
        async with self._lock:  # who had to wait for it finds that it has just been tried
            if self._tried_at is not None and self._clock.monotonic() - self._tried_at < not_within:
                return
            try:
                keys = await self._read_origin(self._origin)
            except KeysUnusable as error:
                self._failed(str(error))
            else:
                await self._succeeded(keys)
            # Not where we were cancelled: whoever waits tries himself then.
            self._tried_at = self._clock.monotonic()

    def _read_origin(self, origin: SecretUrl | Path) -> Awaitable[tuple[Key, ...]]:
        return _read(origin) if isinstance(origin, Path) else self._get(origin.reveal())

    async def _get(self, url: str) -> tuple[Key, ...]:
        return parse_jwks(await self._fetch(url))

    def _failed(self, trouble: str) -> None:
        log = self._log.debug if trouble == self.trouble else self._log.warning
        log("signatures.keys_failed", detail=trouble, keys=len(self.ring.keys))
        self.trouble = trouble

    async def _succeeded(self, keys: tuple[Key, ...]) -> None:
        changed = self._follow(keys)
        if changed or self.trouble is not None:
            self._log.info(
                "signatures.keys",
                keys=[key.kid for key in self.ring.current],
                retired=[key.kid for key in self.ring.retired],
            )
        self.trouble = None
        if self._cache is not None and self._writes and self.read_at is not None:
            try:
                await asyncio.to_thread(self._cache.write, Cached(self.ring, self.read_at))
            except OSError as error:
                # Only a start without the network would miss it.
                self._log.warning("signatures.cache_failed", detail=error.strerror)

    def _follow(self, keys: tuple[Key, ...]) -> bool:
        before, self.ring = self.ring, self.ring.followed_by(keys)
        self.read_at = self._clock.now()
        return self.ring != before


async def _read(path: Path) -> tuple[Key, ...]:
    try:
        content = await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        raise KeysUnusable(f"it cannot be read: {error.strerror}") from error
    return parse_jwks(content)
