"""How long `konnect reconcile` takes, and how much memory: `python -m tests.benchmarks.reconciling 1000000`.

Fills a queue, starts a relay on it with two destinations, one of which filters, and compares it with a
Konnect that has the same events and a hundred more. Prints CPU time and peak memory of the command and of the
relay.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web

from relay.clock import SystemClock
from relay.config.queue import SqliteQueueConfig
from relay.konnect.times import rfc3339
from relay.model import Batch, Format
from relay.queue.sqlite import SqliteQueue
from tests.e2e.support import SOURCE, configuration
from tests.fakes.konnect.events import ORGANISATION, PRINCIPAL
from tests.fakes.process import RelayProcess, free_port, until

_BATCH = 1_000
_PAGE = 1_000
_MISSING = 100
_LINE = (
    "%s konghq.com CEF:0|KongInc|Konnect|1.0|konnect|Authz.control-planes|1|rt=%d src=127.0.0.6 action=list"
    " granted=true org_id=%s principal_id=%s actor_id= trace_id=%s user_agent=grpc-go/1.51.0 sig=%s"
)


class Happened:
    """Events every half millisecond up to now, numbered from the oldest."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.first = round(time.time() * 1000) - count // 2 - 60_000

    def at(self, number: int) -> int:
        return self.first + number // 2

    def trace(self, number: int) -> str:
        return str(3_895_213_347_334_635_099 + number * 7_919)

    def line(self, number: int) -> bytes:
        at, trace = self.at(number), self.trace(number)
        text = _LINE % (rfc3339(at)[:19] + "Z", at, ORGANISATION, PRINCIPAL, trace, trace * 4)
        return text.encode()

    def entry(self, number: int) -> dict[str, object]:
        return {
            "type": "authorization",
            "ts": rfc3339(self.at(number)),
            "org_id": ORGANISATION,
            "principal_id": PRINCIPAL,
            "trace_id": self.trace(number),
            "resource": f"krn:konnect:reg/us:org/{ORGANISATION}:control-planes",
            "action": "list",
            "granted": True,
        }

    def batches(self) -> Iterator[Batch]:
        for start in range(0, self.count, _BATCH):
            lines = [self.line(n) for n in range(start, min(start + _BATCH, self.count))]
            body = b"".join(line + b"\n" for line in lines)
            at = self.at(start) / 1000 + 1
            yield Batch(SOURCE, at, ((Format.CEF, len(lines)),), body, gzip.compress(body, 1), lines)


async def fill(path: Path, happened: Happened) -> None:
    config = SqliteQueueConfig(path=path, min_free_disk=0, max_bytes=1 << 36)
    queue = await SqliteQueue.open(config, clock=SystemClock(), deduplicate={SOURCE: None})
    for name in ("all", "some"):
        await queue.attach(name, "now")
    for batch in happened.batches():
        await queue.append([batch])
    await queue.close()


async def pull(happened: Happened, total: int) -> web.AppRunner:
    """Konnect's log in pages, newest first."""

    async def get(request: web.Request) -> web.Response:
        newest = int(request.query.get("page[after]", total))
        oldest = max(0, newest - _PAGE)
        data = [happened.entry(n) for n in reversed(range(oldest, newest))]
        following = f"/audit-logs?page[after]={oldest}" if oldest else None
        return web.json_response({"data": data, "meta": {"page": {"next": following}}})

    app = web.Application()
    app.router.add_get("/v3/audit-logs", get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", free_port()).start()
    return runner


async def main(count: int) -> None:
    happened = Happened(count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await fill(folder / "relay.db", happened)
        konnect = await pull(happened, count + _MISSING)
        url = f"http://127.0.0.1:{konnect.addresses[0][1]}"
        config = configuration(
            folder,
            [
                {"name": "all", "type": "file", "path": str(folder / "all.ndjson")},
                {
                    "name": "some",
                    "type": "file",
                    "path": str(folder / "some.ndjson"),
                    "filter": {"types": ["authentication"]},
                },
            ],
            max_bytes=1 << 36,
        )
        config["logging"] = {"level": "warning"}
        config["recovery"] = {
            "konnect": {"region": "us", "token": "kpat_x", "regional_url": url, "global_url": url}
        }
        async with RelayProcess(config, folder) as relay:

            async def delivered() -> bool:
                return not any(it["backlog"] for it in (await relay.status())["destinations"])

            await until(delivered, 600.0, "an empty backlog")
            # From here on the kernel counts the peak anew (man 5 proc, clear_refs).
            (Path("/proc") / str(relay.pid) / "clear_refs").write_text("5")
            before = relay.usage()
            started = time.monotonic()
            code, out, err = await relay.command(
                "konnect", "reconcile", "--from", "-7d", "--to", "now", "--json", within=3600.0
            )
            seconds = time.monotonic() - started
            after = relay.usage()
            command = resource.getrusage(resource.RUSAGE_CHILDREN)  # the only child that has ended
            assert code == 1, err
            report = json.loads(out)["report"]
            assert report["totals"]["missing"] == _MISSING
        await konnect.cleanup()
    cpu = command.ru_utime + command.ru_stime
    print(f"{count:,} events in {seconds:.0f} s")
    print(f"the command: {cpu:.1f} s of CPU, {command.ru_maxrss >> 10} MiB at its peak")
    print(
        f"the relay: {after.cpu - before.cpu:.1f} s of CPU, {before.rss >> 20} MiB before,"
        f" {after.peak_rss >> 20} MiB at its peak"
    )
    print(json.dumps(report["destinations"], indent=1))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
