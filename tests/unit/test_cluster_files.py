"""The compose project with three NATS servers and two relays says what the relay needs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.config.load import load
from relay.config.schema import Config
from relay.destinations.registry import CONFIG_TYPES
from tests.fakes.nats import BINARY

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose-cluster"
PROJECT: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = PROJECT["services"]
EXAMPLE = dict(re.findall(r"^([A-Z_]+)='(.*)'$", (FOLDER / ".env.example").read_text(), re.MULTILINE))
SERVERS = ["nats-1", "nats-2", "nats-3"]
RELAYS = ["relay-1", "relay-2"]
NATS_CONF = (FOLDER / "nats.conf").read_text()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """relay.yaml as the containers read it, with .env.example as it is."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "relay-admin-token").write_text("a-token\n")
    (folder / "relay-nkey").write_text("SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4\n")
    path = folder / "relay.yaml"
    path.write_text((FOLDER / "relay.yaml").read_text().replace("/run/secrets", str(folder)))
    return load(path, destination_types=CONFIG_TYPES, environ=EXAMPLE).config


def mounts(service: str) -> list[list[str]]:
    return [volume.split(":") for volume in SERVICES[service].get("volumes", ())]


# -- compose.yaml and relay.yaml


def test_the_relays_start_with_the_example_environment(config: Config) -> None:
    """Every variable they cannot do without is in .env.example, and the admin listener can be published."""
    assert config.admin.host == "0.0.0.0"
    assert config.admin.token is not None


def test_the_relays_know_every_server_and_store_on_three(config: Config) -> None:
    """One server more or less in one file must not be forgotten in the other."""
    queue = config.queue
    assert queue.type == "jetstream"

    assert [server.removesuffix(":4222") for server in queue.servers] == [
        f"nats://{name}" for name in SERVERS
    ]
    assert [url.removesuffix(":8222") for url in queue.monitoring] == [f"http://{name}" for name in SERVERS]
    assert queue.replicas == len(SERVERS)


def test_the_servers_have_room_for_the_queue(config: Config) -> None:
    """The streams may grow to the relay's limits before a server says that it is full."""
    gigabytes = int(re.findall(r"max_file_store: (\d+)GB", NATS_CONF)[0])

    assert gigabytes * 2**30 >= 2 * config.queue.max_bytes


def test_compose_waits_longer_than_a_relay_takes(config: Config) -> None:
    """A relay that is still finishing requests is not killed."""
    for name in RELAYS:
        grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert grace >= 2 * config.server.shutdown_grace


def test_the_relays_differ_in_nothing_but_the_published_port() -> None:
    """None is special, and their configuration is the same file."""
    first, second = ({**SERVICES[name], "ports": None} for name in RELAYS)

    assert first == second
    assert SERVICES["relay-1"]["ports"] != SERVICES["relay-2"]["ports"]


def test_every_server_has_a_name_and_a_volume_of_its_own() -> None:
    """Two servers of one name, or on one volume, would be one."""
    assert [SERVICES[name]["environment"]["NATS_SERVER_NAME"] for name in SERVERS] == SERVERS
    assert [[name, "/data"] in mounts(name) for name in SERVERS] == [True] * 3
    assert "store_dir: /data" in NATS_CONF


def test_the_relays_wait_for_healthy_servers() -> None:
    """Each server has a health check, and it asks where the server listens for it."""
    for name in RELAYS:
        assert SERVICES[name]["depends_on"] == {each: {"condition": "service_healthy"} for each in SERVERS}
    for name in SERVERS:
        assert "http://127.0.0.1:8222/healthz" in SERVICES[name]["healthcheck"]["test"][-1]
    assert re.search(r"^http: 0\.0\.0\.0:8222\b", NATS_CONF, re.MULTILINE)


def test_what_is_mounted_exists() -> None:
    """Docker would make a directory of a file that is missing."""
    sources = {parts[0] for service in SERVICES for parts in mounts(service)}

    assert {source for source in sources if not source.startswith(".")} == set(PROJECT["volumes"])
    assert [source for source in sources if source.startswith(".") and not (FOLDER / source).is_file()] == []
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert used == set(PROJECT["secrets"])


@pytest.mark.parametrize("name", SERVICES)
def test_services_cannot_do_more_than_they_need(name: str) -> None:
    """Read-only roots, no capabilities, and only Konnect's port open to others."""
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    open_to_all = {port for port in service.get("ports", ()) if not port.startswith("127.0.0.1:")}
    assert open_to_all == ({"8071:8071"} if name == "front" else set())


def test_nobody_but_relays_and_tools_is_on_the_servers_network() -> None:
    """And the network has no way out."""
    there = {name for name, service in SERVICES.items() if "nats" in service["networks"]}

    assert there == {*SERVERS, *RELAYS, "tools"}
    assert PROJECT["networks"]["nats"] == {"internal": True}


def test_images_of_others_are_exact_versions() -> None:
    """`latest` would be another one tomorrow."""
    images = [service["image"] for service in SERVICES.values() if "build" not in service]

    assert all(re.search(r":\d+\.\d+\.\d+(-alpine)?$", image) for image in images)


def test_the_servers_are_of_the_version_the_tests_run_with() -> None:
    """What was not tested together is not shipped together."""
    version = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True, timeout=60)

    assert SERVICES["nats-1"]["image"] == f"nats:{version.stdout.split('v')[-1].strip()}-alpine"


def test_secrets_are_not_committed() -> None:
    """Neither .env nor the seeds."""
    assert (FOLDER / ".gitignore").read_text().split() == [".env", "secrets/"]


# -- nats.conf


def test_nats_accepts_the_configuration() -> None:
    """Read by the server itself, with nothing in the environment but what compose.yaml puts there."""
    given = SERVICES["nats-1"]["environment"]
    environment = {name: EXAMPLE.get(value.strip("${}"), value) for name, value in given.items()}

    done = subprocess.run(
        [BINARY, "--config", FOLDER / "nats.conf", "-t"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_the_prefix_in_the_permissions_is_the_relays(config: Config) -> None:
    """A relay with another prefix would be refused everything."""
    assert config.queue.type == "jetstream"
    prefix = config.queue.stream
    allowed = re.findall(r'"(\S+?)"', NATS_CONF)
    assert f"{prefix}.events.>" in allowed

    tied = [each for each in allowed if each not in ("$JS.API.INFO", "_INBOX.>")]
    assert [each for each in tied if prefix not in each] == []


def test_the_permissions_hold_every_question_the_queue_asks() -> None:
    """Found in its source, so that a new question is not forgotten here."""
    allowed = set(re.findall(r'"\$JS\.API\.([A-Z.]+?)(?=[."][^A-Z]|"|\.KV_)', NATS_CONF))
    sources = "".join(file.read_text() for file in (ROOT / "relay/queue/jetstream").glob("*.py"))
    asked = set(re.findall(r"\b((?:STREAM|CONSUMER|DIRECT)(?:\.[A-Z]+)+)\b", sources))

    assert asked
    assert asked - allowed == set()
