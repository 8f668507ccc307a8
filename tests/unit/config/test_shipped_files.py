"""What lies in config/ and docs/ tells the truth about the code."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from relay.config.document import read
from relay.config.json_schema import json_schema, text
from relay.config.load import Loaded, load
from relay.config.public import public_view
from relay.destinations.registry import CONFIG_TYPES
from relay.konnect.lines import format_of
from relay.model import Format

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "config").rglob("*.yaml"))
SCHEMA = json_schema(CONFIG_TYPES)
CREDS = f"""\
-----BEGIN NATS USER JWT-----
e30.e30.e30
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
SU{"A" * 56}
------END USER NKEY SEED------
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A value for every variable the shipped files refer to."""
    secret = tmp_path / "secret"
    secret.write_text("https://siem.example.com/secret\n")
    names = {name for file in FILES for name in re.findall(r"\$\{([A-Z_]+)", file.read_text())}
    creds = tmp_path / "relay.creds"
    creds.write_text(CREDS)
    values = {"_CREDS_FILE": str(creds), "_URL": "https://siem.example.com/in", "_FILE": str(secret)}
    return {
        name: next((value for ending, value in values.items() if name.endswith(ending)), "a-secret")
        for name in names
    }


def loaded(file: Path, environ: dict[str, str]) -> Loaded:
    return load(file, destination_types=CONFIG_TYPES, environ=environ)


def test_the_committed_schema_is_fresh() -> None:
    """`make schema` was run after the last change to a configuration class."""
    assert (ROOT / "config/schema.json").read_text(encoding="utf-8") == text(CONFIG_TYPES)


def test_the_schema_is_one() -> None:
    """It obeys the dialect it names."""
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_shipped_files_are_valid(file: Path, environ: dict[str, str]) -> None:
    """Every file in config/ satisfies both the schema and the relay, without a warning."""
    as_written = read(file, {name: f"${{{name}}}" for name in environ})

    Draft202012Validator(SCHEMA).validate(as_written.content)
    assert loaded(file, environ).warnings == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": {"port": -1}},
        {"server": {"header_timeout": "10"}},
        {"servers": {}},
        {"queue": {"type": "jetstream"}},
        {"queue": {"type": "jetstream", "servers": ["nats://n1:4222"], "path": "relay.db"}},
        {"queue": {"type": "jetstream", "servers": ["nats://n1:4222"], "replicas": 2}},
        {"queue": {"type": "redis"}},
        {"logging": {"level": "loud"}},
        {"destinations": [{"name": "d", "type": "file", "path": "x", "timeout": 3}]},
        {"destinations": [{"name": "d", "type": "ftp"}]},
        {"sources": [{"name": "A", "authorization": "x"}]},
        {"sources": [{"name": "a", "authorization": {"path": "x"}}]},
    ],
)
def test_the_schema_refuses_what_the_relay_refuses(wrong: dict[str, Any]) -> None:
    """An editor marks the common mistakes."""
    right = {
        "sources": [{"name": "a", "authorization": ["x", {"file": "y"}], "deduplicate": "off"}],
        "destinations": [{"name": "d", "type": "file", "path": "x", "timeout": "${TIMEOUT}"}],
        "server": {"port": "${PORT}", "max_body": 1024},
        "queue": {"type": "jetstream", "servers": ["nats://n1:4222"], "replicas": "${REPLICAS}"},
    }
    validator = Draft202012Validator(SCHEMA)

    assert validator.is_valid(right)
    assert not validator.is_valid(right | wrong)


def test_the_reference_shows_the_defaults(tmp_path: Path, environ: dict[str, str]) -> None:
    """relay.yaml without its comments configures exactly what leaving everything out does."""
    reference = loaded(ROOT / "config/relay.yaml", environ | {"RELAY_ADMIN_TOKEN": ""}).config
    minimal = tmp_path / "minimal.yaml"
    minimal.write_text(
        "sources: [{name: konnect-us, authorization: a-secret}]\n"
        "destinations: [{name: siem, type: http, url: https://siem.example.com/in}]\n"
    )

    assert public_view(reference) == public_view(loaded(minimal, {}).config)


def _inner(described: dict[str, Any]) -> dict[str, Any] | None:
    """The section a property holds, if it holds one."""
    for option in (described, *described.get("anyOf", ())):
        if "$ref" in option:
            definition: dict[str, Any] = SCHEMA["$defs"][option["$ref"].rpartition("/")[2]]
            return definition
    return None


def _leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key below a section with its default, as docs/configuration.md writes it."""
    for key, described in section["properties"].items():
        inner = _inner(described)
        if inner is None:
            required = key in section.get("required", ())
            yield prefix + key, "required" if required else _written(described.get("default"))
        else:
            yield from _leaves(inner, f"{prefix}{key}.")


def _written(default: object) -> str:
    if default is None:
        return "—"
    if isinstance(default, list):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _documented() -> dict[str, dict[str, str]]:
    """Per heading of docs/configuration.md: key to default, from its tables."""
    tables: dict[str, dict[str, str]] = {}
    heading = ""
    for line in (ROOT / "docs/configuration.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").partition(":")[0].strip("`")
        elif row := re.match(r"\| `([^`]+)` \| (.*?) \| .+ \|$", line):
            tables.setdefault(heading, {})[row[1]] = row[2]
    return tables


@pytest.mark.parametrize("name", ["server", "admin", "logging", "recovery"])
def test_sections_are_documented(name: str) -> None:
    """Every key stands in docs/configuration.md with its true default, and nothing else does."""
    section = _inner(SCHEMA["properties"][name])
    assert section is not None

    assert _documented()[name] == dict(_leaves(section, f"{name}."))


@pytest.mark.parametrize(
    ("name", "type_name"), [("SqliteQueueConfig", "sqlite"), ("JetStreamQueueConfig", "jetstream")]
)
def test_queue_types_are_documented(name: str, type_name: str) -> None:
    """As for sections."""
    assert _documented()[type_name] == dict(_leaves(SCHEMA["$defs"][name], "queue."))


def test_sources_are_documented() -> None:
    """As for sections."""
    assert _documented()["sources"] == dict(_leaves(SCHEMA["$defs"]["Source"], "sources[]."))


@pytest.mark.parametrize("type_name", CONFIG_TYPES)
def test_destination_types_are_documented(type_name: str) -> None:
    """A type's keys are those every destination has and those in its own table, which wins."""
    documented = _documented()
    prefix = "destinations[]."
    common = {key.removeprefix(prefix): default for key, default in documented["destinations"].items()}
    definition = SCHEMA["$defs"][CONFIG_TYPES[type_name].__name__]

    assert common | documented[type_name] == dict(_leaves(definition))


def test_every_key_is_in_the_reference_file() -> None:
    """relay.yaml names each key of each destination type, if only in a comment."""
    reference = (ROOT / "config/relay.yaml").read_text()
    keys = {part for definition in SCHEMA["$defs"].values() for part in definition.get("properties", ())}

    assert sorted(key for key in keys if not re.search(rf"\b{key}:", reference)) == []


def test_every_key_is_described() -> None:
    """Each field says what it means, in the schema that editors show."""
    silent = [
        f"{name}.{key}"
        for name, definition in SCHEMA["$defs"].items()
        for key, described in definition.get("properties", {}).items()
        if not described.get("description") and _inner(described) is None
    ]

    assert silent == []


def test_the_sample_batch_is_konnect_like() -> None:
    """The batch the quickstart sends is gzip'd CEF, as Konnect's default."""
    lines = gzip.decompress((ROOT / "config/sample.cef.gz").read_bytes()).splitlines()

    assert len(lines) == 28
    assert {format_of(line) for line in lines} == {Format.CEF}
