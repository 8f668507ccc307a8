"""The first minute of a newcomer: the quick-start configuration and the curl line that `make run` prints."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import shlex
import shutil
from pathlib import Path

from tests.e2e.support import DELIVERY_LIMIT, give_up
from tests.fakes.process import RelayProcess, free_port, until

_PROJECT = Path(__file__).parents[2]


async def _output_of(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(DELIVERY_LIMIT):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def _documented_curl(port: int) -> list[str]:
    """The line as `make run` prints it, sent to *port* instead."""
    text = await _output_of("make", "--no-print-directory", "-C", str(_PROJECT), "--dry-run", "run")
    found = re.search(r"curl .*8071/[\w/-]+", text)
    assert found, text
    return shlex.split(found[0].replace(":8071/", f":{port}/"))


async def test_the_documented_curl_line_works(tmp_path: Path) -> None:
    """The sample is answered 200 and is in the file byte for byte; sent again after a kill it is known."""
    if missing := [tool for tool in ("make", "curl") if shutil.which(tool) is None]:
        give_up(f"{', '.join(missing)} not installed")
    ports = {"server": {"port": free_port()}, "admin": {"port": free_port()}}
    relay = RelayProcess(ports, tmp_path, working_folder=tmp_path)
    text = (_PROJECT / "config" / "quickstart.yaml").read_text().replace("8071", str(relay.port))
    relay.configure_text(f"{text}\nadmin:\n  port: {relay.admin_port}\n")
    curl = await _documented_curl(relay.port)
    sample = gzip.decompress((_PROJECT / "config" / "sample.cef.gz").read_bytes())
    events = sample.count(b"\n")
    archive = tmp_path / "data" / "audit.ndjson"
    async with relay:
        answer = await _output_of(*curl)
        assert answer.startswith("HTTP/1.1 200 ")
        assert json.loads(answer.split("\r\n\r\n")[1]) == {"accepted": events, "duplicates": 0}
        await until(lambda: archive.exists() and archive.read_bytes() == sample, DELIVERY_LIMIT, "the sample")

        await relay.kill()
        await relay.start()
        answer = await _output_of(*curl)
        assert json.loads(answer.split("\r\n\r\n")[1]) == {"accepted": 0, "duplicates": events}
        status, out, _ = await relay.command("status", "--json")
        assert status == 0
        assert json.loads(out)["destinations"][0]["name"] == "archive"
        assert await relay.stop() == 0
