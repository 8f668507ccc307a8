"""What checking signatures costs: `python -m tests.benchmarks.signatures`.

First verification alone, on one core and in threads: CPU time an event, which other work on the machine
changes little, and the rate. Then the relay's threads with a key that takes about as long and needs no core:
how many cores they could keep busy. Then the same signed pool through a relay with one sink, `mode: off` and
`mode: tag` in turns, each as a part of the run without beside it. The intake's answer times stand next to the
rates: whoever checks must not keep Konnect waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from relay.konnect.jwks import Key
from relay.konnect.signatures import SignatureResult, verify
from relay.konnect.signed_bytes import Rule
from relay.signing.crew import Crew
from tests.benchmarks.harness import Bench, Variation, measure_relay
from tests.fakes.events import cef
from tests.fakes.signing import JWKS_FILE, TEST
from tests.fakes.workload import Pool

_LINES = 4000
_TOGETHER = 1000  # events that delivery reads at a time
_PRETENDED = 50e-6  # seconds; the kernel makes some 110e-6 of it
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


def alone(threads: int) -> tuple[float, float]:
    """Lines verified per second, and microseconds of a core that each took."""
    lines = [TEST.cef(cef(n)) for n in range(_LINES)]

    def check(_: int) -> None:
        for line in lines:
            assert verify(line, (TEST.key,), first=Rule.C1).result is SignatureResult.VERIFIED

    with ThreadPoolExecutor(threads) as pool:
        began, used = time.perf_counter(), time.process_time()
        list(pool.map(check, range(threads)))
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
        return threads * _LINES / seconds, cpu / (threads * _LINES) * 1e6


class _Pretended:
    """A public key that lets go of the interpreter lock about as long as OpenSSL does."""

    def verify(self, signature: bytes, covered: bytes) -> None:
        time.sleep(_PRETENDED)


async def pretended(threads: int, events: int) -> float:
    """Events checked per second, in batches of so many that are read together, had each thread its core."""
    lines = [TEST.cef(cef(n)) for n in range(_LINES)]
    key = Key("pretended", TEST.key.x)
    object.__setattr__(key, "public", _Pretended())
    crew = Crew(threads)

    def check(indices: Sequence[int]) -> list[SignatureResult]:
        return [verify(lines[n], (key,), first=Rule.C1).result for n in indices]

    began = time.perf_counter()
    for at in range(0, _LINES, _TOGETHER):
        batches = [range(start, start + events) for start in range(at, at + _TOGETHER, events)]
        await asyncio.gather(*[crew.verify(check, batch) for batch in batches])
    crew.close()
    return _LINES / (time.perf_counter() - began)


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
        found = [alone(threads) for _ in range(given.rounds)]
        rate, cost = median([rate for rate, _ in found]), median([cost for _, cost in found])
        print(f"verify, {threads} threads: {rate / 1000:.1f} k lines/s, {cost:.0f} us of a core each")
    for events in (10, 100, 1000):
        rates = {
            threads: median([asyncio.run(pretended(threads, events)) for _ in range(given.rounds)])
            for threads in (1, 2, 4, 8, 16)
        }
        shown = "  ".join([f"{threads}: {rate / rates[1]:.1f}" for threads, rate in rates.items()])
        print(f"threads with a core each, batches of {events}: {shown}  of one thread", flush=True)
    asyncio.run(through_the_relay(given.rounds, given.requests, given.events, given.dir))


if __name__ == "__main__":
    main()
