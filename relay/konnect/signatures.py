"""Whether one of Konnect's keys signed a line.

Pure, and never raises for what a line holds. Konnect signs each event with Ed25519 and appends the
signature to it. Which bytes that covers has to be found out: `signed_bytes` knows the candidates, which are
tried one after the other, and a verdict tells which one it was.

Of a pulled entry nobody has said at all what is signed: there a signature that verifies proves something, and
another one nothing.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InvalidSignature

from relay.konnect.jwks import Key
from relay.konnect.pulled import entry_of
from relay.konnect.signed_bytes import RULES, Rule, Signed, covered, covered_of_entry, find, signed_as


class SignatureResult(StrEnum):
    """What a check found. The closed set of the metric `signatures_total`."""

    VERIFIED = "verified"  # a known key signed this line
    FAILED = "failed"  # a signature that no known key made for this line
    ABSENT = "absent"  # no signature where one belongs, or a pulled event with none that could be checked
    NO_KEY = "no_key"  # a signature, and not one key to check it with
    MALFORMED = "malformed"  # what stands there cannot be a signature


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found, and for a verified line by which rule and key."""

    result: SignatureResult
    rule: Rule | None = None
    kid: str | None = None


_FAILED = Verdict(SignatureResult.FAILED)
_ABSENT = Verdict(SignatureResult.ABSENT)
_NO_KEY = Verdict(SignatureResult.NO_KEY)
_MALFORMED = Verdict(SignatureResult.MALFORMED)


def verify(line: bytes, keys: Sequence[Key], *, first: Rule | None = None) -> Verdict:
    """Check one line, without its line end, with every key.

    *first* is the rule to begin with, that which verified lately; the others follow. A line that fails
    costs one verification for each key and each candidate that covers other bytes.
    """
    form = signed_as(line)
    if form is Signed.PULLED:
        return _verify_pulled(line, keys, first)
    found = find(line, form)
    if found is None:
        return _ABSENT
    signature = _decoded(found.text)
    if signature is None:
        return _MALFORMED
    if not keys:
        return _NO_KEY
    candidates = ((rule, covered(rule, line, found)) for rule in _in_order(RULES[form], first))
    return _first_that_verifies(candidates, signature, keys) or _FAILED


def _verify_pulled(line: bytes, keys: Sequence[Key], first: Rule | None) -> Verdict:
    entry = entry_of(line)
    name = "signature" if entry and "signature" in entry else "sig"  # Kong documents either
    text = entry.pop(name, None) if entry else None
    signature = _decoded(text.encode()) if isinstance(text, str) else None
    if not entry or signature is None:
        return _ABSENT
    if not keys:
        return _NO_KEY
    candidates = ((rule, covered_of_entry(rule, entry)) for rule in _in_order(RULES[Signed.PULLED], first))
    return _first_that_verifies(candidates, signature, keys) or _ABSENT


def _first_that_verifies(
    candidates: Iterable[tuple[Rule, bytes | None]], signature: bytes, keys: Sequence[Key]
) -> Verdict | None:
    tried: list[bytes] = []
    for rule, text in candidates:
        if text is None or text in tried:
            continue
        tried.append(text)
        for key in keys:
            if _is_of(key, signature, text):
                return Verdict(SignatureResult.VERIFIED, rule, key.kid)
    return None


def _in_order(rules: tuple[Rule, ...], first: Rule | None) -> Iterator[Rule]:
    if first in rules:
        yield first
    yield from (rule for rule in rules if rule is not first)


def _is_of(key: Key, signature: bytes, text: bytes) -> bool:
    try:
        key.public.verify(signature, text)
    except InvalidSignature:
        return False
    return True


_CHARACTERS = 86  # 64 bytes in base64url without padding
_ALPHABET = re.compile(rb"[A-Za-z0-9_-]{86}")


def _decoded(text: bytes) -> bytes | None:
    """The signature's bytes, or None if *text* is no signature.

    Of the last character four bits say nothing. If they could be anything, sixteen lines would verify
    where Konnect signed one.
    """
    if len(text) != _CHARACTERS or not _ALPHABET.fullmatch(text):
        return None
    raw = urlsafe_b64decode(text + b"==")
    return raw if urlsafe_b64encode(raw)[:_CHARACTERS] == text else None
