"""The container image, without an engine: its build steps, and the relay as it runs inside.

Shown here: every RUN line works, the image holds what the lock names and nothing that installs, and the
relay runs from it as user 10001 with nothing to write to but its data. Not shown: that the base image has
the tag we name, and what an engine makes of the instructions that are no RUN.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from relay import __version__
from tests.e2e.support import DELIVERY_LIMIT
from tests.fakes.dockerfile import Built, instructions
from tests.fakes.process import START_LIMIT, STOP_LIMIT, free_port, until

ROOT = Path(__file__).parents[2]
HOME, DATA = "/opt/konnect-relay", "/var/lib/konnect-relay"


@pytest.fixture(scope="module")
def image() -> Iterator[Built]:
    """The image's files below a scratch directory; pytest's own are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="konnect-relay-image-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        yield Built(ROOT / "Dockerfile", root, own=(HOME, DATA))


def packages(python: str | Path) -> dict[str, str]:
    """What is installed for an interpreter, by its canonical name."""
    code = (
        "import importlib.metadata as m, json;"
        "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()};"
        "print(json.dumps(found))"
    )
    found: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code], timeout=60))
    return found


def test_the_image_holds_what_the_lock_names(image: Built) -> None:
    """Exactly these packages in these versions, and the relay."""
    pins = re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)

    assert packages(image.moved(f"{HOME}/bin/python")) == dict(pins)
    version = subprocess.check_output([image.moved(f"{HOME}/bin/konnect-relay"), "--version"], timeout=60)
    assert version.decode().split() == ["konnect-relay", __version__]


def test_nothing_in_the_image_can_install(image: Built) -> None:
    """Neither pip nor a build tool is left, in the base or beside the relay."""
    assert packages(image.base_python) == {}
    assert "pip" not in packages(image.moved(f"{HOME}/bin/python"))


def test_the_package_is_complete(image: Built) -> None:
    """Files that are no Python go along: the schema of the queue, the console's page."""
    folder = ROOT / "relay"
    wanted = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".sql", ".html")}
    [copied] = Path(image.moved(HOME)).glob("lib/python3.*/site-packages/relay")

    assert wanted
    assert wanted <= {str(path.relative_to(copied)) for path in copied.rglob("*")}


def confined(image: Built) -> list[str]:
    """Words to put before a command that is to run as in the container.

    User 10001, without capabilities but one: to read everything, since the interpreter may be in somebody's
    home. Where the kernel lets us, all of the file system but the data is read-only on top.
    """
    if os.geteuid():
        return []
    capability = "+dac_read_search"
    drop = ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--no-new-privs"]
    drop += [f"--inh-caps={capability}", f"--ambient-caps={capability}", f"--bounding-set=-all,{capability}"]
    data = image.moved(DATA)
    # The directory it is started in lies under the new mount, so it has to be entered again.
    freeze = f'mount --bind {data} {data} && cd {data} && mount -o remount,ro,bind / && exec "$@"'
    frozen = ["unshare", "--mount", "--", "sh", "-c", freeze, "sh"]
    if subprocess.run([*frozen, "true"], capture_output=True, timeout=60, check=False).returncode:
        frozen = []
    return [*frozen, *drop]


def inventory(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of the image outside the data, with what a write would change."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
        if DATA not in str(path)
    }


class Container:
    """The image's entry point at work."""

    def __init__(self, image: Built, folder: Path) -> None:
        self.image = image
        self.port, self.admin_port = free_port(), free_port()
        self.data = Path(image.moved(DATA))
        self._log = folder / "relay.log"
        self._prefix = confined(image)
        config = image.root / "relay.yaml"
        config.write_text(
            json.dumps(
                {
                    "server": {"host": "127.0.0.1", "port": self.port},
                    "admin": {"port": self.admin_port},
                    "sources": [{"name": "konnect-us", "authorization": "Bearer image"}],
                    "queue": {"min_free_disk": 0},  # its path is the default, relative to WORKDIR
                    "destinations": [{"name": "archive", "type": "file", "path": "archive/audit.ndjson"}],
                }
            )
        )
        # No TMPDIR and no HOME to write to, as in a container whose root is read-only.
        self._environment = {
            "PATH": f"{image.moved(HOME)}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "RELAY_CONFIG": str(config),
            "TMPDIR": "/nonexistent",
            "HOME": "/nonexistent",
        }

    async def spawn(self, *command: str) -> asyncio.subprocess.Process:
        """Start a command inside, its output in the log."""
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self._prefix, *command, stdout=log, stderr=log, env=self._environment, cwd=self.data
            )

    async def execute(self, *command: str) -> int:
        """Its exit status."""
        process = await self.spawn(*command)
        async with asyncio.timeout(START_LIMIT):
            return await process.wait()

    async def check_health(self) -> int:
        """What HEALTHCHECK runs, at our port."""
        text = [each.text for each in instructions(ROOT / "Dockerfile") if each.name == "HEALTHCHECK"][-1]
        command = json.loads(text.partition("CMD")[2].replace("8072", str(self.admin_port)))
        return await self.execute(*command)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        entry = [
            each.text for each in instructions(ROOT / "Dockerfile") if each.name in ("ENTRYPOINT", "CMD")
        ]
        process = await self.spawn(*(word for text in entry for word in json.loads(text)))
        try:
            async with aiohttp.ClientSession() as session:

                async def ready() -> bool:
                    assert process.returncode is None, self._log.read_text()
                    try:
                        async with session.get(f"http://127.0.0.1:{self.admin_port}/readyz") as response:
                            return response.status == 200
                    except aiohttp.ClientError:
                        return False

                await until(ready, START_LIMIT, "readiness")
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def post(self, body: bytes) -> int:
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Bearer image"}) as session,
            session.post(f"http://127.0.0.1:{self.port}/audit-logs/konnect-us", data=body) as response,
        ):
            return response.status


async def test_the_relay_runs_with_nothing_to_write_to_but_its_data(image: Built, tmp_path: Path) -> None:
    """As user 10001 it accepts and delivers, its health check tells life from death, and SIGTERM ends it."""
    container = Container(image, tmp_path)
    before = inventory(image.root)
    sample = (ROOT / "config" / "sample.cef.gz").read_bytes()
    archive = container.data / "archive" / "audit.ndjson"

    assert await container.check_health() != 0
    async with container.running() as process:
        assert await container.check_health() == 0
        assert await container.execute("konnect-relay", "check", "--probe") == 0
        assert await container.post(sample) == 200
        await until(
            lambda: archive.exists() and archive.read_bytes() == gzip.decompress(sample),
            DELIVERY_LIMIT,
            "the sample in the archive",
        )
        assert await container.execute("konnect-relay", "status") == 0
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_LIMIT):
            assert await process.wait() == 0

    assert inventory(image.root) == before
    assert (container.data / "data" / "relay.db").exists()
