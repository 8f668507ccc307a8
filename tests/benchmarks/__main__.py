"""`make bench`: every figure of performance.md against its target, measured on this machine now.

`python -m tests.benchmarks [--quick] [--only NAME,…] [--markdown FILE]`. Starts real processes on
loopback, needs about two gigabytes of temporary disk, and ends by itself. Exits with 1 when a target is
missed, so that a script can tell.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.harness import Bench, note
from tests.benchmarks.report import Figure, environment, markdown, table
from tests.benchmarks.scale import FULL, QUICK, Scale
from tests.benchmarks.scenarios import SCENARIOS


async def run(names: Sequence[str], scale: Scale, under: Path | None) -> list[tuple[str, Sequence[Figure]]]:
    sections: list[tuple[str, Sequence[Figure]]] = []
    async with Bench.open(under) as bench:
        for name in names:
            title, scenario = SCENARIOS[name]
            note(title)
            figures = await scenario(bench, scale)
            sections.append((title, figures))
            print(f"\n{title}\n{table(figures)}", flush=True)
    return sections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and once: to see that it works")
    parser.add_argument("--only", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--markdown", type=Path, help="also write the tables for docs/performance.md here")
    parser.add_argument("--dir", type=Path, help="on the disk to measure; the system's temporary folder")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(SCENARIOS)
    if unknown := sorted(set(names) - SCENARIOS.keys()):
        parser.error(f"no such scenario: {', '.join(unknown)}")
    print(environment())
    sections = asyncio.run(run(names, QUICK if given.quick else FULL, given.dir))
    if given.markdown:
        given.markdown.write_text(markdown(sections))
    missed = [figure.name for _, figures in sections for figure in figures if figure.met is False]
    print(f"\n{len(missed)} targets missed" + "".join(f"\n  {name}" for name in missed))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
