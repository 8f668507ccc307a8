"""Both sides of a reconciliation, asked: Konnect's log and what the relay accepted.

Owns the order of the questions: Konnect's log first, so that what is on its way has time to arrive, then the
relay's. The comparison and the report are `relay.recovery`'s.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from contextlib import aclosing
from dataclasses import dataclass
from os import getuid
from pathlib import Path
from pwd import getpwuid
from socket import gethostname
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from relay import __version__
from relay.admin.times import parse_rfc3339, rfc3339
from relay.cli.client import AdminClient, CommandFailed
from relay.cli.konnect_access import Access
from relay.cli.konnect_recovering import pulled
from relay.clock import SystemClock
from relay.errors import ConfigError
from relay.konnect.times import rfc3339 as rfc3339_ms
from relay.observe.ledger import KONNECT_RETENTION, RETENTION_SLACK

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from relay.recovery.api import KonnectApi
    from relay.recovery.healing import Replayed
    from relay.recovery.reconciling import Outcome, Reconciliation
    from relay.recovery.report import Circumstances, Healing

_MARGIN: Final = 120.0  # seconds around a window, where no configuration says otherwise
_POLL: Final = 10.0  # seconds between two looks at a job, as above
_ARRIVES: Final = 3.0  # seconds a replay's last batch may take from Konnect's "completed" to our log
_TOLD_EVERY: Final = 10_000  # events


@dataclass(frozen=True, slots=True)
class Range:
    """Milliseconds since the epoch; the end is exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Options:
    """How to go about it."""

    limit: int  # of listed events
    heal: bool
    quiet: bool


class Reconciler:
    """One run of the command."""

    def __init__(self, at: Access, relay: AdminClient, span: Range, options: Options) -> None:
        self._at = at
        self._relay = relay
        self._span = span
        self._options = options
        self._clock = SystemClock()
        self._bar: Progress
        self._task: TaskID

    async def run(self) -> dict[str, object]:
        """The report. Raises `RelayError`."""
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from relay.recovery.report import document

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        screen = Console(stderr=True)
        hidden = self._options.quiet or not screen.is_terminal
        with Progress(*columns, console=screen, transient=True, disable=hidden) as self._bar:
            self._task = self._bar.add_task("")
            async with self._at.api() as api:
                about, outcome = await self._compare(api)
                healing = None
                if self._options.heal and outcome.windows:
                    healing = await self._bring_back(api, outcome)
                    about, outcome = await self._compare(api)
                    if outcome.missing and healing.not_replayed is None:
                        await self._clock.sleep(_ARRIVES)
                        about, outcome = await self._compare(api)
        return document(about, outcome, healing)

    def _tell(self, sentence: str) -> None:
        self._bar.update(self._task, description=sentence)

    async def _compare(self, api: KonnectApi) -> tuple[Circumstances, Outcome]:
        from relay.recovery.reconciling import Reconciliation

        with TemporaryDirectory(prefix="konnect-relay-reconcile-") as folder:
            both = Reconciliation(Path(folder), limit=self._options.limit)
            await self._pull(api, both)
            # Now, and not before: the oldest events are read last, and are deleted meanwhile.
            deleted_before = self._deleted_before(self._clock.now())
            header, retained_from = self._accepted(both)
            self._tell("comparing")
            before = None if retained_from is None else round(parse_rfc3339(retained_from) * 1000)
            outcome = await asyncio.to_thread(both.outcome, before, deleted_before)
        return self._about(header, retained_from), outcome

    def _deleted_before(self, now: float) -> int | None:
        """Up to when Konnect has deleted what happened in the range; None: nothing of it."""
        oldest = round((now - KONNECT_RETENTION + RETENTION_SLACK) * 1000)
        return min(oldest, self._span.end) if oldest > self._span.start else None

    async def _pull(self, api: KonnectApi, both: Reconciliation) -> None:
        from relay.recovery.keys import of_entry
        from relay.recovery.pulling import whole_log

        # Konnect's ends are both inclusive, ours is not.
        pages = whole_log(api, self._span.start / 1000, (self._span.end - 1) / 1000, clock=self._clock)
        count = 0
        async with aclosing(pages):
            async for page in pages:
                for entry in page.entries:
                    both.konnect_has(of_entry(entry))
                count += len(page.entries)
                self._tell(f"{count:,} events from Konnect")

    def _accepted(self, both: Reconciliation) -> tuple[Any, str | None]:
        """Read the relay's side; the stream's header, and since when its log is whole."""
        from relay.queue.fates import Fate
        from relay.recovery.keys import of_line

        stream = self._relay.stream(
            "/api/v1/events",
            **{"from": rfc3339_ms(self._span.start), "to": rfc3339_ms(self._span.end)},
            source=self._at.source,
        )
        header = next(stream, None)
        if header is None or "destinations" not in header:
            raise CommandFailed("The relay does not tell what it accepted; is it of this version?")
        if self._at.source is None and len(header["sources"]) > 1:
            raise ConfigError(["The relay has several sources. Give --source: the one of this organisation."])
        both.relay_delivers_to(list(header["destinations"]))
        last: Any = {}
        for count, last in enumerate(stream):
            if "line" in last:
                line = b64decode(last["line_base64"]) if "line_base64" in last else last["line"].encode()
                key = of_line(line, pulled=last["pulled"])
                fates = {name: Fate(it) for name, it in last["fates"].items()}
                both.relay_accepted(key, fates, kept_back=last["kept_back"])
            if count % _TOLD_EVERY == 0:
                self._tell(f"{count:,} events from the relay")
        if "retained_from" not in last:
            raise CommandFailed("The relay broke off while it told what it accepted.")
        return header, last["retained_from"]

    async def _bring_back(self, api: KonnectApi, outcome: Outcome) -> Healing:
        """By replay, and where that is not possible by pull.

        Whatever goes wrong is part of the report: what came back before came back.
        """
        from relay.recovery.healing import widened
        from relay.recovery.report import Healing

        jobs, not_replayed = await self._replayed(api, outcome)
        pulls: list[Any] = []
        problem = None
        if not_replayed is not None:
            since = max((job.end for job in jobs if job.completed), default=0.0)
            spans = widened(outcome.windows, self._margin, self._clock.now())
            left = [(start, end) for start, end, _ in spans if end > since]
            try:
                pulls += pulled(self._at, self._relay, left, self._tell)
            except CommandFailed as error:
                problem = f"{not_replayed} {error}"
        return Healing(tuple(jobs), outcome.missing, not_replayed, tuple(pulls), problem)

    async def _replayed(self, api: KonnectApi, outcome: Outcome) -> tuple[list[Replayed], str | None]:
        """The jobs, and why they were not enough."""
        from relay.recovery.answers import ORGANISATION
        from relay.recovery.errors import KonnectError
        from relay.recovery.healing import replay
        from relay.recovery.obstacle import obstacle

        settings = self._at.settings
        jobs: list[Replayed] = []
        try:
            if (reason := await obstacle(api, ORGANISATION, leads_here=self._at.leads_here)) is not None:
                return jobs, reason
            await replay(
                api,
                ORGANISATION,
                outcome.windows,
                clock=self._clock,
                margin=self._margin,
                poll=_POLL if settings is None else settings.job_interval,
                told=self._tell,
                done=jobs.append,
            )
        except KonnectError as error:
            return jobs, str(error)
        if jobs and not jobs[-1].completed:
            return jobs, f"Konnect's replay job ended as {jobs[-1].state.value}."
        return jobs, None

    @property
    def _margin(self) -> float:
        return _MARGIN if self._at.settings is None else self._at.settings.margin

    def _about(self, header: Any, retained_from: str | None) -> Circumstances:
        from relay.recovery.report import Circumstances

        return Circumstances(
            made_at=rfc3339(self._clock.now()),
            made_by=f"{_user()}@{gethostname()}",
            version=__version__,
            region=self._at.region,
            konnect=self._at.hosts().regional,
            relay=self._relay.url,
            relay_version=header["version"],
            replica=header["replica"],
            source=self._at.source,
            start=rfc3339_ms(self._span.start),
            end=rfc3339_ms(self._span.end),
            retained_from=retained_from,
            discarded={name: each["discarded"] for name, each in header["destinations"].items()},
        )


def _user() -> str:
    try:
        return getpwuid(getuid()).pw_name
    except KeyError:  # a container's user need not be in any file
        return str(getuid())
