"""What is accepted, what is refused, and in which words."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from relay.config.load import load
from relay.config.schema import Config, Source
from relay.config.secret import Secret
from tests.unit.config.kit import ConfigFile, DiskConfig, WebConfig, minimal


def changed(*path: str | int, to: object) -> dict[str, Any]:
    """The minimal configuration with one value set; missing sections are made."""
    content = minimal()
    node: Any = content
    for step, following in pairwise(path):
        if isinstance(node, dict):
            node = node.setdefault(step, [] if isinstance(following, int) else {})
        else:
            node = node[int(step)]
    node[path[-1]] = to
    return content


def test_a_minimal_configuration_is_filled_with_defaults(file: ConfigFile) -> None:
    """Two names, a credential and an address are enough."""
    loaded = file.load(minimal())
    config = loaded.config

    assert loaded.warnings == ()
    assert (config.server.host, config.server.port, config.server.max_body) == ("0.0.0.0", 8071, 32 * 2**20)
    assert (config.admin.host, config.admin.port, config.admin.token) == ("127.0.0.1", 8072, None)
    assert config.sources[0].deduplicate == 7 * 86400
    assert (config.queue.type, config.queue.retention) == ("sqlite", 7 * 86400)
    assert config.destinations[0].retry.on == ("connection_error", "408", "429", "5xx")
    assert isinstance(config.destinations[0], WebConfig)
    assert isinstance(config, Config)


def test_code_may_build_what_a_file_would_hold() -> None:
    """Values are given in seconds and bytes, secrets as such, and nothing is expanded."""
    source = Source(name="a", authorization=(Secret("${X}"),), deduplicate=None)
    destination = DiskConfig(name="d", type="disk", path=Path("x"), timeout=1.5)

    config = Config(sources=(source,), destinations=(destination,), recovery=None)

    assert config.sources[0].authorization[0].reveal() == "${X}"
    assert config.destinations[0] is destination


def test_each_destination_is_read_by_its_type(file: ConfigFile) -> None:
    """`type` decides which keys there are."""
    content = minimal()
    content["destinations"].append({"name": "archive", "type": "disk", "path": "/var/a.ndjson"})

    destinations = file.load(content).config.destinations

    assert [type(destination) for destination in destinations] == [WebConfig, DiskConfig]


def test_one_known_type_is_enough(file: ConfigFile) -> None:
    """Telling types apart also works when there is nothing to tell apart."""
    file.load(minimal())
    types = {"web": WebConfig}

    assert load(file.path, destination_types=types, environ={}).config.destinations[0].type == "web"


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        # unknown keys
        (("servr",), {}, "servr: unknown key"),
        (("server", "tls"), {"cert": "a", "key": "b", "x": 1}, "server.tls.x: unknown key"),
        (("destinations", 0, "retry", "wait"), "1s", "destinations[0].retry.wait: unknown key"),
        (("destinations", 0, "path"), "x", "destinations[0].path: unknown key"),
        # wrong kinds of values
        (("server", "port"), "http", "server.port: expected a whole number, got 'http'"),
        (("server", "port"), 70000, "server.port: expected 65535 or less, got 70000"),
        (("server", "port"), True, "server.port: expected a whole number, got true"),
        (("server", "max_body"), "32XB", "server.max_body: expected a size such as 10MiB, got '32XB'"),
        (("server", "max_body"), 0, "server.max_body: expected more than 0, got 0"),
        (("server",), "x", "server: expected a mapping"),
        (("server", "tls"), {"cert": "a"}, "server.tls.key: is required"),
        (("server", "tls"), {"cert": 1, "key": "b"}, "server.tls.cert: expected a path"),
        (
            ("logging", "level"),
            "loud",
            "logging.level: expected 'debug', 'info', 'warning' or 'error', got 'loud'",
        ),
        (
            ("destinations", 0, "retry", "max_wait"),
            30,
            "destinations[0].retry.max_wait: expected a duration such as 30s, got 30",
        ),
        (
            ("destinations", 0, "tls"),
            {"verify": "maybe"},
            "destinations[0].tls.verify: expected true or false, got 'maybe'",
        ),
        (("destinations", 0, "timeout"), "0s", "destinations[0].timeout: expected more than 0, got '0s'"),
        (
            ("destinations", 0, "retry", "probe_max_events"),
            0,
            "destinations[0].retry.probe_max_events: expected 1 or more, got 0",
        ),
        (("destinations", 0, "filter", "types"), "access", "destinations[0].filter.types: expected a list"),
        (
            ("destinations", 0, "filter", "types"),
            [],
            "destinations[0].filter.types: expected at least 1",
        ),
        (
            ("destinations", 0, "filter", "names"),
            [404],
            "destinations[0].filter.names[0]: expected a string (in quotes where it is a number)",
        ),
        (
            ("destinations", 0, "headers"),
            {"X Key": "x"},
            "destinations[0].headers.X Key: expected text that matches ^[A-Za-z-]+$",
        ),
        (
            ("destinations", 0, "filter", "min_severity"),
            11,
            "destinations[0].filter.min_severity: expected 10 or less, got 11",
        ),
        # retry.on
        (
            ("destinations", 0, "retry", "on"),
            429,
            "destinations[0].retry.on: expected a list such as [connection_error, 429, 5xx], got 429",
        ),
        (
            ("destinations", 0, "retry", "on"),
            ["5XX"],
            (
                "destinations[0].retry.on: "
                "expected connection_error, 4xx, 5xx or a status from 400 to 599, got '5XX'"
            ),
        ),
        (
            ("destinations", 0, "retry", "on"),
            [501],
            "destinations[0].retry.on: 501 means that the method is not implemented; it is never retried",
        ),
        # within a section
        (
            ("destinations", 0, "retry", "min_wait"),
            "31s",
            "destinations[0].retry: min_wait (31s) must not be longer than max_wait (30s)",
        ),
        (
            ("destinations", 0, "tls"),
            {"cert": "c.pem"},
            "destinations[0].tls: cert and key go together; one of them is missing",
        ),
        (
            ("admin", "host"),
            "0.0.0.0",
            "admin: token is required to listen on 0.0.0.0; only loopback does without",
        ),
        # names
        (
            ("sources", 0, "name"),
            "EU",
            (
                "sources[0].name: expected a name of lower-case letters, digits, '.', '_' and '-' "
                "that starts with a letter or digit, got 'EU'"
            ),
        ),
        (("sources",), [], "sources: expected at least one"),
        (("destinations",), [], "destinations: expected at least one"),
        # authorization
        (
            ("sources", 0, "authorization"),
            "",
            "sources[0].authorization: expected the Authorization value Konnect sends; it must not be empty",
        ),
        (
            ("sources", 0, "authorization"),
            12,
            (
                "sources[0].authorization[0]: "
                "expected a string (in quotes where it is a number) or {file: /path}"
            ),
        ),
        # kinds of queues
        (("queue",), "x", "queue: expected a mapping"),
        (("queue", "type"), "redis", "queue.type: expected one of 'sqlite', 'jetstream', got redis"),
        (("queue", "type"), [1], "queue.type: expected one of 'sqlite', 'jetstream', got a list"),
        (("queue", "servers"), ["nats://n1"], "queue.servers: unknown key"),
        # destination types
        (("destinations", 0, "type"), "ftp", "destinations[0].type: expected one of 'web', 'disk', got ftp"),
        (("destinations", 0), {"name": "a"}, "destinations[0].type: is required"),
        (("destinations", 0), "web", "destinations[0]: expected a mapping"),
        # signatures
        (
            ("sources", 0, "signatures"),
            {"mode": "tag"},
            (
                "sources[0].signatures: mode tag needs `jwks`: a URL such as "
                "https://us.api.konghq.com/v2/audit-log-webhook/jwks.json, a file, or {keys: [...]}"
            ),
        ),
        # recovery
        (("recovery",), {"konnect": {}}, "recovery.konnect.region: is required"),
        (
            ("sources", 0, "signatures"),
            {"mode": "yes"},
            "sources[0].signatures.mode: expected 'off', 'tag' or 'quarantine', got 'yes'",
        ),
        (
            ("sources", 0, "signatures"),
            {"jwks": "http://keys.example.com/jwks.json"},
            (
                "sources[0].signatures.jwks: "
                "expected an https URL: keys that came over plain HTTP prove nothing"
            ),
        ),
        (
            ("sources", 0, "signatures"),
            {"jwks": "ftp://keys.example.com"},
            "sources[0].signatures.jwks: expected a URL such as https://siem.example.com/path",
        ),
        (("sources", 0, "signatures"), {"jwks": ""}, "sources[0].signatures.jwks: must not be empty"),
        (
            ("sources", 0, "signatures"),
            {"jwks": 7},
            (
                "sources[0].signatures.jwks: expected a URL such as "
                "https://us.api.konghq.com/v2/audit-log-webhook/jwks.json, a file, or {keys: [...]}, got 7"
            ),
        ),
        (
            ("sources", 0, "signatures"),
            {"jwks": {"keys": [{"x": "short"}]}},
            ("sources[0].signatures.jwks: keys[0].x: string should match pattern '^[A-Za-z0-9_-]{43}=?$'"),
        ),
        (
            ("sources", 0, "signatures"),
            {"jwks": "keys.json", "cache": "cache.json"},
            "sources[0].signatures: `cache` is for keys from a URL; `jwks` is none",
        ),
        # what a later version brings
        (
            ("recovery",),
            {"konnect": {"region": "us.example.com"}},
            "recovery.konnect.region: expected text that matches ^[a-z]{2,12}$",
        ),
        (
            ("recovery",),
            {"konnect": {"region": "us", "source": "nobody"}},
            "recovery.konnect.source: expected the name of a source (konnect-us), got 'nobody'",
        ),
        (
            ("recovery",),
            {"konnect": {"region": "us", "portals": [{"id": "1", "source": "konnect-us"}]}},
            "recovery.konnect.portals[0].source: expected a source of its own, got 'konnect-us' again",
        ),
        (
            ("recovery",),
            {"konnect": {"region": "us", "url": "http://relay.example.com"}},
            "recovery.konnect.url: expected an https URL: Konnect sends to no other",
        ),
        (
            ("destinations", 0, "format"),
            "xml",
            "destinations[0].format: expected 'source', 'cef', 'json', 'cps', 'ecs' or 'ocsf', got 'xml'",
        ),
        (
            ("destinations", 0, "redact"),
            {"src": "hash"},
            "destinations[0].redact: `hash` needs a `key`: without one, whoever guesses a value can prove it",
        ),
        (
            ("destinations", 0, "redact"),
            ["src", "org_id"],
            (
                "destinations[0].redact.fields.org_id: expected 'user_agent', 'query', 'principal_name', "
                "'src', 'request', 'principal_id' or 'actor_id', got 'org_id'"
            ),
        ),
        # between sections
        (
            ("admin", "port"),
            8071,
            "admin.port: expected another port than server.port, got 8071 for both",
        ),
        (
            ("server", "max_in_flight_bytes"),
            "1MiB",
            "server.max_in_flight_bytes: expected at least max_body (32MiB), got 1MiB",
        ),
        (
            ("destinations", 0, "filter", "sources"),
            ["konnect-us", "konnect-eu"],
            "destinations[0].filter.sources: expected names of sources (konnect-us), got 'konnect-eu'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_path(
    file: ConfigFile, path: tuple[str | int, ...], value: object, problem: str
) -> None:
    """One mistake gives one line: where it is and what was expected."""
    assert file.problems(changed(*path, to=value)) == [problem]


@pytest.mark.parametrize("section", ["sources", "destinations"])
def test_names_are_unique(file: ConfigFile, section: str) -> None:
    """Two of the same name would share a URL, a watermark and a metric."""
    content = minimal()
    content[section] *= 2

    name = content[section][0]["name"]
    assert file.problems(content) == [f"{section}: names must be unique; used more than once: {name}"]


def test_every_problem_is_told_at_once(file: ConfigFile) -> None:
    """Nobody has to start the relay five times to find five mistakes."""
    content = minimal()
    content["server"] = {"port": "x"}
    content["sources"][0] = {"name": "a"}
    content["destinations"][0] |= {"url": "${SIEM_URL}", "timeout": "soon"}

    assert file.problems(content) == [
        "destinations[0].url: the environment variable SIEM_URL is not set",
        "server.port: expected a whole number, got 'x'",
        "sources[0].authorization: is required",
        "destinations[0].timeout: expected a duration such as 30s, got 'soon'",
    ]


def test_an_unset_variable_is_reported_even_where_anything_would_do(file: ConfigFile) -> None:
    """The reference itself never becomes a value."""
    content = changed("sources", 0, "authorization", to="${KONNECT_AUTHORIZATION}")

    assert file.problems(content) == [
        "sources[0].authorization: the environment variable KONNECT_AUTHORIZATION is not set"
    ]


@pytest.mark.parametrize("text", ["", "[]", "x"])
def test_a_file_that_is_no_mapping_is_refused(file: ConfigFile, text: str) -> None:
    """An empty file is not an empty configuration."""
    assert file.problems(text) == ["expected a mapping"]


def test_values_may_come_from_the_environment(file: ConfigFile) -> None:
    """Numbers, switches, durations and sizes too, not only strings."""
    content = minimal()
    content["server"] = {"port": "${PORT}", "max_body": "${SIZE:-1MiB}"}
    content["destinations"][0] |= {"timeout": "${TIMEOUT}", "tls": {"verify": "${VERIFY}"}}

    config = file.load(content, PORT="9", TIMEOUT="5s", VERIFY="true").config

    assert (config.server.port, config.server.max_body) == (9, 2**20)
    assert (config.destinations[0].timeout, config.destinations[0].tls.verify) == (5.0, True)


def test_several_authorizations_are_accepted_during_rotation(file: ConfigFile) -> None:
    """Old and new stand in a list; one that is not set any more drops out."""
    content = changed("sources", 0, "authorization", to=["${NEW}", "${OLD:-}"])

    both = file.load(content, NEW="n", OLD="o").config.sources[0].authorization
    one = file.load(content, NEW="n").config.sources[0].authorization

    assert [[secret.reveal() for secret in secrets] for secrets in (both, one)] == [["n", "o"], ["n"]]


@pytest.mark.parametrize("written", ["off", "no-quotes-needed: off", "false"])
def test_off_means_off(file: ConfigFile, written: str) -> None:
    """YAML 1.1 would read `off` as a boolean; either way nothing is deduplicated."""
    value = written.rpartition(" ")[2]
    text = f"""
        sources: [{{name: a, authorization: x, deduplicate: {value}, signatures: {{mode: {value}}}}}]
        destinations: [{{name: d, type: disk, path: /x}}]
    """
    source = file.load(text).config.sources[0]

    assert (source.deduplicate, source.signatures.mode) == (None, "off")


def test_equal_ports_are_fine_on_different_addresses(file: ConfigFile) -> None:
    """And port 0 is never the same port."""
    apart = {"server": {"host": "10.0.0.1", "port": 80}, "admin": {"host": "127.0.0.1", "port": 80}}
    chosen = {"server": {"port": 0}, "admin": {"port": 0}}

    assert file.load(minimal() | apart).warnings == ()
    assert file.load(minimal() | chosen).warnings == ()


@pytest.mark.parametrize(("deduplicate", "word"), [("off", "off"), ("1h", "less than 7d"), ("7d", None)])
def test_recovery_that_brings_events_twice_is_told(
    file: ConfigFile, deduplicate: str, word: str | None
) -> None:
    """Where there is a token, for the sources that it recovers, and nowhere else."""
    sources = [
        {"name": name, "authorization": "Bearer x", "deduplicate": wanted}
        for name, wanted in [("other", "off"), ("us", deduplicate)]
    ]
    konnect = {"region": "us", "source": "us"}
    document = minimal() | {"sources": sources}

    assert file.load(document | {"recovery": {"konnect": konnect}}).warnings == ()
    told = file.load(document | {"recovery": {"konnect": konnect | {"token": "kpat_x"}}}).warnings
    warning = "sources[1].deduplicate: recovery has up to seven days sent once more; with {}, "
    assert told == (
        () if word is None else (warning.format(word) + "events that had come are delivered again",)
    )


@pytest.mark.parametrize(
    ("key", "value", "warning"),
    [
        (
            "tls",
            {"verify": False},
            (
                "tls.verify: the certificate of siem is not checked; "
                "anyone on the way can read the events and the credentials"
            ),
        ),
        (
            "url",
            "http://siem.example.com/secret",
            "url: events and credentials go to siem.example.com unencrypted (http)",
        ),
        ("batch", {"max_events": 50001}, "batch.max_events: 50001 events in one request take much memory"),
        ("batch", {"max_bytes": "33MiB"}, "batch.max_bytes: 33MiB in one request take much memory"),
    ],
)
def test_the_unwise_is_allowed_with_a_warning(
    file: ConfigFile, key: str, value: object, warning: str
) -> None:
    """A warning names the path like an error does."""
    loaded = file.load(changed("destinations", 0, key, to=value))

    assert loaded.warnings == (f"destinations[0].{warning}",)


def test_retry_signals_are_kept_once_and_as_text(file: ConfigFile) -> None:
    """YAML reads 429 as a number; it means the same."""
    content = changed("destinations", 0, "retry", "on", to=[429, "429", "connection_error"])

    assert file.load(content).config.destinations[0].retry.on == ("429", "connection_error")


@pytest.mark.parametrize("name", ["relay.db", "relay.db-wal", "relay.db.ingest.lock"])
def test_a_file_destination_may_not_be_the_queue(file: ConfigFile, tmp_path: Path, name: str) -> None:
    """Two writers in one file would destroy it for both."""
    path = str(tmp_path / "x" / ".." / name)
    content = minimal() | {
        "queue": {"path": str(tmp_path / "relay.db")},
        "destinations": [{"name": "archive", "type": "disk", "path": path}],
    }
    (problem,) = file.problems(content)
    assert problem.startswith("destinations[0].path: expected another file than the queue's")


def test_file_destinations_need_a_file_each(file: ConfigFile, tmp_path: Path) -> None:
    """Lines of two destinations must not end up in one file."""
    path = str(tmp_path / "audit.ndjson")
    both = [{"name": name, "type": "disk", "path": path} for name in ("a", "b")]
    (problem,) = file.problems(minimal() | {"destinations": both})
    assert problem.startswith("destinations[1].path: expected a file of its own")
