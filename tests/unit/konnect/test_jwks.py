"""Reading a key set, and a ring that forgets nothing too soon."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from relay.errors import KeysUnusable
from relay.konnect.jwks import Keyring, parse_jwks
from tests.fakes.signing import JWKS_FILE, another, jwks

A, B, C = another(1).key, another(2).key, another(3).key
GOOD = A.jwk()


def _set(*members: Any) -> bytes:
    return orjson.dumps({"keys": members})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "no key set"),
        (b'{"keys": {}}', "no key set"),
        (_set(), "no Ed25519 key"),
        (_set("text", None, {"kty": "RSA"}), "no Ed25519 key"),
        (_set({**GOOD, "crv": "X25519"}), "no Ed25519 key"),
        (_set(GOOD, {**GOOD, "x": None}), r"keys\[1\]\.x: expected base64url text"),
        (_set({**GOOD, "x": "a+/b"}), r"keys\[0\]\.x: expected base64url text"),
        (_set({**GOOD, "x": "A"}), r"keys\[0\]\.x: expected base64url text"),
        (_set({**GOOD, "x": GOOD["x"] + "A"}), r"keys\[0\]\.x: expected 32 bytes, got 33"),
        (_set(*[another(n).key.jwk() for n in range(1, 40)]), "holds 39 keys"),
    ],
)
def test_what_is_no_key_set(document: bytes, message: str) -> None:
    """One sentence says what is wrong, and where."""
    with pytest.raises(KeysUnusable, match=message):
        parse_jwks(document)


def test_a_published_set() -> None:
    """The form of Konnect's own answer."""
    (key,) = parse_jwks(JWKS_FILE.read_bytes())

    assert key.kid == "test-809b912e397c9f4201bf7abbf589ce4f3b0661f0"


def test_other_keys_are_passed_over() -> None:
    """Whatever else is in the set does not disturb."""
    assert parse_jwks(_set({"kty": "EC", "x": 7}, GOOD, {})) == (A,)


def test_a_key_without_a_name_gets_its_thumbprint() -> None:
    """The example of RFC 8037, appendix A.3."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    (key,) = parse_jwks(_set(jwk))

    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_the_same_key_under_two_names_is_one() -> None:
    """Trying it twice would only cost time."""
    assert len(parse_jwks(_set(GOOD, {**GOOD, "kid": "b"}))) == 1


def test_a_key_that_left_the_set_is_retired() -> None:
    """Events it signed may still be in the log; one that comes back is in force again."""
    ring = Keyring().followed_by([A, B]).followed_by([C, B])
    assert (ring.current, ring.retired) == ((C, B), (A,))
    assert ring.keys == (C, B, A)

    ring = ring.followed_by([A])
    assert (ring.current, ring.retired) == ((A,), (C, B))


def test_retired_keys_are_bounded() -> None:
    """Each one makes a failing event slower; the oldest go."""
    ring = Keyring()
    for number in range(1, 40):
        ring = ring.followed_by([another(number).key])
    assert [key.kid for key in ring.retired] == [f"key-{n}" for n in range(38, 22, -1)]


def test_a_ring_goes_through_a_file() -> None:
    """What is written as a set is read as the same keys."""
    assert parse_jwks(jwks(another(1), another(2))) == (A, B)
