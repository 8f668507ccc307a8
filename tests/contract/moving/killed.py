"""A move that is killed at a certain point: python -m tests.contract.moving.killed FROM TO STEP PART DONE."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from relay.queue.belongings import Part
from relay.queue.moving import Step, move
from tests.contract.moving.houses import house_at


async def _main(old: str, new: str, step: str, part: str, done: str) -> None:
    def watch(at: Step, of: Part, so_far: int, total: int) -> None:
        if (at, of, so_far) == (step, part, int(done) or total):
            os.kill(os.getpid(), signal.SIGKILL)

    async with house_at(old).store() as store, house_at(new).target() as target:
        await move(store, target, watch)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
