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

# Files that take long begin first, so that at the end no worker is left alone with one. It takes
# `--no-loadscope-reorder` for pytest-xdist to hand them out in this order.
_LONGEST_FIRST = ("e2e", "property", "contract")

IN_CI = bool(os.environ.get("RELAY_CI"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one: there, nothing it needs may be missing."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and RELAY_CI is set: {report.longrepr}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        parts = item.path.parts
        return next((n for n, name in enumerate(_LONGEST_FIRST) if name in parts), len(_LONGEST_FIRST))

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A test that sends the log somewhere does so for itself alone: the stream is gone when it ends."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
