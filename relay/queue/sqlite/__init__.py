"""The embedded queue: one SQLite file, one fdatasync per group of requests."""

from relay.queue.sqlite.queue import SqliteQueue

__all__ = ["SqliteQueue"]
