from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.kit import ConfigFile


@pytest.fixture
def file(tmp_path: Path) -> ConfigFile:
    return ConfigFile(tmp_path / "relay.yaml")
