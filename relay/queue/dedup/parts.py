"""A part of a batch as a batch of its own."""

from __future__ import annotations

from dataclasses import replace

from relay import gzipped
from relay.konnect.lines import count_formats
from relay.model import Batch


def with_lines(batch: Batch, lines: list[bytes]) -> Batch:
    """The batch with no lines but these, which are its own; at least one."""
    body = b"\n".join(lines) + b"\n"
    payload = gzipped.compress(body)
    return replace(batch, formats=count_formats(lines), body=body, payload=payload, lines=lines)
