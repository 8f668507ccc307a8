"""The `queue` section of a relay on NATS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relay.config.public import public_view
from relay.config.queue import JetStreamQueueConfig
from tests.unit.config.kit import ConfigFile, minimal
from tests.unit.config.test_shipped_files import CREDS

SERVERS = ["nats://127.0.0.1:4222"]


def queue(**keys: object) -> dict[str, Any]:
    """The minimal configuration on NATS, with some more keys."""
    return minimal() | {"queue": {"type": "jetstream", "servers": SERVERS, **keys}}


def loaded(file: ConfigFile, **keys: object) -> JetStreamQueueConfig:
    found = file.load(queue(**keys)).config.queue
    assert isinstance(found, JetStreamQueueConfig)
    return found


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"servers": []}, "servers: expected at least 1"),
        ({"servers": SERVERS[0]}, "servers: expected a list"),
        ({"path": "x"}, "path: unknown key"),
        ({"replicas": 2}, "replicas: expected 1, 3 or 5, got 2"),
        ({"replicas": True}, "replicas: expected a whole number, got true"),
        (
            {"stream": "audit.eu"},
            (
                "stream: expected a name of lower-case letters, digits, '_' and '-' "
                "that starts with a letter or digit, got 'audit.eu'"
            ),
        ),
        ({"api_prefix": "$JS.*"}, "api_prefix: expected a subject without wildcards, got '$JS.*'"),
        ({"inbox_prefix": "a..b"}, "inbox_prefix: expected a subject without wildcards, got 'a..b'"),
        ({"monitoring": ["nats://n1:8222"]}, "monitoring[0]: expected a URL such as http://n1:8222"),
        ({"placement": {"tags": []}}, "placement.tags: expected at least 1"),
        ({"tls": {"cert": "c.pem"}}, "tls: cert and key go together; one of them is missing"),
        ({"max_bytes": 0}, "max_bytes: expected more than 0, got 0"),
    ],
)
def test_what_is_wrong_is_named(file: ConfigFile, keys: dict[str, object], problem: str) -> None:
    """As everywhere: where it is and what was expected."""
    assert file.problems(queue(**keys)) == [f"queue.{problem}"]


def test_servers_are_required(file: ConfigFile) -> None:
    """There is no default that could be meant."""
    assert file.problems(minimal() | {"queue": {"type": "jetstream"}}) == ["queue.servers: is required"]


@pytest.mark.parametrize(
    "url",
    [
        "n1:4222",
        "http://n1",
        "nats://",
        "nats://n1/",
        "tls://n1/x",
        "nats://n1?a",
        "nats://n:x",
        "nats://n1 ",
    ],
)
def test_a_server_is_an_address_and_nothing_else(file: ConfigFile, url: str) -> None:
    """The value is not repeated, as for all that may be a secret."""
    assert file.problems(queue(servers=[url])) == [
        "queue.servers[0]: expected a URL such as nats://n1:4222 or tls://n1:4222"
    ]


@pytest.mark.parametrize("key", ["servers", "monitoring"])
@pytest.mark.parametrize("url", ["nats://relay:s3cret@n1:4222", "nats://s3cret@n1", "http://a:s3cret@n1"])
def test_credentials_in_a_url_are_refused_without_repeating_them(
    file: ConfigFile, key: str, url: str
) -> None:
    """They would show up in logs and in the admin API."""
    assert file.problems(queue(**{key: [url]})) == [
        f"queue.{key}[0]: credentials do not belong into a URL; expected them in keys of their own"
    ]


def test_one_way_to_identify_oneself(file: ConfigFile) -> None:
    """Two would leave it open as whom the relay connects."""
    assert file.problems(queue(token="t", user="u", password="p")) == [
        "queue: expected one of credentials, token, user and nkey, got token and user"
    ]
    assert file.problems(queue(user="u")) == ["queue: user and password go together; one of them is missing"]
    assert loaded(file, token="", user="u", password="p").token is None  # as from ${NATS_TOKEN:-}


@pytest.mark.parametrize("content", ["SUAAA", CREDS.replace("USER NKEY SEED", "OPERATOR SEED"), CREDS[:60]])
def test_credentials_that_are_no_creds_file(file: ConfigFile, content: str) -> None:
    """The client would wait for the missing part for ever."""
    assert file.problems(queue(credentials=content)) == [
        "queue.credentials: expected the content of a .creds file, with a user's JWT and nkey seed"
    ]


def test_a_seed_of_something_else(file: ConfigFile) -> None:
    """An account's or an operator's seed is the wrong key, and too much to give away."""
    assert file.problems(queue(nkey="SA" + "A" * 56)) == [
        "queue.nkey: expected the seed of a user's nkey, which starts with SU"
    ]


def test_secrets_from_files_never_show(file: ConfigFile, tmp_path: Path) -> None:
    """A .creds file is named by its path; windows line ends are forgiven."""
    creds = tmp_path / "relay.creds"
    creds.write_bytes(CREDS.replace("\n", "\r\n").encode())

    config = file.load(queue(credentials={"file": str(creds)})).config

    assert isinstance(config.queue, JetStreamQueueConfig)
    assert config.queue.credentials is not None
    assert "NKEY" in config.queue.credentials.reveal()
    assert "NKEY" not in repr(config)
    shown = public_view(config)["queue"]
    assert isinstance(shown, dict)
    assert shown["credentials"] == "<secret>"


def test_defaults(file: ConfigFile) -> None:
    """Three replicas, managed, room for ten GiB."""
    config = loaded(file)

    assert (config.replicas, config.manage, config.max_bytes, config.retention) == (
        3,
        True,
        10 * 2**30,
        604800,
    )
    assert (config.stream, config.api_prefix, config.monitoring) == ("konnect-audit", "$JS.API", ())
    assert not config.encrypted


def test_a_monitoring_url_loses_its_last_slash(file: ConfigFile) -> None:
    """Paths are appended to it."""
    assert loaded(file, monitoring=["http://n1:8222/"]).monitoring == ("http://n1:8222",)


@pytest.mark.parametrize(
    ("keys", "encrypted", "warning"),
    [
        ({"servers": ["tls://n1"]}, True, None),
        ({"servers": ["nats://n1", "tls://n2"]}, True, None),
        ({"servers": ["nats://n1"], "tls": {}}, True, None),
        (
            {"servers": ["nats://n1", "nats://localhost", "nats://n2"]},
            False,
            "queue.servers: events and credentials may go to n1, n2 unencrypted (nats)",
        ),
        (
            {"tls": {"verify": False}},
            True,
            (
                "queue.tls.verify: the certificates of NATS are not checked; "
                "anyone on the way can read the events and the credentials"
            ),
        ),
        (
            {"replicas": 1},
            False,
            "queue.replicas: with 1, events exist on one server only; accepted ones are lost with its disk",
        ),
    ],
)
def test_the_unwise_is_allowed_with_a_warning(
    file: ConfigFile, keys: dict[str, object], encrypted: bool, warning: str | None
) -> None:
    """One word about TLS anywhere, and everything is encrypted."""
    found = file.load(queue(**keys))

    assert isinstance(found.config.queue, JetStreamQueueConfig)
    assert found.config.queue.encrypted is encrypted
    assert found.warnings == (() if warning is None else (warning,))


def test_any_file_may_be_a_destination(file: ConfigFile) -> None:
    """There is no queue file that it could be."""
    archive = {"name": "archive", "type": "disk", "path": "data/relay.db"}

    assert file.load(queue() | {"destinations": [archive]}).warnings == ()
