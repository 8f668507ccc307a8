"""The 200 comes after the disk: seen from the system calls of the real process."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.e2e.support import DELIVERY_LIMIT, Traffic, Trail, configuration, destination, give_up
from tests.fakes.process import RelayProcess, until
from tests.fakes.siem import Siem

# `[pid] call(fd<what>, "data"...` and the rest of it, perhaps on a later line.
_CALL = re.compile(r"^(?P<thread>\d+) +(?P<call>\w+)\((?P<fd>\d+)<(?P<file>[^>]*(?:->[^>]*)?)>(?P<rest>.*)$")
_RESUMED = re.compile(r"^(?P<thread>\d+) +<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)$")
_READS = {"read", "recvfrom", "recvmsg", "readv"}
_WRITES = {"write", "sendto", "sendmsg", "writev"}
_SYNCS = {"fsync", "fdatasync"}


@dataclass(frozen=True, slots=True)
class Call:
    """One system call as it returned."""

    name: str
    file: str  # path, or the socket's kind
    data: str  # arguments after the file, and the result


def parse(trace: Iterable[str]) -> list[Call]:
    """System calls in the order in which they *returned*; strace tells begin and end apart."""
    calls: list[Call] = []
    begun: dict[str, Call] = {}
    for line in trace:
        if match := _CALL.match(line):
            call = Call(match["call"], match["file"], match["rest"])
            if "<unfinished ...>" in line:
                begun[match["thread"]] = call
            else:
                calls.append(call)
        elif (match := _RESUMED.match(line)) and match["thread"] in begun:
            call = begun.pop(match["thread"])
            calls.append(Call(call.name, call.file, call.data + match["rest"]))
    return calls


def synced_in_time(calls: list[Call], database: Path) -> bool:
    """Whether the database was written and synced between reading a request and writing its answer."""
    read = next(i for i, call in enumerate(calls) if call.name in _READS and "POST /audit-logs" in call.data)
    begin = next(
        i for i, call in enumerate(calls) if i > read and call.name in _WRITES and "HTTP/1.1 200" in call.data
    )
    written = False
    for call in calls[read:begin]:
        ours = call.file in (str(database), f"{database}-wal")
        if ours and call.name == "pwrite64":
            written = True
        if ours and written and call.name in _SYNCS and re.search(r"= 0\b", call.data):
            return True
    return False


@asynccontextmanager
async def traced(pid: int, output: Path) -> AsyncIterator[None]:
    """Attach strace to a running process and all its threads."""
    calls = ",".join(sorted(_READS | _WRITES | _SYNCS | {"pwrite64"}))
    strace = await asyncio.create_subprocess_exec(
        "strace", "-f", "-y", "-s", "40", "-e", f"trace={calls}", "-o", str(output), "-p", str(pid),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert strace.stderr is not None
    try:
        async with asyncio.timeout(DELIVERY_LIMIT):
            first = await strace.stderr.readline()
        if b"attached" not in first:
            give_up(f"strace may not trace: {first.decode().strip()}")
        yield
    finally:
        if strace.returncode is None:
            strace.terminate()  # detaches; the relay runs on
        await strace.communicate()


def answered(trace: Path) -> bool:
    return "HTTP/1.1 200" in trace.read_text()


async def test_the_database_is_synced_before_the_answer(tmp_path: Path) -> None:
    """Between reading a request and writing its 200 the process syncs what it wrote to the database."""
    if shutil.which("strace") is None:
        give_up("strace is not installed")
    trail = Trail(Traffic(5))
    async with Siem() as siem:
        config = configuration(tmp_path, [destination("siem", siem)])
        async with RelayProcess(config, tmp_path) as relay:
            await trail.post(relay)
            await siem.received(1)
            for attempt in range(3):
                trace = tmp_path / f"trace-{attempt}"
                async with traced(relay.pid, trace):
                    await trail.post(relay)
                    await until(partial(answered, trace), DELIVERY_LIMIT, "the answer in the trace")
                assert synced_in_time(parse(trace.read_text().splitlines()), tmp_path / "relay.db")


def test_the_proof_would_notice_a_late_sync() -> None:
    """The same trace with the sync after the answer, failed, or on another file proves nothing."""
    database = Path("/q/relay.db")
    read = '7 read(9<socket:[1]>, "POST /audit-logs/konnect HTTP/1.1"..., 262144) = 300'
    write = '8 pwrite64(5</q/relay.db-wal>, "x"..., 4096, 0) = 4096'
    begun = "8 fdatasync(5</q/relay.db-wal> <unfinished ...>"
    ended = "8 <... fdatasync resumed>) = 0"
    answer = '7 write(9<socket:[1]>, "HTTP/1.1 200 OK"..., 120) = 120'

    def proven(*lines: str) -> bool:
        return synced_in_time(parse(lines), database)

    assert proven(read, write, begun, ended, answer)
    assert not proven(read, write, begun, answer, ended)
    assert not proven(read, begun, ended, write, answer)
    assert not proven(read, write, begun, ended.replace("= 0", "= -1 EIO"), answer)
    assert not proven(read, write, begun.replace("/q/", "/p/"), ended, answer)
