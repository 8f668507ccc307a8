"""Checking a log that was exported: a file of lines as Konnect sent them, plain or gzip.

Owns the reading of the file, which may be larger than memory, and the sums. Needs no relay.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from relay.errors import RelayError
from relay.konnect.jwks import Key
from relay.konnect.signatures import SignatureResult, Verdict, verify
from relay.konnect.signed_bytes import Rule, Signed, signed_as

_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_PIECE: Final = 500  # lines
_MOST_LINE: Final = 16 * 1024 * 1024  # bytes; a file without line ends must not fill the memory


@dataclass(frozen=True, slots=True)
class Failing:
    """A line that did not verify."""

    number: int  # from 1, empty ones counted
    result: SignatureResult
    line: bytes


@dataclass(slots=True)
class Audit:
    """What was found in a file."""

    results: Counter[SignatureResult] = field(default_factory=Counter)
    rules: Counter[tuple[Signed, Rule]] = field(default_factory=Counter)
    kids: Counter[str] = field(default_factory=Counter)
    failing: list[Failing] = field(default_factory=list)  # the first ones

    @property
    def events(self) -> int:
        return self.results.total()

    @property
    def is_clean(self) -> bool:
        """Whether every event verified, and there is one."""
        return self.events > 0 and self.results[SignatureResult.VERIFIED] == self.events


def audit(path: Path, keys: Sequence[Key], *, most_failing: int) -> Audit:
    """Check every line of the file. Raises `RelayError` where it cannot be read to its end."""
    found = Audit()
    threads = os.cpu_count() or 1
    first: dict[Signed, Rule] = {}

    def check(piece: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes, Verdict]]:
        return [(number, line, _verify(line, keys, first)) for number, line in piece]

    try:
        with path.open("rb") as raw, ThreadPoolExecutor(threads) as pool:
            lines = _lines(raw)
            while pieces := [piece for _ in range(threads) if (piece := list(islice(lines, _PIECE)))]:
                for checked in pool.map(check, pieces):
                    for number, line, verdict in checked:
                        _note(found, number, line, verdict, most_failing)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "its gzip is broken"
        raise RelayError(f"cannot read {path}: {reason}") from error
    return found


def _verify(line: bytes, keys: Sequence[Key], first: dict[Signed, Rule]) -> Verdict:
    form = signed_as(line)
    verdict = verify(line, keys, first=first.get(form))
    if verdict.rule is not None:
        first[form] = verdict.rule
    return verdict


def _note(found: Audit, number: int, line: bytes, verdict: Verdict, most_failing: int) -> None:
    found.results[verdict.result] += 1
    if verdict.rule is not None and verdict.kid is not None:
        found.rules[signed_as(line), verdict.rule] += 1
        found.kids[verdict.kid] += 1
    elif len(found.failing) < most_failing:
        found.failing.append(Failing(number, verdict.result, line))


def _lines(raw: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines without their ends and their numbers; empty ones are left out."""
    is_gzip = raw.read(len(_GZIP)) == _GZIP
    raw.seek(0)
    file = gzip.open(raw) if is_gzip else raw  # noqa: SIM115 - closed with the file below it
    number = 0
    while line := file.readline(_MOST_LINE):
        number += 1
        if len(line) == _MOST_LINE and not line.endswith(b"\n"):
            raise RelayError(f"line {number} is longer than {_MOST_LINE} bytes")
        line = line.removeprefix(_BOM) if number == 1 else line
        if line := line.rstrip(b"\r\n"):
            yield number, line
