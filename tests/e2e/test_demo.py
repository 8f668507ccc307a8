"""`konnect-relay demo` for a few seconds, as an operator starts it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process

LIMIT = 100.0  # seconds the whole of it may take on a busy machine


async def begin(*arguments: str) -> Process:
    command = [sys.executable, "-m", "relay", "demo", *arguments]
    return await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)


async def test_everything_is_at_both_siems_in_the_end() -> None:
    """The relay is killed and loses batches, a SIEM flaps; a replay fills the gap, and the status is 0.

    Half a minute, nearly all of it idle: recovery lets things settle for 20 s before it asks for a replay.
    """
    process = await begin("--seconds", "4", "--rate", "100", "--json")
    async with asyncio.timeout(LIMIT):
        out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    result = json.loads(out)
    assert result["complete"]
    assert set(result["missing"].values()) == {0}
    assert result["replay_jobs"] >= 1
    assert result["replayed"] >= result["given_up"] + result["unsent"] > 0


async def test_it_can_be_stopped_early() -> None:
    """Ctrl-C ends the events; what there is is delivered, and the summary says so."""
    process = await begin("--seconds", "600")
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT):
        while b"events flow" not in await process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    assert b"Everything Konnect has is at both SIEMs." in out
