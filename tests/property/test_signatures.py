"""A line that was changed does not verify, whatever the change."""

from __future__ import annotations

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from relay.konnect.jwks import parse_jwks
from relay.konnect.lines import format_of
from relay.konnect.pulled import entry_of, line_of
from relay.konnect.signatures import SignatureResult, verify
from relay.konnect.signed_bytes import Rule, Signed, signed_as
from tests.fakes.chunks import sample
from tests.fakes.konnect import Maker
from tests.fakes.konnect.writing import entry
from tests.fakes.signing import JWKS_FILE, TEST

KEYS = parse_jwks(JWKS_FILE.read_bytes())
PULLED = [line_of(entry(event)) for event in Maker().some(12, at=1_750_000_000.123)]
SIGNED = [*sample("cef"), *sample("json"), *sample("cps"), *sample("cps_sig_over_wrapper"), *PULLED]
PIECES = [b" sig=", b',"sig":"', b'"sig":"",', b'{"event":', b"\\", b'"', b"}", b" ", b"\n", b"\x00", b"CEF:"]

texts = st.one_of(st.binary(max_size=6), st.sampled_from(PIECES))


@st.composite
def changed(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A signed line, and the same with a few bytes replaced, put in, taken out or moved."""
    line = draw(st.sampled_from(SIGNED))
    other = line
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(other)))
        end = min(len(other), start + draw(st.integers(0, 4)))
        other = other[:start] + draw(texts) + other[end:]
    return line, other


@given(changed())
def test_a_changed_line_never_verifies(pair: tuple[bytes, bytes]) -> None:
    """But where it says exactly the same: white space before the signature, or between tokens of JSON."""
    line, other = pair
    verdict = verify(other, KEYS)
    if verdict.result is SignatureResult.VERIFIED:
        assert _says(other) == _says(line)
        assert other == line or verdict.rule is not Rule.P2


def _says(line: bytes) -> object:
    if format_of(line).value == "cef":
        text, _, signature = line.rpartition(b"sig=")
        return text.rstrip(), signature
    return json.loads(line, object_pairs_hook=sorted)


@given(
    st.one_of(st.binary(max_size=300), changed().map(lambda pair: pair[1])), st.sampled_from([None, *Rule])
)
def test_nothing_raises(line: bytes, first: Rule | None) -> None:
    """Any bytes have a result, and without keys the same but for what keys could tell."""
    found, without = verify(line, KEYS, first=first).result, verify(line, (), first=first).result
    if without is not SignatureResult.NO_KEY:
        assert found is without
    else:
        unproven = SignatureResult.ABSENT if signed_as(line) is Signed.PULLED else SignatureResult.FAILED
        assert found in (SignatureResult.VERIFIED, unproven)


values = st.one_of(st.text(), st.integers(-(2**63), 2**64), st.booleans(), st.none())


@given(st.dictionaries(st.text(), values, min_size=1))
def test_whatever_konnect_writes_verifies(fields: dict[str, object]) -> None:
    """Sorted and compact, the signature last; text may hold anything."""
    fields.pop("sig", None)
    line = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    assert verify(TEST.json(line), KEYS).result is SignatureResult.VERIFIED


@given(st.text(alphabet=st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])))
def test_whatever_a_caller_writes_verifies(user_agent: str) -> None:
    """In CEF nothing is escaped: the user agent may read like fields, or like a signature."""
    line = sample("cef_unsigned")[0] + b" query=" + user_agent.encode() + b" x=y"
    assert verify(TEST.cef(line), KEYS).rule is Rule.C1


names = st.one_of(
    st.text(),
    st.sampled_from(["ts", "type", "outcome", "service", "event_class_id", "uri", "request", "sig", "rt"]),
)
pulled_names = st.one_of(names, names.map("pulled_{}".format))
kinds = st.sampled_from(["authentication", "authorization", "gateway_access", "OK", "2025-06-18T21:01:43Z"])
numbers = st.integers(-(2**63), 2**64 - 1)
entries = st.dictionaries(pulled_names, st.one_of(kinds, st.text(), numbers, st.booleans(), st.none()))


@given(entries.map(lambda entry: entry | {"ts": entry.get("ts", "")}), st.randoms())
def test_an_entry_is_had_back_from_its_line(entry: dict[str, object], random: Random) -> None:
    """Whatever is in it, in whichever order: so no two make the same line."""
    fields = list(entry.items())
    random.shuffle(fields)
    found = entry_of(line_of(dict(fields)))

    assert found is not None
    assert list(found.items()) == fields
