"""What the `konnect` commands know where there is no configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.cli.client import CommandFailed
from relay.cli.konnect_access import Access, access
from relay.cli.konnect_doctor import _relay
from relay.cli.options import DEFAULT_CONFIG
from relay.errors import ConfigError


@pytest.fixture(autouse=True)
def _an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def given(**options: str | None) -> Access:
    """As if these were on the command line, on a machine without a configuration file."""
    chosen = {"region": "us", "portal": None, "token": "kpat_x", "url": None, "source": None, **options}
    return access(
        DEFAULT_CONFIG,
        region=chosen["region"],
        portal=chosen["portal"],
        token=chosen["token"],
        token_file=None,
        url=chosen["url"],
        source=chosen["source"],
    )


def test_a_configuration_that_was_named_must_be_there(tmp_path: Path) -> None:
    """Only the default one may be missing."""
    with pytest.raises(ConfigError):
        access(tmp_path / "none.yaml", region="us", portal=None, token="x", token_file=None)


def test_without_a_token_it_says_where_one_may_come_from() -> None:
    """All three places."""
    with pytest.raises(CommandFailed, match=r"KONNECT_TOKEN.*--token-file.*recovery"):
        given(token=None)


def test_without_a_source_a_bare_host_is_not_enough() -> None:
    """The path is what tells sources apart."""
    with pytest.raises(CommandFailed, match="--source"):
        given(url="https://relay.example.com").endpoint()


@pytest.mark.parametrize(
    ("url", "source", "endpoint"),
    [
        (None, None, None),
        ("https://relay.example.com", "eu", "https://relay.example.com/audit-logs/eu"),
        ("https://relay.example.com/", "eu", "https://relay.example.com/audit-logs/eu"),
        ("https://relay.example.com:8443/in", "eu", "https://relay.example.com:8443/in"),
        ("https://relay.example.com/in?key=1", None, "https://relay.example.com/in?key=1"),
    ],
)
def test_the_endpoint(url: str | None, source: str | None, endpoint: str | None) -> None:
    """A host gets the source's path; a whole path is left as it is."""
    assert given(url=url, source=source).endpoint() == endpoint


def test_each_webhook_has_a_destination_of_its_own_name() -> None:
    """Names are unique over all regions of an organisation."""
    assert given().default_name == "konnect-relay-us"
    assert given(portal="3e55").default_name == "konnect-relay-3e55"


def test_doctor_does_without_the_relay() -> None:
    """Its admin API may be out of reach; the rest is still worth knowing."""
    sentence = _relay(given(source="eu"), DEFAULT_CONFIG, None, None)

    assert isinstance(sentence, str)
    assert "was not asked" in sentence
