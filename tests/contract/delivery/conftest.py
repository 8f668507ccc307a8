"""What every delivery scenario starts with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.delivery.rig import Rig
from tests.fakes.siem import Siem


@pytest.fixture
async def siem() -> AsyncIterator[Siem]:
    async with Siem() as siem:
        yield siem


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "relay.db", ("siem", "other"))
    await rig.open()
    yield rig
    await rig.close()
