"""All vendors' intakes on loopback, and a destination of each type that sends to them.

    async with vendors(tmp_path) as receiving:
        ... receiving.destinations() ...
        await receiving.counts()

For tests and benchmarks of volume: nothing fails here. Owns the processes and what is configured.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from relay.destinations.registry import DESTINATIONS
from tests.fakes import google_key
from tests.fakes.process import START_LIMIT, free_port

# Those need more of their vendor than a loopback address: their tests speak to scripted servers.
ELSEWHERE = {"gcs", "azure_blob"}


class Vendors:
    """The receiving side: tests/fakes/receivers.py, moto, and a file."""

    def __init__(self, folder: Path, port: int, syslog_port: int, s3: str) -> None:
        self.folder = folder
        self._port = port
        self._syslog = syslog_port
        self._s3 = s3

    def destinations(self) -> list[dict[str, Any]]:
        """One of each type, in several formats."""
        base = f"http://127.0.0.1:{self._port}"
        settings: dict[str, Mapping[str, Any]] = {
            "http": {"url": f"{base}/http", "format": "json", "redact": ["user_agent"]},
            "sumologic": {"url": f"{base}/sumologic"},
            "splunk_hec": {"url": f"{base}/splunk_hec", "token": "t"},
            "logscale": {"url": f"{base}/logscale/services/collector", "token": "t", "format": "cps"},
            "elasticsearch": {"url": f"{base}/elasticsearch", "api_key": "k", "format": "ecs"},
            "datadog": {"url": f"{base}/datadog", "api_key": "k", "format": "json"},
            "loki": {"url": f"{base}/loki"},
            "newrelic": {"url": f"{base}/newrelic", "license_key": "k"},
            "sentinel": {
                "url": f"{base}/sentinel",
                "dcr": "dcr-0",
                "stream": "Custom-Konnect",
                "tenant_id": "t",
                "client_id": "c",
                "client_secret": "s",
                "token_url": f"{base}/token",
                "format": "ocsf",
            },
            "google_secops": {
                "url": f"{base}/google_secops",
                "project": "p",
                "region": "eu",
                "instance": "i",
                "log_type": "KONG_GATEWAY",
                "service_account": google_key.key_file(),
                "token_url": f"{base}/token",
            },
            "syslog": {"address": f"127.0.0.1:{self._syslog}", "protocol": "tcp", "framing": "lf"},
            "file": {"path": str(self.folder / "audit.ndjson")},
            "s3": {
                "bucket": "audit",
                "endpoint": self._s3,
                "region": "us-east-1",
                "access_key_id": "k",
                "secret_access_key": "s",
                "batch": {"linger": "0s"},
            },
        }
        assert settings.keys() | ELSEWHERE == DESTINATIONS.keys(), "a type is missing here"
        return [{"name": name, "type": name, **more} for name, more in settings.items()]

    async def counts(self) -> dict[str, int]:
        """Events that arrived, by type."""
        url = f"http://127.0.0.1:{self._port}/counts"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            found: dict[str, int] = await answer.json()
        found["file"] = (self.folder / "audit.ndjson").read_bytes().count(b"\n")
        found["s3"] = await asyncio.to_thread(self._objects)
        return found

    def _objects(self) -> int:
        store = S3Store(
            "audit",
            endpoint=self._s3,
            region="us-east-1",
            access_key_id="k",
            secret_access_key="s",
            client_options={"allow_http": True},
        )
        keys = [each["path"] for page in store.list() for each in page]
        return sum(gzip.decompress(bytes(store.get(key).bytes())).count(b"\n") for key in keys)


@asynccontextmanager
async def vendors(folder: Path) -> AsyncIterator[Vendors]:
    port, syslog_port, s3_port = free_port(), free_port(), free_port()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=s3_port, verbose=False)
    moto.start()
    endpoint = f"http://127.0.0.1:{s3_port}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fakes.receivers",
        str(port),
        str(syslog_port),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with aiohttp.ClientSession() as session, session.put(f"{endpoint}/audit") as made:
            assert made.status == 200
        assert process.stdout is not None
        async with asyncio.timeout(START_LIMIT):
            assert json.loads(await process.stdout.readline())["port"] == port
        yield Vendors(folder, port, syslog_port, endpoint)
    finally:
        process.kill()
        await process.wait()
        await asyncio.to_thread(moto.stop)
