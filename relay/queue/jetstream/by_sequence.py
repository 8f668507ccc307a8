"""Getting messages out of a stream by their sequence, as it is stored by its leader or by some server.

Needs no consumer. Knows nothing of what the messages mean.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from relay.queue.jetstream.link import NOT_FOUND, ApiError, Link
from relay.queue.jetstream.pausing import ATTEMPTS, pause

# Bytes asked for at a time. A server cuts off whoever has 64 MiB of answers unread, and with the connection
# go heartbeats and leases: all that is asked for at once has to stay well below.
REQUEST_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message."""

    seq: int  # of the stream
    subject: str
    headers: Mapping[str, str]
    payload: bytes  # empty where only headers were asked for
    reply: str = ""  # where to acknowledge it
    pending: int = 0  # messages of its consumer behind it


async def get(link: Link, stream: str, seq: int) -> Message | None:
    """The message with exactly this sequence, asked of the stream's leader; None if it is gone."""
    return await _stored(link, stream, {"seq": seq})


async def get_last(link: Link, stream: str, subject: str) -> Message | None:
    """The last message of a subject, asked of the stream's leader."""
    return await _stored(link, stream, {"last_by_subj": subject})


async def get_next(link: Link, stream: str, seq: int, subject: str = ">") -> Message | None:
    """The first message at or after *seq*, asked of the stream's leader."""
    return await _stored(link, stream, {"seq": seq, "next_by_subj": subject})


async def first_sequence(link: Link, stream: str) -> int:
    """The stream's first sequence, as its leader has it; what lay before was purged. Raises `QueueError`."""
    first: int = (await link.api(f"STREAM.INFO.{stream}"))["state"]["first_seq"]
    return first


async def last_sequence(link: Link, stream: str, *, known: int) -> int:
    """The stream's last sequence, as its leader has it. Raises `QueueError`.

    A message is acknowledged, and given out by followers, once most servers have it in their logs; its leader
    may store it a moment later, above all one that was just elected. So a leader that does not have what is
    *known* to exist is asked again for some seconds; one that still has not got it never will.
    """
    attempts = ATTEMPTS
    while True:
        last: int = (await link.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
        attempts -= 1
        if last >= known or not attempts:
            return last
        await pause()


async def _stored(link: Link, stream: str, which: Mapping[str, object]) -> Message | None:
    try:
        answer = await link.api(f"STREAM.MSG.GET.{stream}", which)
    except ApiError as error:
        if error.err_code in NOT_FOUND:
            return None
        raise
    found = answer["message"]
    return Message(
        seq=found["seq"],
        subject=found["subject"],
        headers=_parse_headers(b64decode(found.get("hdrs", ""))),
        payload=b64decode(found.get("data", "")),
    )


async def get_range(link: Link, stream: str, start: int, limit: int) -> list[Message]:
    """At most *limit* messages from sequence *start* on, in order, as some server of the cluster has them.

    A follower may lack the newest: whoever misses one asks `get`.
    """
    body = orjson.dumps({"seq": start, "batch": limit, "max_bytes": REQUEST_BYTES})
    answers = await link.collect(f"{link.api_prefix}.DIRECT.GET.{stream}", body)
    found = []
    for answer in answers:
        headers = answer.headers or {}
        found.append(Message(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, answer.data))
    return found


def _parse_headers(raw: bytes) -> dict[str, str]:
    """`NATS/1.0\\r\\nName: value\\r\\n…`; a stored message has no status line."""
    headers = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode()] = value.strip().decode()
    return headers
