"""`file`: lines appended to a local file, synced before they count as delivered.

Owns the threads that may block on a disk and the meaning of disk errors. The bytes and the names on
the disk are `append_file`'s. Each file has threads of its own, so that a dead network mount holds up
nobody else.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from pydantic import Field

from relay.batch import Chunk
from relay.clock import Clock
from relay.config.destination import DestinationConfig
from relay.config.types import Duration, Section, Size, Whole
from relay.destinations.append_file import AppendFile, tidy
from relay.destinations.base import (
    Delivered,
    Misconfigured,
    Outcome,
    ProbeReport,
    Throttled,
    Transient,
)
from relay.model import Event, Response

P = ParamSpec("P")
T = TypeVar("T")

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WRONG_PATH = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,  # a file stands where a directory should
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    }
)


class Rotation(Section):
    """When the file is set aside (renamed with a time stamp), and what becomes of such files."""

    max_bytes: Annotated[Size, Field(gt=0)] | None = Field(
        100 * 1024**2, description="Set the file aside before it would exceed this size."
    )
    max_age: Annotated[Duration, Field(gt=0)] | None = Field(
        None, description="Set the file aside at multiples of this time since 1970; 1d is midnight UTC."
    )
    keep: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="How many files set aside to keep; older ones are deleted. Left out: all are kept."
    )
    compress: bool = Field(default=True, description="gzip files once they are set aside.")


class FileConfig(DestinationConfig):
    """A local file, one event on each line, as received."""

    type: Literal["file"] = Field(description="A local file.")
    path: Path = Field(description="The file; made with its directory when missing, mode 0640.")
    rotate: Rotation = Field(default=Rotation(), description="When to begin a new file.")


class FileDestination:
    """Appends to one file."""

    event_overhead = 0

    def __init__(self, config: FileConfig, *, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._file = AppendFile(config.path, max_bytes=config.rotate.max_bytes, max_age=config.rotate.max_age)
        self._writer = ThreadPoolExecutor(1, f"{config.name}-write")
        self._housekeeper = ThreadPoolExecutor(1, f"{config.name}-tidy")
        self._closing = threading.Event()
        self._job: asyncio.Future[Any] | None = None  # what the writer's thread is at

    def __repr__(self) -> str:
        return f"<FileDestination {self._config.name}>"

    def part(self, event: Event) -> bytes:
        return event.line

    async def open(self) -> None:
        """Look after files that an earlier run set aside. The file itself is opened when first needed:
        a path that is wrong today holds this destination and nobody else."""
        self._housekeeper.submit(self._tidy)

    async def send(self, chunk: Chunk) -> Outcome:
        body = chunk.body
        try:
            async with asyncio.timeout(self._config.timeout):
                was_set_aside = await self._write(self._file.append, body, self._clock.now())
        except OSError as error:  # TimeoutError is one
            return self._failure(error)
        if was_set_aside:
            self._housekeeper.submit(self._tidy)
        return Delivered(Response(f"{len(body)} bytes synced"))

    async def probe(self) -> ProbeReport:
        """Open the file, which makes it where it is missing, and write nothing."""
        try:
            async with asyncio.timeout(self._config.timeout):
                await self._write(self._file.open)
        except OSError as error:
            return ProbeReport(ok=False, detail=self._failure(error).response.detail)
        return ProbeReport(ok=True, detail="the file can be appended to")

    async def close(self) -> None:
        """Let a write that is under way end, within the time-out, and let go of the file."""
        self._closing.set()
        with suppress(OSError):
            async with asyncio.timeout(self._config.timeout):
                await self._write(self._file.close)
        self._writer.shutdown(wait=False, cancel_futures=True)
        self._housekeeper.shutdown(wait=False, cancel_futures=True)

    async def _write(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *work* in the writer's thread, after what is there already.

        A thread cannot be cancelled: a send that timed out or was cancelled may still be writing.
        Waiting for it here, rather than queueing behind it, keeps a hanging disk from piling up bodies.
        """
        while self._job is not None and not self._job.done():
            await asyncio.wait([self._job])
        job = asyncio.wrap_future(self._writer.submit(work, *args, **kwargs))
        self._job = job
        return await asyncio.shield(job)

    def _tidy(self) -> None:
        rotate = self._config.rotate
        # What fails here (a full disk, a directory that does not exist yet) is tried again at the next
        # rotation; until then a file set aside merely stays as it is.
        with suppress(OSError):
            tidy(self._config.path, keep=rotate.keep, compress=rotate.compress, stop=self._closing.is_set)

    def _failure(self, error: OSError) -> Throttled | Misconfigured | Transient:
        if error.errno is None:
            return Transient(Response(f"the disk did not answer within {self._config.timeout:g} s"))
        response = Response(f"cannot append: {os.strerror(error.errno)}")
        if error.errno in _NO_ROOM:
            return Throttled(response)
        if error.errno in _WRONG_PATH:
            return Misconfigured(response)
        return Transient(response)
