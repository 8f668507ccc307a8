"""Where a line's signature stands, and which bytes it may cover.

Kong's documentation has described the bytes that are signed for CEF and JSON once, for CPS never, and no
sample that verifies was ever published (docs/signatures.md); so there are candidates, the rules.

Every textual rule covers all bytes of the line but the signature itself. That is why it matters where the
signature is taken from: a caller can write ` sig=…` into his user agent, so it is the last one, at the
line's end. A rule that reads the line and writes it anew covers what it says, not how; nothing that two
readers may understand differently (a key twice, a number in another writing) passes that way.

The signature of a pulled event covers the entry it was made of, which is had back from the line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn

import orjson

from relay.konnect.lines import CEF_MARKER_BEFORE, format_of
from relay.konnect.pulled import is_pulled


class Rule(StrEnum):
    """Which bytes are signed. docs/signatures.md tells where each comes from."""

    C1 = "C1"  # CEF: the line up to the white space before ` sig=`
    C2 = "C2"  # CEF: the line up to `sig=`, with the white space before it
    C3 = "C3"  # CEF: the line up to and with `sig=`
    C4 = "C4"  # CEF: as C1, from `CEF:` on, so without timestamp and host
    C5 = "C5"  # CEF: as C1, with a line feed
    J1 = "J1"  # JSON: the line without `,"sig":"…"`
    J2 = "J2"  # JSON: the line without `"sig":"…",`, where it comes first
    J3 = "J3"  # JSON: the line with an empty `"sig":""`
    J4 = "J4"  # JSON: all other fields, sorted and compact
    J5 = "J5"  # JSON: as J4, with `<`, `>` and `&` escaped as Go does
    P1 = "P1"  # CPS: the inner object by J1
    P2 = "P2"  # CPS: the whole line by J1
    S1 = "S1"  # pulled: the entry, compact, in its order
    S2 = "S2"  # pulled: the entry, compact, sorted
    S4 = "S4"  # pulled: as S1, with `<`, `>` and `&` escaped as Go does
    S5 = "S5"  # pulled: as S2, escaped


class Signed(StrEnum):
    """What a signature may be in, each with rules of its own: the formats, and a line that was pulled."""

    CEF = "cef"
    JSON = "json"
    CPS = "cps"
    PULLED = "pulled"
    UNKNOWN = "unknown"


RULES: Final[dict[Signed, tuple[Rule, ...]]] = {
    Signed.CEF: (Rule.C1, Rule.C2, Rule.C3, Rule.C4, Rule.C5),
    Signed.JSON: (Rule.J1, Rule.J2, Rule.J3, Rule.J4, Rule.J5),
    Signed.CPS: (Rule.P1, Rule.P2),
    Signed.PULLED: (Rule.S1, Rule.S2, Rule.S4, Rule.S5),
    Signed.UNKNOWN: (),
}
"""The candidates of each, in the order they are tried."""


def signed_as(line: bytes) -> Signed:
    """By which rules a line is checked."""
    return Signed.PULLED if is_pulled(line) else Signed(format_of(line))


# Where it stands


@dataclass(frozen=True, slots=True)
class Found:
    """A signature and the bytes around it that go with it: `start`, `key`, `value`, `end` are offsets."""

    text: bytes
    start: int = 0  # of the separator before it
    key: int = 0
    value: int = 0
    end: int = 0
    is_textual: bool = True  # False: it cannot be cut out of the text, only what the line says can be asked


def find(line: bytes, form: Signed) -> Found | None:
    """The signature of a line that a webhook brought, or None."""
    match form:
        case Signed.CEF:
            return _find_in_cef(line)
        case Signed.JSON | Signed.CPS:
            return _find_in_json(line)
        case _:
            return None


_SIG = b"sig="
_SPACE = b" \t\n\r\f\v"


def _find_in_cef(line: bytes) -> Found | None:
    at = line.rfind(_SIG)
    before = line[:at].rstrip(_SPACE) if at > 0 else b""
    if not before or len(before) == at:  # nothing there, or the end of another word
        return None
    text = line[at + len(_SIG) :]
    if len(text.split(None, 1)) > 1:
        return None  # more follows: this ` sig=` stands inside a value
    return Found(text, len(before), at, at + len(_SIG), len(line))


_MEMBER = b'"sig":"'
_AT_THE_END = (b'"}', b'"}}')


def _find_in_json(line: bytes) -> Found | None:
    # Inside a string every quote is escaped, so in valid JSON this is the beginning of a member.
    at = max(line.rfind(b"," + _MEMBER), line.rfind(b"{" + _MEMBER))
    if at >= 0:
        value = at + 1 + len(_MEMBER)
        end = line.find(b'"', value)
        # At the line's end it can be no part of anything else. Elsewhere the line has to be JSON: the bytes
        # around a signature that was put inside a string are those that were signed.
        if end >= 0:
            covers = line[end:] in _AT_THE_END or _is_json(line)
            return Found(line[value:end], at, at + 1, value, end + 1, is_textual=covers)
    record = _object(line)
    if record is None:
        return None
    inner = record.get("event")
    found = record.get("sig", inner.get("sig") if isinstance(inner, dict) else None)
    if found is None:
        return None
    text = found.encode(errors="replace") if isinstance(found, str) else b""
    return Found(text, is_textual=False)


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


# What it covers


_WRAPPER, _WRAPPER_END = b'{"event":', b"}"


def covered(rule: Rule, line: bytes, found: Found) -> bytes | None:  # noqa: C901 - one for each rule
    """The bytes that are signed by *rule*; None where it does not apply to this line."""
    match rule:
        case Rule.C1:
            return line[: found.start]
        case Rule.C2:
            return line[: found.key]
        case Rule.C3:
            return line[: found.value]
        case Rule.C4:
            return line[line.find(b"CEF:", 0, CEF_MARKER_BEFORE) : found.start]
        case Rule.C5:
            return line[: found.start] + b"\n"
        case Rule.J4 | Rule.J5:
            return _written_anew(line, escape=rule is Rule.J5)
    if not found.is_textual:
        return None
    comes_first = line[found.start : found.key] == b"{"
    match rule:
        case Rule.J1 | Rule.P2:
            return None if comes_first else line[: found.start] + line[found.end :]
        case Rule.P1:
            if comes_first or not line.endswith(_WRAPPER_END):
                return None
            return (line[: found.start] + line[found.end :])[len(_WRAPPER) : -len(_WRAPPER_END)]
        case Rule.J2:
            if not comes_first or line[found.end : found.end + 1] != b",":
                return None
            return line[: found.key] + line[found.end + 1 :]
        case Rule.J3:
            return line[: found.value] + line[found.end - 1 :]
        case _:
            return None


def covered_of_entry(rule: Rule, entry: Mapping[str, object]) -> bytes:
    """The bytes that are signed by *rule*, of an entry without its signature."""
    is_sorted, escape = rule in (Rule.S2, Rule.S5), rule in (Rule.S4, Rule.S5)
    text = orjson.dumps(entry, option=orjson.OPT_SORT_KEYS if is_sorted else None)
    return _as_go_writes(text, escape=escape)


_GO_ESCAPES: Final = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))
# Go escapes these two with or without its HTML escapes.
_GO_SEPARATORS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


def _written_anew(line: bytes, *, escape: bool) -> bytes | None:
    record = _object(line)
    if record is None:
        return None
    record.pop("sig", None)
    try:
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # half a surrogate pair; a nesting as deep as a well
        return None
    return _as_go_writes(text, escape=escape)


def _as_go_writes(text: bytes, *, escape: bool) -> bytes:
    for plain, escaped in (*_GO_SEPARATORS, *(_GO_ESCAPES if escape else ())):
        text = text.replace(plain, escaped)
    return text


def _object(line: bytes) -> dict[str, object] | None:
    """The object in *line*, if all readers of JSON would understand it alike. Integers are exact."""
    try:
        value = json.loads(
            line.decode(),
            object_pairs_hook=_unique,
            parse_int=_exact,
            parse_float=_refused,
            parse_constant=_refused,
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice: some readers take the first, some the last")
    return found


def _exact(digits: str) -> int:
    value = int(digits)
    if str(value) != digits:  # `-0`
        raise ValueError("not as it would be written")
    return value


def _refused(number: str) -> NoReturn:
    # Konnect writes no fractions, and no two libraries write them alike.
    raise ValueError("not a whole number")
