"""What checking signatures costs: `python -m tests.benchmarks.signatures`.

First verification alone, on one core and in threads; then the same signed pool through a relay with one
sink, `mode: off` and `mode: tag` in turns, each as a part of the run without beside it. The intake's answer
times stand next to the rates: whoever checks must not keep Konnect waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from relay.konnect.signatures import Rule, SignatureResult, verify
from tests.benchmarks.harness import Bench, Variation, measure_relay
from tests.fakes.events import cef
from tests.fakes.signing import JWKS_FILE, TEST
from tests.fakes.workload import Pool

_LINES = 4000
_TAG = {"mode": "tag", "jwks": str(JWKS_FILE)}
_VARIATIONS = {
    "off": Variation(destinations=1),
    "tag": Variation(destinations=1, signatures=_TAG),
    "off, two roles": Variation(destinations=1, two_roles=True),
    "tag, two roles": Variation(destinations=1, two_roles=True, signatures=_TAG),
}


def signed(body: bytes) -> bytes:
    """The lines of *body* with signatures that verify in place of those they have."""
    lines = [line[: line.rindex(b" sig=")] for line in body.splitlines()]
    return b"".join(TEST.cef(line) + b"\n" for line in lines)


def alone(threads: int) -> float:
    """Lines verified per second."""
    lines = [TEST.cef(cef(n)) for n in range(_LINES)]

    def check(_: int) -> None:
        for line in lines:
            assert verify(line, (TEST.key,), first=Rule.C1).result is SignatureResult.VERIFIED

    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(check, range(threads)))
        return threads * _LINES / (time.perf_counter() - began)


async def through_the_relay(rounds: int, requests: int, events: int, under: Path | None) -> None:
    rates: dict[str, list[float]] = {name: [] for name in _VARIATIONS}
    async with Bench.open(under) as bench:
        pool = Pool.make(bench.folder / "signed", requests, events, sign=signed)
        for _ in range(rounds):
            for name, variation in _VARIATIONS.items():
                sample = await measure_relay(bench, pool, variation)
                rates[name].append(sample.deliver_rate)
                print(
                    f"{name:15} {sample.deliver_rate / 1000:6.1f} k events/s delivered"
                    f"  (acked at {sample.accept_rate / 1000:.0f} k)  p50 {sample.load.p50 * 1000:.2f}"
                    f" p99 {sample.load.p99 * 1000:.2f} ms  {sample.cpu_per_million:.1f} CPU s/M",
                    flush=True,
                )
    for with_, without in (("tag", "off"), ("tag, two roles", "off, two roles")):
        ratios = [a / b for a, b in zip(rates[with_], rates[without], strict=True)]
        print(f"{with_} / {without}: {median(ratios):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--events", type=int, default=100, help="per request")
    parser.add_argument("--dir", type=Path, help="on the disk to measure; the system's temporary folder")
    given = parser.parse_args()
    for threads in range(1, (os.cpu_count() or 1) + 1):
        found = sorted(alone(threads) for _ in range(given.rounds))
        print(f"verify, {threads} threads: {median(found) / 1000:.1f} k lines/s")
    asyncio.run(through_the_relay(given.rounds, given.requests, given.events, given.dir))


if __name__ == "__main__":
    main()
