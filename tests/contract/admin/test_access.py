"""Who may use the admin API."""

from __future__ import annotations

import pytest

from relay.admin.guard import is_loopback
from tests.contract.admin.conftest import TOKEN, Admined
from tests.fakes.events import NOW

GUARDED = ["/metrics", "/api/v1/status", "/api/v1/destinations", "/api/v1/dead-letters", "/api/v1/gaps"]


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", TOKEN, f"bearer{TOKEN}", f"Bearer {TOKEN}x"])
async def test_without_the_token_nothing_is_shown(admin: Admined, path: str, given: str) -> None:
    """Everything that tells something about the relay wants the token, metrics too."""
    status, answer = await admin.ask("GET", path, Authorization=given)

    assert status == 401
    assert answer["detail"] == "The admin token is missing or wrong."


async def test_without_the_token_nothing_is_changed(admin: Admined) -> None:
    """A wrong token holds nothing."""
    status, _ = await admin.ask("POST", "/api/v1/destinations/sumo/hold", Authorization="Bearer wrong")

    assert status == 401
    assert admin.queue.hold("sumo") is None


async def test_without_the_token_no_gap_is_closed(admin: Admined) -> None:
    """It stays open, and recovery goes on."""
    await admin.queue.open_gap("eu", NOW - 60, NOW, "429")

    status, _ = await admin.ask("POST", "/api/v1/gaps/1/close", Authorization="Bearer wrong")

    assert status == 401
    assert len(await admin.queue.gaps()) == 1


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
async def test_health_and_the_console_page_are_open(admin: Admined, path: str) -> None:
    """A probe has no token, and a browser cannot send one before the page has asked for it."""
    status, _ = await admin.ask("GET", path, Authorization="")

    assert status == 200


@pytest.mark.parametrize("host", ["relay.evil.example", "127.0.0.1.evil.example", "10.0.0.1:8072", "", "@"])
async def test_a_foreign_name_for_loopback_is_refused(open_admin: Admined, host: str) -> None:
    """DNS rebinding: the operator's browser believes that 127.0.0.1 is a page's own server."""
    status, _ = await open_admin.ask("GET", "/api/v1/status", Host=host)

    assert status in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:8072", "127.0.0.1:8072", "127.9.9.9", "[::1]:8072"])
def test_loopback_names_are_served_without_a_token(host: str) -> None:
    """All the ways to write this machine's own address."""
    assert is_loopback(host)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
async def test_a_foreign_page_cannot_change_anything(open_admin: Admined, origin: str) -> None:
    """Any page may post to 127.0.0.1; its Origin gives it away."""
    status, answer = await open_admin.ask("POST", "/api/v1/destinations/sumo/hold", Origin=origin)

    assert status == 403
    assert "may not change anything" in answer["detail"]
    assert open_admin.queue.hold("sumo") is None


async def test_the_console_may_act(open_admin: Admined) -> None:
    """Its Origin is our own."""
    status, _ = await open_admin.ask("POST", "/api/v1/destinations/sumo/hold", Origin=open_admin.url)

    assert status == 200


async def test_the_page_allows_no_foreign_script(admin: Admined) -> None:
    """Nothing is loaded from elsewhere, and the policy allows only the script that is there."""
    async with admin.session.get(admin.url + "/") as response:
        page = await response.text()
        policy = response.headers["Content-Security-Policy"]

    assert "script-src 'sha256-" in policy
    assert "default-src 'none'" in policy
    assert "src=" not in page
    assert "http://" not in page
    assert "https://" not in page
