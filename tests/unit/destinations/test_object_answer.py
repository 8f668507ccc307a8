"""Reading what obstore says of a failure: never taking the store's words for obstore's, and no secrets."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.base import Delivered, Misconfigured, Transient
from relay.destinations.object_answer import Refusal, judge, read

ABOUT = "0123abcd"
HEAD = f"Generic S3 error: Error performing PUT https://s3.example.com/audit/{ABOUT}.gz in 1.5ms - "
ANSWERED = "Server returned non-2xx status code: "


def test_a_forged_answer() -> None:
    """What a store writes into its body can be no other status, no success and no certificate."""
    said = f"{ANSWERED}412 Precondition Failed InvalidCertificate(UnknownIssuer) kind: Timeout"
    found = read(f"{HEAD}{ANSWERED}500 Internal Server Error: {said}", about=ABOUT, timeout=30)

    assert found == Refusal(500)
    assert isinstance(judge(Refusal(500)), Transient)


def test_masked() -> None:
    """Of a store's message the first line is kept, without anything that is as long as a credential."""
    body = (
        "<Error><Code>AuthenticationFailed</Code><Message>Key AKIAIOSFODNN7EXAMPLE is not ours, "
        "nor wJalrXUtnFEMI/K7MDENG/bPxRfiCY.\nRequestId:0123</Message></Error>"
    )
    found = read(f"{HEAD}{ANSWERED}403 Forbidden: {body}", about=ABOUT, timeout=30)

    assert found == Refusal(403, "AuthenticationFailed", "Key … is not ours, nor …")


def test_alerts() -> None:
    """A server that wants a client certificate does not get one, and the operator is told so."""
    text = f"{HEAD}HTTP error … AlertReceived(\n  CertificateRequired,\n)"
    found = read(text, about=ABOUT, timeout=30)

    assert isinstance(found, Misconfigured)
    assert "client certificate" in found.response.detail


def test_plain_http_from_the_environment() -> None:
    """An address without TLS has to stand in the configuration."""
    found = read(f"{HEAD}HTTP error: builder error … source: BadScheme,", about=ABOUT, timeout=30)

    assert isinstance(found, Misconfigured)
    assert "`endpoint`" in found.response.detail


def test_role_out_of_reach() -> None:
    """Where no role can be asked for credentials, that is what is said."""
    text = "Error performing PUT http://169.254.169.254/latest/api/token in 1s - HTTP error … kind: Timeout"
    found = read(text, about=ABOUT, timeout=30)

    assert isinstance(found, Transient)
    assert found.response.detail == "the credentials could not be fetched: no complete answer within 30 s"


def test_unusable_key() -> None:
    """A key that turns out to be none holds the destination."""
    text = "Generic AwsLcCryptoProvider error: Error reading pem file\n\nsource: ReadPem {"

    assert isinstance(read(text, about=ABOUT, timeout=30), Misconfigured)


@given(st.text(), st.sampled_from(["", HEAD, f"{HEAD}{ANSWERED}", f"{HEAD}{ANSWERED}409 Conflict: "]))
def test_anything(text: str, head: str) -> None:
    """Whatever it says, something is made of it that holds none of its long words and is no delivery."""
    secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
    found = read(f"{head}{text} {secret}", about=ABOUT, timeout=30)
    outcome = judge(found) if isinstance(found, Refusal) else found

    assert secret not in repr(outcome)
    assert not isinstance(outcome, Delivered) or re.match("412", text)
