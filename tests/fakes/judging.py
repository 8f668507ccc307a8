"""Answers to the queue's question whose signature is good: with the TEST key of the fake Konnect, or none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from relay.konnect.jwks import Key, parse_jwks
from relay.konnect.signatures import SignatureResult, verify
from tests.fakes.konnect import writing

_SIGNATURE = re.compile(rb"(?<=sig=)[\w-]{86}$|(?<=\"sig\":\")[\w-]{86}(?=\")")
_MEMBER = re.compile(rb" sig=[\w-]{86}$|,\"sig\":\"[\w-]{86}\"")


@dataclass(slots=True)
class Keys:
    """Every source is checked with these keys. `asked` counts the lines."""

    keys: tuple[Key, ...] = parse_jwks(orjson.dumps(writing.jwks()))
    asked: int = 0

    def checks(self, source: str) -> bool:
        del source
        return True

    def verified(self, source: str, lines: Sequence[bytes]) -> Sequence[bool]:
        del source
        self.asked += len(lines)
        return [is_signed(line, self.keys) for line in lines]


class Unchecked:
    """Nobody looks at signatures."""

    def checks(self, source: str) -> bool:
        del source
        return False

    def verified(self, source: str, lines: Sequence[bytes]) -> Sequence[bool]:
        raise AssertionError(f"nobody may ask about {len(lines)} lines of {source}")


def is_signed(line: bytes, keys: Sequence[Key]) -> bool:
    return verify(line, keys).result is SignatureResult.VERIFIED


def forged(line: bytes) -> bytes:
    """The line under a signature that is none of Konnect's."""
    made, count = _SIGNATURE.subn(b"A" * 86, line)
    assert count == 1
    return made


def unsigned(line: bytes) -> bytes:
    """The line as somebody may send it who takes its signature away."""
    made, count = _MEMBER.subn(b"", line)
    assert count == 1
    return made
