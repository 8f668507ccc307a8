"""The two streams a relay lives on: made, brought to what is configured, or only checked.

    <prefix>            subjects <prefix>.events.>       the batches, one message each
    KV_<prefix>-state   subjects $KV.<prefix>-state.>    everything else, as a key-value bucket

Owns their settings. Never touches a message, and nothing that another prefix made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol

import orjson

from relay.config.queue import JetStreamQueueConfig
from relay.errors import QueueError, QueueFull
from relay.observe.logs import Log
from relay.queue.jetstream.link import NOT_FOUND, ApiError, Leaderless, Silent
from relay.queue.jetstream.pausing import pause

_PATIENCE_SECONDS: Final = 15.0  # a cluster just started elects its leader and meets its servers meanwhile
_ANSWER_SECONDS: Final = 2.0  # what is asked about a stream that is just being created may get no answer
_DUPLICATE_WINDOW: Final = 120 * 10**9  # nanoseconds; far above the time in which we publish again
_EXISTS: Final = 10058
_OFFLINE: Final = "peer offline"  # in a refusal by a leader that has not heard of enough servers, or not yet

Settings = Mapping[str, Any]

# What every promise of the relay rests on, in both streams. An absent value and an empty one are the same.
_COMMON: Final[Settings] = {
    "storage": "file",
    "retention": "limits",  # the relay purges, knowing who is owed what
    "discard": "new",  # full means refused, never silently forgotten
    "max_age": 0,
    "max_msgs": -1,
    "max_msg_size": -1,
    "allow_direct": True,
    "allow_atomic": True,
    "duplicate_window": _DUPLICATE_WINDOW,
    "no_ack": False,
    "sealed": False,
    "deny_purge": False,
    "mirror": None,
    "sources": None,
    "subject_transform": None,
    "persist_mode": None,
}
# What a stream may have more of than asked for, where we only check; -1 is without limit.
_AT_LEAST: Final = frozenset(("num_replicas", "max_bytes", "duplicate_window"))


class Api(Protocol):
    """`relay.queue.jetstream.link.Link` is one."""

    async def api(self, subject: str, body: Mapping[str, object] | None = None) -> dict[str, Any]: ...


async def ensure(link: Api, config: JetStreamQueueConfig, *, log: Log) -> None:
    """Have both streams as they must be: made and changed with `manage`, else only checked.

    Raises `QueueError` that names everything that is not as it must be and could not be changed.
    """
    problems: list[str] = []
    for wanted in streams(config):
        found = await _found(link, wanted["name"])
        if config.manage:
            await _bring_about(link, wanted, found, log)
        elif found is None:
            problems.append(f"there is no stream {wanted['name']}")
        else:
            problems += _deviations(wanted, found, at_least=True)
    if problems:
        raise QueueError(f"with manage: false the streams must be right already: {'; '.join(problems)}")


def streams(config: JetStreamQueueConfig) -> tuple[Settings, Settings]:
    """The settings that both streams must have."""
    prefix = config.stream
    common: dict[str, Any] = {**_COMMON, "num_replicas": config.replicas}
    if config.placement is not None:
        placement = {"cluster": config.placement.cluster, "tags": list(config.placement.tags or ())}
        common["placement"] = {key: value for key, value in placement.items() if value}
    events = {
        **common,
        "name": prefix,
        "subjects": [f"{prefix}.events.>"],
        "max_msgs_per_subject": -1,
        "max_bytes": config.max_bytes,
    }
    state = {
        **common,
        "name": f"KV_{prefix}-state",
        "subjects": [f"$KV.{prefix}-state.>"],
        "max_msgs_per_subject": 1,
        # The relay keeps both streams together below `max_bytes`; a limit of its own would stop progress from
        # being stored just when space has to be given back.
        "max_bytes": -1,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }
    return events, state


async def _bring_about(link: Api, wanted: Settings, found: Settings | None, log: Log) -> None:
    """Create the stream, or change what is not as *wanted*."""
    name = wanted["name"]
    if found is None:
        made = await _create(link, wanted)
        if made is not None:
            log.info("queue.stream_created", stream=name, replicas=wanted["num_replicas"])
            found = made
        else:  # by another relay that started at the same time
            found = await _found(link, name) or {}
    changes = _deviations(wanted, found)
    if not changes:
        return
    if found.get("subjects") != wanted["subjects"]:
        # What was made for something else would be purged by our rules.
        theirs = ", ".join(found.get("subjects") or ()) or "none"
        raise QueueError(
            f"the stream {name} is somebody else's: its subjects are {theirs}; choose another `queue.stream`"
        )
    try:
        answer = await _patiently(link, f"STREAM.UPDATE.{name}", _body({**found, **wanted}))
    except (ApiError, QueueFull) as error:
        raise QueueError(f"{'; '.join(changes)}; {_why(error)}") from error
    if left := _deviations(wanted, answer["config"]):
        raise QueueError(f"NATS does not take over: {'; '.join(left)}")
    log.info("queue.stream_changed", stream=name, changes=changes)


async def _create(link: Api, wanted: Settings) -> Settings | None:
    """The settings the stream got; None where it exists meanwhile."""
    name = wanted["name"]
    try:
        made: Settings = (await _patiently(link, f"STREAM.CREATE.{name}", _body(wanted)))["config"]
    except (ApiError, QueueFull) as error:
        if isinstance(error, ApiError) and error.err_code == _EXISTS:
            return None
        raise QueueError(f"the stream {name} cannot be created; {_why(error)}") from error
    return made


async def _found(link: Api, name: str) -> Settings | None:
    """The stream's present settings."""
    try:
        found: Settings = (await _patiently(link, f"STREAM.INFO.{name}"))["config"]
    except ApiError as error:
        if error.err_code in NOT_FOUND:
            return None
        raise
    return found


async def _patiently(link: Api, subject: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Ask as long as a server is missing or the stream has no leader; asking again changes nothing."""
    lacking: QueueError = QueueError(f"NATS has no leader for JetStream, for {_PATIENCE_SECONDS:g} s already")
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                try:
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        answer = await link.api(subject, body)
                    # A stream without a leader is there, but whatever it is asked next would be lost.
                    if answer.get("cluster", {"leader": "itself"}).get("leader"):
                        return answer
                except ApiError as error:
                    if _OFFLINE not in str(error):
                        raise
                    lacking = error
                except (Leaderless, Silent, TimeoutError):
                    pass
                await pause()
    except TimeoutError:
        raise lacking from None


def _deviations(wanted: Settings, found: Settings, *, at_least: bool = False) -> list[str]:
    """One sentence for each setting that is not as *wanted*."""
    return [
        f"{wanted['name']} has {key} {_shown(found.get(key))}, expected {_shown(value)}"
        for key, value in wanted.items()
        if not _alike(key, value, found.get(key), at_least=at_least)
    ]


def _alike(key: str, wanted: Any, found: Any, *, at_least: bool) -> bool:
    if at_least and key in _AT_LEAST and isinstance(found, int):
        return found == -1 or (wanted != -1 and found >= wanted)
    if at_least and key == "deny_delete":  # what buckets have; the relay deletes nothing that way
        return True
    if key == "persist_mode":
        return found in (None, "", "default")
    if key == "placement" and isinstance(found, dict):
        found = {part: value for part, value in found.items() if value}
    return (wanted or None) == (found or None)


def _body(settings: Settings) -> dict[str, object]:
    """As a request: servers refuse fields they do not know, so those that are off are left out."""
    return {key: value for key, value in settings.items() if value is not None and value is not False}


def _shown(value: Any) -> str:
    return "unset" if value is None else orjson.dumps(value).decode()


def _why(error: QueueError) -> str:
    """The server's sentence, and what it may be asking for."""
    text = str(error)
    for part, advice in _ADVICE.items():
        if part in text:
            return f"{text}: {advice}"
    return text


_ADVICE: Final = {
    "replicas > 1 not supported": "a single server can only hold replicas: 1",
    "insufficient storage": "the servers have no room for max_bytes",  # first: it makes peers unsuitable
    "no suitable peers": "too few servers of the cluster fit replicas and placement",
    "insufficient resources": "too few servers of the cluster have room for max_bytes",
    "move and scale": "change replicas or placement, and the other one when that is done",
    "overlap": "another stream takes the subjects; choose another stream in the configuration",
}
