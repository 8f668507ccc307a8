"""What the `konnect` commands know where there is no configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.cli.konnect_access import Access, access
from relay.cli.konnect_doctor import _relay
from relay.cli.main import main
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
    with pytest.raises(ConfigError, match=r"KONNECT_TOKEN.*--token-file.*recovery"):
        given(token=None)


@pytest.mark.parametrize(
    ("command", "missing", "says"),
    [
        ("doctor", ("--region",), "Which region is it?"),
        ("doctor", ("--token",), "No Konnect token"),
        ("setup", ("--source",), "Which source is it?"),
        ("setup", ("--url",), "Where does Konnect reach the relay?"),
        ("setup --as-configured", (), "names no authorization"),
    ],
)
def test_what_is_missing_is_wrong_usage(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    missing: tuple[str, ...],
    says: str,
) -> None:
    """One sentence and exit status 2, before anybody is asked."""
    monkeypatch.delenv("KONNECT_TOKEN", raising=False)
    options = {"--region": "us", "--token": "kpat_x"}
    if "setup" in command:
        options |= {"--url": "https://relay.example.com", "--source": "eu"}
    arguments = [part for name, value in options.items() if name not in missing for part in (name, value)]

    with pytest.raises(SystemExit) as exit_:
        main(["konnect", *command.split(), *arguments])

    assert exit_.value.code == 2
    assert says in capsys.readouterr().err


def test_a_token_with_blanks_is_wrong_usage() -> None:
    """It was copied with something else, which must not be shown."""
    with pytest.raises(ConfigError) as raised:
        given(token="kpat_x s3cret")

    assert "s3cret" not in str(raised.value)


def test_without_a_source_a_bare_host_is_not_enough() -> None:
    """The path is what tells sources apart."""
    with pytest.raises(ConfigError, match="--source"):
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
