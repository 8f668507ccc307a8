"""The demonstration on a terminal: a table that is drawn anew, and the news below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relay.demo.scene import Result, Scene

_NEWS: Final = 7  # lines
_COLOURS: Final = {"active": "green", "retrying": "yellow", "held": "red", "down": "bold red"}


def picture(scene: Scene) -> Group:
    """Everything as it is now."""
    bar = Table.grid()  # alone it would not end its line
    bar.add_row(ProgressBar(total=scene.seconds, completed=min(scene.elapsed, scene.seconds), width=60))
    news = [Text(f"{at:5.1f} s  {sentence}") for at, sentence in scene.picture.news[-_NEWS:]]
    return Group(
        Text("konnect-relay demo: Konnect, a relay and two SIEMs on this machine", style="bold"),
        bar,
        Panel(_parts(scene), border_style="dim"),
        *news,
    )


def _parts(scene: Scene) -> Table:
    grid = Table(box=None, pad_edge=False, expand=True)
    for name in ("", "STATE", "EVENTS", "BACKLOG", "MISSING", ""):
        grid.add_column(name, justify="right" if name in ("EVENTS", "BACKLOG", "MISSING") else "left")
    for row in _rows(scene):
        grid.add_row(*row)
    return grid


def _rows(scene: Scene) -> Iterator[tuple[Text | str, ...]]:
    counts, status = scene.konnect.counts, scene.picture.status
    state = "inactive" if scene.konnect.webhook.failing else "active"
    note = f"{counts.retries:,} retries, {counts.given_up:,} given up, {counts.unsent:,} unsent, "
    note += f"{counts.replayed:,} replayed"
    yield "Konnect", Text(state, "green" if state == "active" else "red"), f"{counts.made:,}", "", "", note
    if status is None:
        yield "relay", _state("down"), "–", "–", "", ""
    else:
        accepted = sum(source["accepted"] for source in status["sources"])
        twice = sum(source["duplicates"] for source in status["sources"])
        note = f"{twice:,} duplicates dropped, {status['open_gaps']} open gaps"
        yield "relay", _state("active"), f"{accepted:,}", "", f"{counts.made - accepted:,}", note
    missing = scene.missing()
    for siem in scene.siems:
        of = _destination(status, siem.name)
        note = "" if siem.is_up else "answers 503"
        yield (
            siem.name,
            _state(of["state"]) if of else "–",
            f"{len(siem.events):,}",
            f"{of['backlog']:,}" if of else "–",
            f"{missing[siem.name]:,}",
            note,
        )


def _destination(status: Any, name: str) -> Any:
    return next((it for it in status["destinations"] if it["name"] == name), None) if status else None


def _state(state: str) -> Text:
    return Text(state, _COLOURS.get(state, ""))


def summary(result: Result) -> Iterator[str]:
    """How it ended, for people."""
    yield (
        f"{result.made:,} events in {result.seconds:g} s. While the relay was down, {result.given_up:,} were "
        f"given up and {result.unsent:,} never sent."
    )
    yield f"{result.replayed:,} were sent once more, in {result.replay_jobs} replay jobs."
    for name, missing in result.missing.items():
        yield f"{name}: {missing:,} missing, {result.twice[name]:,} came twice (delivery is at least once)."
    yield "Everything Konnect has is at both SIEMs." if result.complete else "Something is missing."
