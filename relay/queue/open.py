"""Which queue the configuration asks for. The only module that knows there are two."""

from __future__ import annotations

from collections.abc import Mapping

from relay.clock import Clock
from relay.config.queue import JetStreamQueueConfig, SqliteQueueConfig
from relay.model import Role
from relay.observe.logs import Log
from relay.queue.base import Observer, Queue


async def open_queue(
    config: SqliteQueueConfig | JetStreamQueueConfig,
    *,
    replica: str,
    role: Role,
    deduplicate: Mapping[str, float | None],
    clock: Clock,
    metrics: Observer,
    log: Log,
) -> Queue:
    """Open or create the queue for the process called *replica*.

    *deduplicate* is each source's window in seconds, None to switch it off. Raises `QueueError`.
    """
    # Imported late: whoever uses the one need not wait for the other's libraries.
    if config.type == "sqlite":
        from relay.queue.sqlite import SqliteQueue

        return await SqliteQueue.open(
            config, clock=clock, metrics=metrics, log=log, deduplicate=deduplicate, role=role
        )
    from relay.queue.jetstream.queue import JetStreamQueue

    return await JetStreamQueue.open(
        config, replica=replica, clock=clock, metrics=metrics, log=log, deduplicate=deduplicate
    )
