"""What holds for every test."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

# A run of the suite tells whether this code is right, the same each time; `make fuzz` looks for what nobody
# has thought of. A busy machine is no reason to fail, hence no deadline.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=3_000, deadline=None, print_blob=True)
settings.load_profile("repeatable")

IN_CI = bool(os.environ.get("RELAY_CI"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one: there, nothing it needs may be missing."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and RELAY_CI is set: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A test that sends the log somewhere does so for itself alone: the stream is gone when it ends."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
