"""The alerts and the dashboard that come with the relay."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from relay.observe import catalog
from relay.observe.metrics import Metrics

DEPLOY = Path(__file__).parents[3] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
NAMES = {
    name + suffix
    for family in catalog.ALL
    for name in [family.name]
    for suffix in (("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",))
}


@pytest.fixture
def promtool() -> str:
    """Prometheus' own checker, from Debian's package `prometheus`."""
    if found := shutil.which("promtool"):
        return found
    if os.environ.get("RELAY_CI"):
        pytest.fail("promtool is missing; install the Debian package prometheus")
    pytest.skip("promtool is not installed (Debian package prometheus)")


def run(*command: str, given: bytes = b"") -> tuple[int, str]:
    done = subprocess.run(command, input=given, capture_output=True, cwd=PROMETHEUS, timeout=180, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("path", [PROMETHEUS / "relay.rules.yml", DASHBOARD], ids=lambda path: path.name)
def test_alerts_and_dashboard_use_metrics_that_exist(path: Path) -> None:
    """A renamed metric must not leave a silent alert behind."""
    used = set(re.findall(r"\brelay_[a-z_]+\b", path.read_text()))

    assert used
    assert used - NAMES == set()


def test_the_dashboard_shows_every_metric() -> None:
    """One that nobody sees is found out about when it is too late; two tell nothing over time."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = " ".join([target["expr"] for panel in panels for target in panel.get("targets", [])])
    shown = set(re.findall(r"\brelay_[a-z_]+\b", queries))
    missing = {
        family.name
        for family in catalog.ALL
        if not {family.name, f"{family.name}_bucket", f"{family.name}_sum"} & shown
    }

    assert missing == {"relay_build_info", "relay_delivered_bytes_total"}


def test_the_panels_do_not_overlap() -> None:
    """Grafana would push them apart, each time in another way."""
    cells = [
        (x, y)
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_has_a_title_for_every_panel() -> None:
    """And each panel asks for something."""
    panels = json.loads(DASHBOARD.read_text())["panels"]

    assert all(panel["title"] for panel in panels)
    assert all(panel["targets"] for panel in panels if panel["type"] != "row")
    assert len(panels) == len({panel["id"] for panel in panels})


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "relay.rules.yml"),
        ("test", "rules", "relay.rules.test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
    ids=lambda arguments: arguments[-1],
)
def test_prometheus_accepts_the_files(promtool: str, arguments: tuple[str, ...]) -> None:
    """Syntax, and for the alerts when they fire and when they do not."""
    status, output = run(promtool, *arguments)

    assert status == 0, output


async def test_the_exposition_follows_prometheus_conventions(promtool: str) -> None:
    """Names, units and types pass Prometheus' own linter."""
    status, output = run(promtool, "check", "metrics", given=await Metrics(["eu"], ["sumo"]).exposition())

    assert (status, output) == (0, "")


def test_every_query_of_the_dashboard_parses(promtool: str, tmp_path: Path) -> None:
    """Checked as recording rules, with Grafana's variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    filled = [re.sub(r"\$__rate_interval", "5m", query).replace("$", "") for query in queries]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(filled)]
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    status, output = run(promtool, "check", "rules", str(path))

    assert status == 0, output
