"""Where a queue is, as `queue migrate` has it: a file, or streams on NATS.

Owns the form of a place. Engines are imported only where one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import typer

from relay.clock import SystemClock
from relay.errors import RelayError

if TYPE_CHECKING:
    from relay.config.queue import JetStreamQueueConfig
    from relay.observe.logs import Log
    from relay.queue.moving import Store, Target

FORMS: Final = "sqlite:PATH, jetstream:CONFIG.yaml or jetstream:nats://HOST:4222,HOST:4222?stream=NAME"
_SCHEMES: Final = ("nats://", "tls://")
# What identifies us to the server is in none of them: everybody on the machine sees a command's arguments.
_KEYS: Final = frozenset(("stream", "replicas", "max_bytes"))


async def open_store(place: str, stack: AsyncExitStack) -> Store:
    """The queue at *place*, to be moved away. Raises `typer.BadParameter` or `RelayError`."""
    kind, rest = _split(place)
    if kind == "sqlite":
        from relay.queue.sqlite import moving as sqlite

        return stack.enter_context(sqlite.open_store(Path(rest)))
    from relay.queue.jetstream import moving as jetstream

    config, _ = _jetstream(rest)
    return await stack.enter_async_context(jetstream.open_store(config, log=_log()))


async def open_target(place: str, stack: AsyncExitStack) -> Target:
    """The queue that will be at *place*. Raises `typer.BadParameter` or `RelayError`."""
    kind, rest = _split(place)
    if kind == "sqlite":
        from relay.queue.sqlite import moving as sqlite

        return stack.enter_context(sqlite.open_target(Path(rest)))
    from relay.queue.jetstream import moving as jetstream

    config, windows = _jetstream(rest)
    opened = jetstream.open_target(config, windows=windows, clock=SystemClock(), log=_log())
    return await stack.enter_async_context(opened)


def _split(place: str) -> tuple[str, str]:
    kind, _, rest = place.partition(":")
    if kind not in ("sqlite", "jetstream") or not rest:
        raise typer.BadParameter(f"{place!r} is no place of a queue; write {FORMS}")
    return kind, rest


def _jetstream(where: str) -> tuple[JetStreamQueueConfig, Mapping[str, float | None]]:
    """How to reach it, and the deduplication windows of its sources as far as they are known."""
    if where.startswith(_SCHEMES):
        return _addressed(where), {}
    from relay.cli.configuration import load_config
    from relay.config.queue import JetStreamQueueConfig

    config = load_config(Path(where)).config
    if not isinstance(config.queue, JetStreamQueueConfig):
        raise RelayError(
            f"the `queue` section of {where} is that of a SQLite queue; write sqlite:PATH for it"
        )
    return config.queue, {source.name: source.deduplicate for source in config.sources}


def _addressed(url: str) -> JetStreamQueueConfig:
    from pydantic import ValidationError

    from relay.config.queue import JetStreamQueueConfig

    addresses, _, query = url.partition("?")
    scheme = next(each for each in _SCHEMES if url.startswith(each))
    servers = [each if "://" in each else scheme + each for each in addresses.split(",")]
    settings = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(settings.keys() - _KEYS):
        raise typer.BadParameter(
            f"{', '.join(unknown)} cannot be given in a URL, only {', '.join(sorted(_KEYS))};"
            " for everything else write jetstream:CONFIG.yaml"
        )
    try:
        return JetStreamQueueConfig.model_validate({"type": "jetstream", "servers": servers, **settings})
    except ValidationError as error:
        problems = [f"{each['loc'][0]}: {each['msg']}" for each in error.errors(include_url=False)]
        raise typer.BadParameter("; ".join(problems)) from None


def _log() -> Log:
    from relay.observe import logs

    return logs.configure("warning", "console")
