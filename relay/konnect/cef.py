"""Konnect's CEF lines as records.

Owns the header and the values; which ` key=` is a field is told by relay.konnect.cef_order, and what
cannot be told makes the record doubtful. The signature is the last ` sig=` and reaches to the end of the
line. Works in time proportional to the line's length, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from relay.konnect.cef_order import KNOWN, KONNECTS, places
from relay.konnect.lines import CEF_MARKER_BEFORE
from relay.konnect.peek import EventType, event_type
from relay.konnect.record import TYPED, Record, record_of, typed

HOST = "konghq.com"
"""What Konnect writes between the timestamp and `CEF:`."""

_BEHIND_STAMP = f"{HOST} "
_MARKER = b"CEF:"
_HEADER = 7  # CEF:0 | vendor | product | version | class | name | severity | extensions
_SEVERITY = 6
_SEVERITY_DIGITS = 2
_FIELD = re.compile(r"((?:[^\\|]|\\.)*+)\|", re.DOTALL)
_ESCAPED = re.compile(r"\\([\\|])")
_SECOND_HEADER = "|rt="  # what would follow a severity

_KNOWN_KEY = re.compile(f" ({'|'.join(sorted(KNOWN))})=")
_ANY_KEY = re.compile(r" ([A-Za-z_][A-Za-z0-9_.-]*)=")
_SIG = " sig="
_SIGNATURE = re.compile(r"[A-Za-z0-9_-]*={0,2}")

_IN_HEADER = "severity"  # the only one there that is no text; empty, it is as good as absent
_SHORT = len("false")
_usual = lru_cache(maxsize=1024)(typed)  # the same few statuses, severities and flags all the time
_CACHED_KEYS = 24  # more than Konnect writes; a forged line must not fill the memory with its keys


def parse_cef(line: bytes) -> Record | None:
    """The record in a CEF line, or None if its header is incomplete."""
    at = line.find(_MARKER, 0, CEF_MARKER_BEFORE)
    if at < 0:
        return None
    text = line.decode(errors="replace")
    if at and not line.isascii():
        at = text.find("CEF:")
    header = _split_header(text[at + len(_MARKER) :])
    if header is None:
        return None
    version, vendor, product, product_version, class_id, name, severity, extensions = header
    found: dict[str, object] = {
        "cef_version": version,
        "event_vendor": vendor,
        "event_product": product,
        "event_version": product_version,
        "event_class_id": class_id,
        "name": name,
        _IN_HEADER: severity,
    }
    stamp = text[:at].removesuffix(_BEHIND_STAMP).rstrip(" ")
    if stamp and stamp != HOST:
        found["event_ts"] = stamp
    extra: list[tuple[str, object]] = []
    layout = _read_extensions(extensions, event_type(name), found, extra)
    for typed_name in layout.typed:
        text = str(found[typed_name])
        value = _usual(typed_name, text) if len(text) <= _SHORT else typed(typed_name, text)
        if value is not None:
            found[typed_name] = value
            continue
        del found[typed_name]
        if text or typed_name != _IN_HEADER:
            extra.append((typed_name, text))
    return record_of(found, extra, doubtful=layout.doubtful or _SECOND_HEADER in extensions)


def _split_header(text: str) -> list[str] | None:
    parts = text.split("|", _HEADER)
    if len(parts) > _HEADER and _is_severity(parts[_SEVERITY]):
        return parts
    # The CEF standard escapes `|` in a header as `\|`. Konnect has not been seen to, so that reading comes
    # second: with a backslash at a field's end it would take the extensions for the header.
    escaped = _split_escaped(text) if "\\|" in text else None
    return escaped or (parts if len(parts) > _HEADER else None)


def _split_escaped(text: str) -> list[str] | None:
    parts: list[str] = []
    at = 0
    for _ in range(_HEADER):
        found = _FIELD.match(text, at)
        if found is None:
            return None
        parts.append(_ESCAPED.sub(r"\1", found[1]))
        at = found.end()
    return [*parts, text[at:]] if _is_severity(parts[_SEVERITY]) else None


def _is_severity(text: str) -> bool:
    return len(text) <= _SEVERITY_DIGITS and text.isdigit()


def _read_extensions(
    text: str, kind: EventType, found: dict[str, object], extra: list[tuple[str, object]]
) -> _Layout:
    """Put the extensions' fields into *found*, and those that Konnect does not document into *extra*."""
    at = text.rfind(_SIG)
    if at >= 0 and _SIGNATURE.fullmatch(text, at + len(_SIG)):
        found["sig"] = text[at + len(_SIG) :]
        text = text[:at]
    parts = _KNOWN_KEY.split(" " + text)
    keys, values = parts[1::2], parts[2::2]
    layout = _layout(kind, keys)
    if parts[0] or _any_space(values, layout.konnects):
        keys, values = _with_unknown_keys(parts)
        layout = _layout(kind, keys)
    if layout.places is not None:
        keys, values = _joined(layout.places, keys, values)
    if layout.has_unknown:
        # Not into *found*, where one could be called as a field of the header is.
        extra += [(key, value) for key, value in zip(keys, values, strict=True) if key not in KNOWN]
        found.update((key, value) for key, value in zip(keys, values, strict=True) if key in KNOWN)
    else:
        found.update(zip(keys, values, strict=True))
    return layout


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the keys of a line tell without looking at the values."""

    places: tuple[int, ...] | None  # of the keys that are fields; None: all of them
    konnects: tuple[int, ...]  # places of keys whose values hold no space, unless they hold an unknown key
    typed: tuple[str, ...]  # fields that are not text
    has_unknown: bool  # fields that Konnect does not document
    doubtful: bool


def _layout(kind: EventType, keys: list[str]) -> _Layout:
    return _cached(kind, tuple(keys)) if len(keys) <= _CACHED_KEYS else _new_layout(kind, keys)


@lru_cache(maxsize=256)
def _cached(kind: EventType, keys: tuple[str, ...]) -> _Layout:
    return _new_layout(kind, keys)


def _new_layout(kind: EventType, keys: Sequence[str]) -> _Layout:
    found = places(kind, keys)
    read = [keys[at] for at in found.fields]
    return _Layout(
        places=None if len(read) == len(keys) else found.fields,
        konnects=tuple(at for at, key in enumerate(keys) if key in KONNECTS),
        # An extension that is called as a field of the header is unknown, and stays text.
        typed=(_IN_HEADER, *(key for key in read if key in TYPED and key in KNOWN)),
        has_unknown=not KNOWN.issuperset(read),
        doubtful=found.doubtful,
    )


def _any_space(values: list[str], places: tuple[int, ...]) -> bool:
    for at in places:  # noqa: SIM110  # a generator would take as long as all the rest of the extensions
        if " " in values[at]:
            return True
    return False


def _with_unknown_keys(parts: list[str]) -> tuple[list[str], list[str]]:
    """Keys and values with those that Konnect does not document, which can only be told from its own values.

    In a caller's value they stay text.
    """
    keys: list[str] = []
    values: list[str] = []
    first = _ANY_KEY.split(parts[0])
    keys += first[1::2]
    values += first[2::2]
    for key, value in zip(parts[1::2], parts[2::2], strict=True):
        keys.append(key)
        if key in KONNECTS and " " in value:
            value, *unknown = _ANY_KEY.split(value)
            values.append(value)
            keys += unknown[0::2]
            values += unknown[1::2]
        else:
            values.append(value)
    return keys, values


def _joined(fields: Sequence[int], keys: list[str], values: list[str]) -> tuple[list[str], list[str]]:
    """Only the keys that are fields, each value with the text that only looked like keys."""
    ends = [*fields[1:], len(keys)]
    wholes = []
    for start, end in zip(fields, ends, strict=True):
        rest = (
            f" {key}={value}"
            for key, value in zip(keys[start + 1 : end], values[start + 1 : end], strict=True)
        )
        wholes.append(values[start] + "".join(rest))
    return [keys[at] for at in fields], wholes
