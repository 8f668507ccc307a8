"""Which endpoints of a webhook are this relay's."""

from __future__ import annotations

import pytest

from relay.recovery.binding import endpoint_of, is_ours

BASE = "https://relay.example.com"


@pytest.mark.parametrize(
    ("endpoint", "base", "alone", "ours"),
    [
        (None, None, True, False),
        ("https://[", None, True, False),
        ("https://other.example.com/intake", None, True, False),
        ("https://other.example.com/audit-logs/eu", None, True, False),
        ("https://any.example.com/audit-logs/us", None, False, True),
        ("https://any.example.com/behind/audit-logs/us", None, False, True),
        ("https://any.example.com/audit-logs", None, True, True),
        ("https://any.example.com/audit-logs", None, False, False),
        (f"{BASE}/audit-logs/us", BASE, False, True),
        (f"{BASE}/audit-logs/us", f"{BASE}/", False, True),
        (f"{BASE}/audit-logs", BASE, True, True),
        (f"{BASE}/audit-logs", BASE, False, False),
        (f"{BASE}/audit-logs/eu", BASE, True, False),
        ("https://other.example.com/audit-logs/us", BASE, True, False),
        (f"{BASE}/kong", f"{BASE}/kong", False, True),
        (f"{BASE}/audit-logs/us", f"{BASE}/audit-logs/eu", False, True),
        ("https://other.example.com/audit-logs/us", f"{BASE}/audit-logs/eu", False, False),
        ("HTTPS://Relay.Example.COM:443/audit-logs/us", BASE, False, True),
        (f"{BASE}/audit-logs/us", "https://RELAY.example.com:443", False, True),
        (f"{BASE}/%61udit-logs/us", BASE, False, True),
        (f"{BASE}/kong%2fa", f"{BASE}/kong%2Fa", False, True),
        (BASE, f"{BASE}/?code=a", False, False),
        (f"{BASE}?code=a%3d", f"{BASE}/?code=a%3D", False, True),
        (f"{BASE}:8443/audit-logs/us", BASE, False, False),
        ("http://relay.example.com/audit-logs/us", BASE, False, False),
        ("http://relay.example.com:443/audit-logs/us", BASE, False, False),
        (f"{BASE}./audit-logs/us", BASE, False, False),
        (f"{BASE}/audit-logs/us/", BASE, False, False),
        (f"{BASE}/AUDIT-LOGS/us", BASE, False, False),
        (f"{BASE}/audit-logs%2Fus", BASE, False, False),
        (f"{BASE}/a/../audit-logs/us", BASE, False, False),
        (f"{BASE}/kong?code=B", f"{BASE}/kong?code=b", False, False),
        ("https://user@relay.example.com/audit-logs/us", BASE, False, False),
        ("https://relay.example.com@other.example.com/audit-logs/us", BASE, False, False),
        ("https://relay.example.com\\@other.example.com/audit-logs/us", BASE, False, False),
        ("https://relay.example.com\t/audit-logs/us", BASE, False, False),
        ("https://relay.example.com:port/audit-logs/us", BASE, False, False),
    ],
)
def test_whose_an_endpoint_is(endpoint: str | None, base: str | None, alone: bool, ours: bool) -> None:
    """By the configured URL if there is one, else by the path."""
    assert is_ours(endpoint, "us", base=base, alone=alone) is ours


def test_a_url_with_a_path_is_the_endpoint() -> None:
    """Otherwise the source's path is put behind it."""
    assert endpoint_of(f"{BASE}/kong", "us") == f"{BASE}/kong"
    assert endpoint_of(f"{BASE}/", "us") == f"{BASE}/audit-logs/us"
