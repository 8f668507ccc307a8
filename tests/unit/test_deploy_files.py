"""The container, the compose project and the systemd unit say what the relay needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.cli.options import DEFAULT_CONFIG
from relay.config.load import load
from relay.config.queue import SqliteQueueConfig
from relay.config.schema import Config, Server
from relay.destinations.registry import CONFIG_TYPES
from tests.e2e.support import give_up
from tests.fakes.dockerfile import Instruction, instructions

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
UNIT = ROOT / "deploy" / "systemd" / "konnect-relay.service"
PROJECT: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())


def seconds(text: str) -> int:
    """Of a number with or without `s`, which is all our files use."""
    return int(text.removesuffix("s"))


# -- Dockerfile


@pytest.fixture(scope="module")
def dockerfile() -> list[Instruction]:
    return instructions(ROOT / "Dockerfile")


def last(dockerfile: list[Instruction], name: str) -> str:
    return [each.text for each in dockerfile if each.name == name][-1]


def test_the_base_image_is_an_exact_version(dockerfile: list[Instruction]) -> None:
    """Both stages are of one base, so that the environment of the first fits into the second."""
    bases = [each.text for each in dockerfile if each.name == "FROM"]

    assert bases == ["${BASE} AS build", "${BASE}"]
    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", last(dockerfile, "ARG"))


def test_signals_reach_the_relay_and_not_a_shell(dockerfile: list[Instruction]) -> None:
    """The exec form, with the signal that `run` listens for."""
    command = [*json.loads(last(dockerfile, "ENTRYPOINT")), *json.loads(last(dockerfile, "CMD"))]

    assert command == ["konnect-relay", "run"]
    assert last(dockerfile, "STOPSIGNAL") == "SIGTERM"


def test_the_container_is_not_root(dockerfile: list[Instruction]) -> None:
    """By number, as an orchestrator's `runAsNonRoot` needs it."""
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last(dockerfile, "USER"))


def test_only_locked_packages_are_installed_and_no_index_is_named(dockerfile: list[Instruction]) -> None:
    """Where packages come from is whoever builds the image's business; what they are is ours."""
    installs = [each.text for each in dockerfile if each.name == "RUN" and " install " in each.text]
    pip = [text for text in installs if "pip" in text]

    assert all("--require-hashes" in text and "-r requirements.lock" in text for text in pip)
    assert pip
    assert not re.search(r"https?://|index-url", (ROOT / "Dockerfile").read_text())


@pytest.mark.parametrize("lock", sorted(ROOT.glob("requirements*.lock")), ids=lambda lock: lock.name)
def test_a_lock_has_a_hash_for_everything_and_names_no_index(lock: Path) -> None:
    """The build requirements included: the package is built from what they name, not from what is newest."""
    pinned = re.findall(r"^\S.*", lock.read_text(), re.MULTILINE)

    assert all("==" in line and line.endswith("\\") for line in pinned)
    assert pinned
    assert not re.search(r"https?://|index-url|find-links", lock.read_text())


def test_everything_copied_is_in_the_build_context(dockerfile: list[Instruction]) -> None:
    """.dockerignore lets through what COPY names, and nothing that grows or is secret."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    copied = [
        each.text.split()[0] for each in dockerfile if each.name == "COPY" and "--from" not in each.text
    ]

    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / name).exists() for name in allowed)
    assert not any(
        fnmatch(name, pattern) for name in allowed for pattern in ("data*", ".venv", ".git", "deploy")
    )


def test_the_healthcheck_asks_where_the_admin_listener_is(dockerfile: list[Instruction]) -> None:
    """At the default port, whatever else the configuration says about the host."""
    default = Config.model_fields["admin"].default

    assert f"'127.0.0.1', {default.port}" in last(dockerfile, "HEALTHCHECK")


# -- deploy/compose


@pytest.fixture(scope="module")
def compose_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """deploy/compose/relay.yaml as the container reads it, with .env.example as it is."""
    token = tmp_path_factory.mktemp("secrets") / "token"
    token.write_text("a-token\n")
    text = (COMPOSE / "relay.yaml").read_text().replace("/run/secrets/relay-admin-token", str(token))
    path = token.with_name("relay.yaml")
    path.write_text(text)
    environ = dict(re.findall(r"^([A-Z_]+)='(.*)'$", (COMPOSE / ".env.example").read_text(), re.MULTILINE))
    return load(path, destination_types=CONFIG_TYPES, environ=environ).config


def mounts(service: str) -> list[list[str]]:
    return [volume.split(":") for volume in PROJECT["services"][service]["volumes"]]


def test_the_compose_relay_starts_with_the_example_environment(compose_config: Config) -> None:
    """Every variable it cannot do without is in .env.example, and Prometheus can reach the admin listener."""
    assert compose_config.admin.host == "0.0.0.0"
    assert compose_config.admin.token is not None
    assert compose_config.admin.token.reveal() == "a-token"


def test_compose_waits_longer_than_the_relay_takes(compose_config: Config) -> None:
    """A relay that is still finishing requests is not killed."""
    grace = seconds(PROJECT["services"]["relay"]["stop_grace_period"])

    assert grace >= 2 * compose_config.server.shutdown_grace


def test_the_queue_is_on_the_volume(dockerfile: list[Instruction], compose_config: Config) -> None:
    """Whatever else is lost with the container, the queue and the archive are not."""
    data = last(dockerfile, "VOLUME")

    assert ["relay-data", data] in mounts("relay")
    assert isinstance(compose_config.queue, SqliteQueueConfig)
    assert compose_config.queue.path.is_relative_to(data)
    assert f"RELAY_CONFIG={mounts('relay')[0][1]}" in last(dockerfile, "ENV")


def test_what_is_mounted_exists() -> None:
    """Docker would make a directory of a file that is missing."""
    sources = [parts[0] for service in PROJECT["services"] for parts in mounts(service)]

    assert {source for source in sources if not source.startswith(".")} == set(PROJECT["volumes"])
    assert [source for source in sources if source.startswith(".") and not (COMPOSE / source).is_file()] == []


def test_prometheus_finds_relay_and_token() -> None:
    """The scrape configuration that is shared with other set-ups fits this one."""
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    secret = PROJECT["services"]["prometheus"]["secrets"][0]

    assert scrape["static_configs"] == [{"targets": ["relay:8072"]}]
    assert scrape["authorization"]["credentials_file"] == secret["target"]
    assert secret["source"] in PROJECT["secrets"]


@pytest.mark.parametrize("name", ["relay", "prometheus"])
def test_services_cannot_do_more_than_they_need(name: str) -> None:
    """Read-only roots, no capabilities, and only Konnect's port open to others."""
    service = PROJECT["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {port for port in service["ports"] if not port.startswith("127.0.0.1:")} <= {"8071:8071"}


def test_images_of_others_are_exact_versions() -> None:
    """`latest` would be another one tomorrow."""
    images = [each["image"] for each in PROJECT["services"].values() if "build" not in each]

    assert images
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images)


def test_secrets_of_a_compose_project_are_not_committed() -> None:
    """Neither .env nor the token file."""
    assert (COMPOSE / ".gitignore").read_text().split() == [".env", "secrets/"]


# -- deploy/systemd


@pytest.fixture(scope="module")
def unit() -> dict[str, str]:
    lines = UNIT.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """Every directive exists and every value is one; the program is one that is there."""
    if shutil.which("systemd-analyze") is None:
        give_up("systemd-analyze is missing (Debian package systemd)")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/konnect-relay/bin/konnect-relay", "/bin/true"))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_waits_longer_than_the_relay_takes(unit: dict[str, str]) -> None:
    """As for the container; and it starts the relay again whatever happened."""
    assert seconds(unit["TimeoutStopSec"]) >= 2 * Server().shutdown_grace
    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == ("always", "0")


def test_the_unit_reloads_by_sighup(unit: dict[str, str]) -> None:
    """And reads its configuration where the documentation puts it."""
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert unit["ExecStart"].split()[1:] == ["run"]
    assert f"RELAY_CONFIG=/etc/konnect-relay/{DEFAULT_CONFIG.name}" in unit["Environment"].split()


def test_the_unit_may_open_enough_files(unit: dict[str, str]) -> None:
    """A connection takes one, and a thousand of them must not be the limit."""
    assert int(unit["LimitNOFILE"]) >= 65536
