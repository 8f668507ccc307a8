"""What goes wrong with calls of the control API, when a test says so."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(slots=True)
class Fault:
    """What to do with some calls in place of answering them."""

    method: str  # or *
    path: str  # without the region's base; a pattern such as */audit-log-webhook
    status: int = 500
    retry_after: str | None = None
    hang: bool = False  # never answer
    reset: bool = False  # close the connection without an answer
    effective: bool = False  # do what was asked first: only the answer is lost
    body: bytes | None = None  # in place of problem+json
    after: int = 0  # so many calls pass first
    times: int = 1  # how many calls it hits; negative: all

    def __post_init__(self) -> None:
        assert self.path.startswith(("/", "*")), self.path


class Faults:
    """The faults still to come. The first that fits a call is used up by it."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that hits this call."""
        for fault in self._waiting:
            if fault.method not in ("*", method) or not fnmatchcase(path, fault.path):
                continue
            if fault.after:
                fault.after -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self._waiting.remove(fault)
            return fault
        return None
