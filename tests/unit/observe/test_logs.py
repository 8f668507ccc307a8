"""Log lines: their form, and what never gets into them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from relay.config.secret import Secret
from relay.model import DestinationState
from relay.observe.logs import configure


@pytest.fixture
def stream() -> Iterator[io.BytesIO]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield io.BytesIO()
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_line_is_one_json_object(stream: io.BytesIO) -> None:
    """Event name, level and time stand beside what the caller says."""
    configure("info", "json", stream).info(
        "destination.held", destination="sumo", state=DestinationState.HELD
    )

    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "destination.held", "level": "info", "destination": "sumo", "state": "held"}


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_is_never_written(stream: io.BytesIO, form: str) -> None:
    """Not as a value, not inside one, not as a local variable of a stack trace."""
    log = configure("info", "json" if form == "json" else "console", stream)
    token = Secret("hunter2")

    def refuse(password: str) -> None:
        raise RuntimeError(f"refused {len(password)} characters")

    try:
        refuse(token.reveal())
    except RuntimeError:
        log.exception("boom", token=token, nested={"tokens": [token]})
        logging.getLogger("aiohttp.server").exception("Error handling request")

    assert b"hunter2" not in stream.getvalue()
    assert b"<secret>" in stream.getvalue()
    assert b"refused 7 characters" in stream.getvalue()


def test_what_is_below_the_level_is_not_written(stream: io.BytesIO) -> None:
    """A call below the level does nothing at all."""
    log = configure("warning", "json", stream)

    log.info("ingest.request")
    logging.getLogger("aiohttp").info("chatter")

    assert stream.getvalue() == b""


def test_libraries_write_in_the_same_form(stream: io.BytesIO) -> None:
    """A warning of asyncio is one JSON object too, once, however often logging is set up."""
    configure("info", "json", stream)
    configure("info", "json", stream)

    logging.getLogger("asyncio").warning("slow %s", "callback")

    line = json.loads(stream.getvalue())
    assert (line["event"], line["message"], line["logger"]) == ("library.message", "slow callback", "asyncio")


def test_the_console_form_is_for_people(stream: io.BytesIO) -> None:
    """Without a terminal there are no colour codes."""
    configure("info", "console", stream).info("relay.started", port=8071)

    assert b"relay.started" in stream.getvalue()
    assert b"\x1b" not in stream.getvalue()
