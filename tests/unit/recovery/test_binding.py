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
    ],
)
def test_whose_an_endpoint_is(endpoint: str | None, base: str | None, alone: bool, ours: bool) -> None:
    """By the configured URL if there is one, else by the path."""
    assert is_ours(endpoint, "us", base=base, alone=alone) is ours


def test_a_url_with_a_path_is_the_endpoint() -> None:
    """Otherwise the source's path is put behind it."""
    assert endpoint_of(f"{BASE}/kong", "us") == f"{BASE}/kong"
    assert endpoint_of(f"{BASE}/", "us") == f"{BASE}/audit-logs/us"
