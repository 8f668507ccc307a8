"""`konnect-relay konnect …` with a configuration that leads to a Konnect on loopback."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from relay.cli.main import main
from tests.fakes.konnect import TOKEN, FakeKonnect

URL = "https://relay.example.com"
ENDPOINT = f"{URL}/audit-logs/konnect-us"


class Commands:
    """Runs commands in this process, each in an event loop of its own as in life."""

    def __init__(
        self,
        konnect: FakeKonnect,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.path = folder / "commands.yaml"  # a relay may be reading its own just now
        self.folder = folder
        self._capsys = capsys
        self.settings: dict[str, Any] = {
            "region": "us",
            "token": TOKEN,
            "source": "konnect-us",
            "url": URL,
            "timeout": "30s",
            "regional_url": konnect.url(),
            "global_url": konnect.url("global"),
        }
        self.config: dict[str, Any] = {
            "admin": {"port": 1},
            "sources": [{"name": "konnect-us", "authorization": "Bearer old"}],
            "destinations": [{"name": "audit", "type": "file", "path": str(folder / "audit.ndjson")}],
        }

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        self.path.write_text(json.dumps({**self.config, "recovery": {"konnect": self.settings}}))
        status = await asyncio.to_thread(self._run, ("konnect", *arguments, "-c", str(self.path)))
        return status, *self._capsys.readouterr()

    async def document(self, *arguments: str) -> Any:
        """What a command that succeeds prints with --json."""
        status, out, err = await self(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    def _run(self, arguments: tuple[str, ...]) -> int:
        with pytest.raises(SystemExit) as exit_:
            main(list(arguments))
        return int(exit_.value.code or 0)
