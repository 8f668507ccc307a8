"""`demo`: the relay at work on one machine, with a simulated Konnect and two simulated SIEMs."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli import output
from relay.cli.moments import duration
from relay.cli.options import JsonOption

if TYPE_CHECKING:
    from relay.demo.scene import Result, Scene


def demo(
    seconds: Annotated[
        float,
        typer.Option(parser=duration, metavar="DURATION", show_default="45s", help="How long events flow."),
    ] = 45.0,
    rate: Annotated[int, typer.Option(min=10, max=5000, help="Events a second.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Show it: events flow, one SIEM flaps, the relay is killed and comes back, and nothing is missing.

    Ctrl-C ends the events; what there is is delivered first. Exit status 1 if anything is missing.
    """
    if not 2 <= seconds <= 3600:
        raise typer.BadParameter("--seconds: expected 2s to 1h")
    result = asyncio.run(_play(seconds, rate, quiet=as_json))
    if as_json:
        output.print_json({**asdict(result), "complete": result.complete})
    else:
        from relay.demo.view import summary

        for line in summary(result):
            output.console().print(line, markup=False)
    if not result.complete:
        raise typer.Exit(1)


async def _play(seconds: float, rate: int, *, quiet: bool) -> Result:
    from relay.clock import SystemClock
    from relay.demo.scene import Scene

    live = sys.stdout.isatty() and not quiet

    def tell(at: float, sentence: str) -> None:
        if not live:
            typer.echo(f"{at:5.1f} s  {sentence}", err=quiet)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with TemporaryDirectory(prefix="konnect-relay-demo-") as folder:
        scene = Scene(Path(folder), SystemClock(), seconds=seconds, rate=rate, tell=tell)
        return await (_shown(scene, stop) if live else scene.play(stop))


async def _shown(scene: Scene, stop: asyncio.Event) -> Result:
    from rich.live import Live

    from relay.demo.view import picture

    with Live(get_renderable=lambda: picture(scene), refresh_per_second=8):
        return await scene.play(stop)
