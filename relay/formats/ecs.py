"""Elastic Common Schema (being written)."""

from __future__ import annotations

from relay.konnect.record import Record


def to_ecs(record: Record, event_id: str, received: bytes, source: str, received_at: float | None) -> bytes:
    raise NotImplementedError
