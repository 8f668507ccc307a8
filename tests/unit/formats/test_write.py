"""What holds for every writing, whatever was read."""

from __future__ import annotations

from typing import get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.formats.write import Writing, write
from relay.konnect.lines import format_of
from relay.konnect.parse import parse
from relay.model import Format
from tests.fakes.chunks import sample
from tests.unit.formats.schemas import against_ecs, against_ocsf

WRITINGS: tuple[Writing, ...] = get_args(Writing)
SAMPLES = [line for name in ("cef", "json", "cps", "edge_unproven") for line in sample(name)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sample with something else in the place of a part of it."""
    line = draw(st.sampled_from(SAMPLES))
    start = draw(st.integers(0, len(line)))
    end = draw(st.integers(start, min(len(line), start + 30)))
    pieces = [
        b"",
        b" ",
        b"=",
        b"|",
        b'"',
        b"\\",
        b"\xff",
        b"\r",
        b'"x":1e5,',
        b"null",
        b" sig=",
        b" rt=1 x=",
        b" severity=",
        b'" severity":',
        b"\\ud800",
    ]
    return line[:start] + draw(st.sampled_from(pieces)) + line[end:]


@pytest.mark.parametrize("writing", WRITINGS)
@given(line=damaged())
def test_whatever_was_read_gives_a_line(writing: Writing, line: bytes) -> None:
    """One line, of the format asked for, that keeps to the schema."""
    record = parse(line)
    if record is None:
        return

    written = write(
        record, writing, event_id="0" * 32, received=line, source="us", received_at=1_750_280_500.25
    )

    assert b"\n" not in written
    assert b"\r" not in written
    match writing:
        case "cef":
            assert parse(written) is not None
            assert format_of(written) is Format.CEF
        case "json" | "cps":
            assert format_of(written) == writing
            assert parse(written) is not None
        case "ecs":
            assert against_ecs(orjson.loads(written)) == []
        case "ocsf":
            assert against_ocsf(orjson.loads(written)) == []


@given(line=damaged())
def test_json_written_twice_is_the_same(line: bytes) -> None:
    """A conversion of a conversion changes nothing more."""
    record = parse(line)
    if record is None:
        return
    once = write(record, "json", event_id="", received=b"", source="")

    again = parse(once)

    assert again is not None
    assert write(again, "json", event_id="", received=b"", source="") == once
