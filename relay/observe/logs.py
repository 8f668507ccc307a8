"""Structured logs: one JSON object a line, or coloured text for a terminal.

Owns the set-up of structlog and of the standard library's logging, which aiohttp and asyncio
use. Never sees an event's content or a secret: whoever logs passes names, counts and times, and
secrets print as `<secret>`.
"""

from __future__ import annotations

import logging
import sys
from typing import BinaryIO, Final, Literal, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

Log = FilteringBoundLogger
Level = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "console"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SHARED: Final[tuple[Processor, ...]] = (
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
# Without local variables, which hold event lines and credentials.
_JSON_TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(level: Level = "info", form: LogFormat = "json", stream: BinaryIO | None = None) -> Log:
    """Set up logging for the process and return its logger.

    Written to *stream*, by default standard error: standard output belongs to what a command was
    asked for. Calls below *level* cost next to nothing, as they are bound to an empty method.
    """
    out = stream or sys.stderr.buffer
    structlog.configure(
        processors=[*_SHARED, *_renderer(form, out)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(out),
        # `relay run` configures once; tests and a reload do it again and must not keep the old logger.
        cache_logger_on_first_use=False,
    )
    # Bound here and handed on as an argument, so that the configuration is looked up only once.
    log = cast("Log", structlog.get_logger().bind())
    _adopt_standard_logging(log)
    return log


def _renderer(form: LogFormat, out: BinaryIO) -> tuple[Processor, ...]:
    if form == "json":
        return (_JSON_TRACEBACKS, _render_json)
    console = structlog.dev.ConsoleRenderer(
        colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
    )

    def render_console(log: WrappedLogger, method: str, event: EventDict) -> bytes:
        return console(log, method, event).encode()

    return (render_console,)


def _render_json(log: WrappedLogger, method: str, event: EventDict) -> bytes:
    # What JSON has no form for, a path or a secret among it, is written as its str().
    return orjson.dumps(event, default=str)


def _adopt_standard_logging(log: Log) -> None:
    """Give warnings of the libraries below us the same form and the same way out."""
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(old)
    root.addHandler(_Bridge(log))
    root.setLevel(logging.WARNING)


class _Bridge(logging.Handler):
    """Passes records of the standard library's logging on to structlog."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write("library.message", logger=record.name, message=record.getMessage(), exc_info=record.exc_info)
