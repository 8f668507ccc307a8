"""Every type has its page, and the page its every setting."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from relay.config.destination import DestinationConfig
from relay.destinations.file import Rotation
from relay.destinations.registry import CONFIG_TYPES
from tests.fakes import google_key

PAGES = Path(__file__).parents[3] / "docs" / "destinations"


@pytest.mark.parametrize("type_name", list(CONFIG_TYPES))
def test_page(type_name: str) -> None:
    """A setting that the page does not name does not exist for its reader."""
    page = (PAGES / f"{type_name}.md").read_text()
    own = CONFIG_TYPES[type_name].model_fields.keys() - DestinationConfig.model_fields.keys()
    own -= {"rotate"}
    names = own | ({f"rotate.{name}" for name in Rotation.model_fields} if type_name == "file" else set())

    assert {name for name in names if f"`{name}`" not in page} == set()
    assert f"{type_name}.md" in (PAGES / "README.md").read_text()


@pytest.mark.parametrize("type_name", list(CONFIG_TYPES))
def test_example(type_name: str, tmp_path: Path) -> None:
    """The example to copy is valid as it stands, once its variables are filled in."""
    page = (PAGES / f"{type_name}.md").read_text()
    (example, *_) = page.split("```yaml\n")[1].split("```")
    for variable in ("SIEM_TOKEN", "SPLUNK_HEC_TOKEN", "LOGSCALE_TOKEN"):
        example = example.replace("${%s}" % variable, "token")  # noqa: UP031  # braces on both sides
    for variable in ("SUMO_URL", "LOGSCALE_URL"):
        example = example.replace("${%s}" % variable, "https://siem.example.com/x")  # noqa: UP031  # as above

    key_file = tmp_path / "google-secops.json"
    key_file.write_text(google_key.key_file())
    example = example.replace("/run/secrets/google-secops.json", str(key_file))

    (settings,) = yaml.safe_load(example)["destinations"]

    assert CONFIG_TYPES[type_name].model_validate(settings).type == type_name
