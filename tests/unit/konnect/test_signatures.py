"""Whether a line was signed: every rule and every trap of docs/signatures.md."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from relay.konnect.jwks import parse_jwks
from relay.konnect.pulled import line_of
from relay.konnect.signatures import SignatureResult, Verdict, verify
from relay.konnect.signed_bytes import RULES, Rule, Signed, signed_as
from relay.observe import catalog
from tests.fakes.chunks import sample
from tests.fakes.signing import JWKS_FILE, TEST, Signer, another

KEYS = parse_jwks(JWKS_FILE.read_bytes())
KID = KEYS[0].kid
UNSIGNED = {"cef": sample("cef_unsigned")[0], "json": sample("json_unsigned")[0]}
ABSENT, FAILED = SignatureResult.ABSENT, SignatureResult.FAILED
MALFORMED, NO_KEY = SignatureResult.MALFORMED, SignatureResult.NO_KEY


def result(line: bytes) -> SignatureResult:
    return verify(line, KEYS).result


# What must not verify


def test_documented_lines_cannot_verify() -> None:
    """Kong scrubbed them: no published line verifies with any published key."""
    results = {result(line) for line in sample("documented_lines")}
    results |= {result(line) for line in sample("documented_line_verify_page.json")}
    assert results == {FAILED, MALFORMED}


def test_other_types_are_other_content() -> None:
    """The signatures there cover the same events with numbers; text in their place is something else."""
    assert {result(line) for line in sample("json_docstyle_types")} == {FAILED}


@pytest.mark.parametrize("name", ["cef_unsigned", "json_unsigned"])
def test_unsigned(name: str) -> None:
    """No signature is no failure."""
    assert {result(line) for line in sample(name)} == {ABSENT}


@pytest.mark.parametrize(
    "line", [*sample("edge_unproven")[7:], b"", b"{", b"CEF:", b"\xff\x00", b'{"sig":', b"[]"]
)
def test_what_is_no_event(line: bytes) -> None:
    """Broken lines have no signature that could be checked, and raise nothing."""
    assert result(line) in {ABSENT, FAILED, MALFORMED}


@pytest.mark.parametrize("key", [another(1), another(2)])
def test_a_signature_by_a_stranger(key: object) -> None:
    """Right in itself, and made by none of our keys."""
    assert isinstance(key, type(TEST))
    assert result(key.cef(UNSIGNED["cef"])) is FAILED
    assert result(key.json(UNSIGNED["json"])) is FAILED


def test_without_any_key() -> None:
    """That says something about us, not about the event; what is no signature is told all the same."""
    assert verify(sample("cef")[0], ()) == Verdict(NO_KEY)
    assert verify(sample("cef")[0][:-1], ()).result is MALFORMED
    assert verify(UNSIGNED["cef"], ()).result is ABSENT


@pytest.mark.parametrize("name", ["cef", "json", "cps"])
@pytest.mark.parametrize("change", ["", "A", "AA==", "!", " x", "\u00e9"])
def test_a_signature_of_another_length_or_alphabet(name: str, change: str) -> None:
    """Sixty-four bytes, base64url, no padding; anything else is no signature."""
    line = sample(name)[0]
    signature = line[line.rindex(b"sig") + 3 :].strip(b'=":}')
    changed = line.replace(signature, signature + change.encode() if change else signature[:-1])
    assert result(changed) in ({ABSENT, MALFORMED} if change == " x" else {MALFORMED})


def test_bits_that_say_nothing_have_to_be_zero() -> None:
    """The last of 86 characters has four bits too many: sixteen writings, of which one is right."""
    line = sample("cef")[0]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    verdicts = [result(line[:-1] + bytes([character])) for character in alphabet]
    assert verdicts.count(SignatureResult.VERIFIED) == 1
    assert verdicts.count(MALFORMED) == 60


@pytest.mark.parametrize("sig", [1, None, [], {}, True, "x"])
def test_a_sig_of_another_type(sig: object) -> None:
    """JSON may hold anything under `sig`; null says that there is none."""
    line = json.dumps({"name": "Ingress", "sig": sig}).encode()
    assert result(line) is (ABSENT if sig is None else MALFORMED)


def test_a_forged_signature_before_the_real_one() -> None:
    """A user agent that reads like a signature and what follows it: the last one counts, and covers it."""
    forged = sample("edge_unproven")[0]
    assert b"user_agent=evil sig=AAAA principal_id=" in forged
    assert verify(forged, KEYS).rule is Rule.C1
    assert result(forged.replace(b"evil", b"good")) is FAILED


def test_a_caller_cannot_bring_a_signature() -> None:
    """Whatever he writes before the end of the line is text; an unsigned line stays unsigned."""
    copied = sample("cef")[0]
    theirs = copied[copied.rindex(b" sig=") :]
    line = UNSIGNED["cef"].replace(b" user_agent=", b" user_agent=x%b query=" % theirs)
    assert result(line) is ABSENT
    assert result(line + theirs) is FAILED


def test_what_follows_a_signature_takes_it_away() -> None:
    """In CEF it ends the line."""
    assert result(sample("cef")[0] + b" src=10.0.0.1") is ABSENT
    assert result(sample("cef")[0] + b" ") is MALFORMED


def test_a_field_twice_does_not_pass() -> None:
    """Read by one parser it is the signed event, by another a forged one."""
    line = sample("json")[0]
    forged = b'{"principal_id":"someone-else",' + line[1:]
    assert json.loads(forged) == json.loads(line)
    assert result(forged) is FAILED


@pytest.mark.parametrize("written", [b"1750280466889.0", b"1.750280466889e12", b"-0", b"NaN"])
def test_a_number_in_another_writing_does_not_pass(written: bytes) -> None:
    """Readers disagree on what is equal to it."""
    line = sample("json")[0]
    assert b"1750280466889" in line
    assert result(line.replace(b"1750280466889", written)) is FAILED


def test_beside_a_signed_event_nothing_passes() -> None:
    """The inner object of CPS is what is signed; a second one, or fields around it, are not."""
    line = sample("cps")[0]
    assert result(line[:-1] + b',"time":1}') is FAILED
    assert result(b'{"event":{"name":"x"},' + line[1:]) is FAILED
    assert result(line.replace(b'{"event":', b'{"event":{"a":1},"event":', 1)) is FAILED


def test_a_signature_inside_a_string() -> None:
    """The bytes around it are those that were signed, but that is no event any more."""
    line = sample("json")[0]
    member = line[line.rindex(b',"sig":"') : -1]
    bare = line.replace(member, b"")
    at = bare.index(b"grpc-go") + 4
    assert result(bare[:at] + member + bare[at:]) is FAILED


@pytest.mark.parametrize("name", ["json", "cps", "cps_sig_over_wrapper"])
@pytest.mark.parametrize("form", [b',"sig":"%b"', b'"sig":"%b",'])
def test_a_signature_anywhere_else(name: str, form: bytes) -> None:
    """Moved to another place it is believed only where the line still says the same."""
    line = sample(name)[0]
    signature = line[line.rindex(b'"sig":"') + 7 :].rstrip(b'"}')
    bare = line.replace(b',"sig":"' + signature + b'"', b"")
    for at in range(len(bare) + 1):
        moved = bare[:at] + form % signature + bare[at:]
        if result(moved) is SignatureResult.VERIFIED:
            assert _without_sig(moved) == _without_sig(line)


def _without_sig(line: bytes) -> object:
    said = json.loads(line)
    for part in (said, said.get("event", {})):
        part.pop("sig", None)
    return said


def test_deep_nesting_and_long_digits() -> None:
    """Neither stack nor patience is exhausted."""
    signature = sample("json")[0][-88:-2]
    assert result(b'{"sig": "%b","a":' % signature + b"[" * 100_000) is ABSENT
    assert result(b'{"sig": "%b","a":%b}' % (signature, b"9" * 5000)) is ABSENT
    assert result(b'{"sig":"%b","a":%b}' % (signature, b"[" * 900 + b"]" * 900)) is FAILED
    assert result(rb'{"sig":"%b","a":"\ud800"}' % signature) is FAILED


# What must verify


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("cef", Rule.C1),
        ("json", Rule.J1),
        ("cps", Rule.P1),
        ("cps_sig_over_wrapper", Rule.P2),
        ("batch_crlf_blank_lines.cef", Rule.C1),
    ],
)
@pytest.mark.parametrize("first", [None, *Rule])
def test_signed_samples(name: str, rule: Rule, first: Rule | None) -> None:
    """They verify by the rule they were made by, whichever is tried first."""
    for line in filter(None, sample(name)):
        verdict = verify(line, KEYS, first=first)
        assert verdict.result is SignatureResult.VERIFIED
        assert verdict.kid == KID
        assert verdict.rule is rule or (rule is Rule.J1 and first in (Rule.J4, Rule.J5))


def _sorted(line: bytes) -> bytes:
    return json.dumps(json.loads(line), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


_CEF, _JSON = UNSIGNED["cef"], UNSIGNED["json"]
_SPACED = json.dumps(
    dict(reversed(json.loads(_JSON).items())) | {"user_agent": "<é&>"}, ensure_ascii=False
).encode()


def _escaped(text: bytes) -> bytes:
    return text.replace(b"<", rb"\u003c").replace(b">", rb"\u003e").replace(b"&", rb"\u0026")


_GO = _escaped(_sorted(_SPACED))
_ENTRY = (
    b'{"type":"gateway_access","ts":"2025-06-18T21:01:43.9604Z","client_ip":"127.0.0.6","method":"POST",'
    b'"uri":"/v2/x?a=<1>&b=2","status_code":403,"trace_id":"18446744073709551615","user_agent":"\xc3\xa9"}'
)


def _pulled(covered: bytes, *, name: str = "signature", by: Signer = TEST) -> bytes:
    """The line of an entry whose signature covers these bytes."""
    return line_of(json.loads(_ENTRY) | {name: by.text(covered).decode()})


_MADE: dict[Rule, Callable[[], bytes]] = {
    Rule.C1: lambda: _CEF + b" sig=" + TEST.text(_CEF),
    Rule.C2: lambda: _CEF + b" sig=" + TEST.text(_CEF + b" "),
    Rule.C3: lambda: _CEF + b" sig=" + TEST.text(_CEF + b" sig="),
    Rule.C4: lambda: _CEF + b" sig=" + TEST.text(_CEF[_CEF.index(b"CEF:") :]),
    Rule.C5: lambda: _CEF + b" sig=" + TEST.text(_CEF + b"\n"),
    Rule.J1: lambda: _JSON[:-1] + b',"sig":"' + TEST.text(_JSON) + b'"}',
    Rule.J2: lambda: b'{"sig":"' + TEST.text(_JSON) + b'",' + _JSON[1:],
    Rule.J3: lambda: _JSON[:-1] + b',"sig":"' + TEST.text(_JSON[:-1] + b',"sig":""}') + b'"}',
    Rule.J4: lambda: _SPACED[:-1] + b', "sig": "' + TEST.text(_sorted(_SPACED)) + b'"}',
    Rule.J5: lambda: _SPACED[:-1] + b', "sig": "' + TEST.text(_GO) + b'"}',
    Rule.P1: lambda: b'{"event":' + TEST.json(_JSON) + b"}",
    Rule.P2: lambda: TEST.json(b'{"event":' + _JSON + b"}"),
    Rule.S1: lambda: _pulled(_ENTRY),
    Rule.S2: lambda: _pulled(_sorted(_ENTRY)),
    Rule.S4: lambda: _pulled(_escaped(_ENTRY)),
    Rule.S5: lambda: _pulled(_escaped(_sorted(_ENTRY))),
}


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("first", [None, *Rule])
def test_every_rule(rule: Rule, first: Rule | None) -> None:
    """Each candidate finds what it was made for, whichever is tried first."""
    line = _MADE[rule]()
    verdict = verify(line, (another(5).key, TEST.key), first=first)
    assert (verdict.result, verdict.kid) == (SignatureResult.VERIFIED, "test")
    # These say the same as text removed and as written anew.
    assert verdict.rule is rule or (rule in (Rule.J1, Rule.J2) and verdict.rule in (Rule.J4, Rule.J5))
    assert verdict.rule in RULES[signed_as(line)]


def test_rules_belong_to_one_format() -> None:
    """Together they are all; a line of no format has none."""
    assert sorted(rule for rules in RULES.values() for rule in rules) == sorted(Rule)
    assert RULES[Signed.UNKNOWN] == ()


# Pulled events


@pytest.mark.parametrize("name", ["signature", "sig"])
def test_the_signature_of_an_entry_has_two_names(name: str) -> None:
    """Konnect's specification has one, its reference the other."""
    assert verify(_pulled(_ENTRY, name=name), KEYS) == Verdict(SignatureResult.VERIFIED, Rule.S1, KID)


@pytest.mark.parametrize(
    "line",
    [
        _pulled(_ENTRY + b"x"),
        _pulled(_ENTRY, by=another(1)),
        line_of(json.loads(_ENTRY)),
        line_of(json.loads(_ENTRY) | {"signature": "MEUCIQDx"}),
        line_of(json.loads(_ENTRY) | {"signature": None}),
        _pulled(_ENTRY).replace(b'"status":403', b'"status":200'),
        _pulled(_ENTRY).replace(b'"severity":6', b'"severity":1'),
        _pulled(_ENTRY)[:-1] + b',"more":1}',
        _pulled(_ENTRY)[:-1],
        b'{"relay_pulled":true,',
        b'{"relay_pulled":true,"ts":"","a":' + b"[" * 900 + b"]" * 900 + b"}",
        TEST.json(b'{"relay_pulled":true,"event_product":"Konnect"}'),
    ],
)
def test_a_pulled_line_that_does_not_verify(line: bytes) -> None:
    """Says nothing about it: which bytes are signed is not known. And no line that was changed verifies."""
    assert result(line) is ABSENT


def test_a_pulled_line_without_keys() -> None:
    """There is something that keys could tell."""
    assert verify(_pulled(_ENTRY), ()).result is NO_KEY
    assert verify(line_of(json.loads(_ENTRY)), ()).result is ABSENT


def test_integers_of_64_bits_are_kept() -> None:
    """A double would make …635000 of …635099, and J4 would sign something else."""
    text = b'{"a":1,"trace_id":18446744073709551615}'
    line = b'{"trace_id": 18446744073709551615, "a": 1, "sig": "%b"}' % TEST.text(text)
    assert verify(line, [TEST.key]).rule is Rule.J4
    assert verify(line.replace(b"615,", b"614,"), [TEST.key]).result is FAILED


def test_the_sig_beside_the_inner_object() -> None:
    """Where CPS has it is not documented; both places are read."""
    line = b'{"event":' + _JSON + b',"sig":"' + TEST.text(_JSON) + b'"}'
    assert verify(line, [TEST.key]).rule is Rule.P1


def test_the_results_are_those_of_the_metric() -> None:
    """One closed set."""
    assert tuple(SignatureResult) == catalog.SIGNATURE_RESULTS
