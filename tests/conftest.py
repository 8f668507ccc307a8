"""What holds for every test."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator

import pytest

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
