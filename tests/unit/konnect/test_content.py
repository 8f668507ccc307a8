"""What an event says: neither its signature nor the time at which it was written down."""

from __future__ import annotations

import re
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.konnect.content import content, content_names
from relay.konnect.lines import event_ids
from relay.queue.dedup.fingerprint import event_hashes
from tests.fakes.judging import forged, unsigned
from tests.fakes.konnect import Maker
from tests.fakes.konnect.writing import LogFormat, line

FORMATS = get_args(LogFormat)
NOW = 1_795_000_000.0

every_format = pytest.mark.parametrize("log_format", FORMATS)


@every_format
def test_stamp_and_signature_are_left_out(log_format: LogFormat) -> None:
    """Written at another time and signed anew, forged or not signed: it says the same."""
    for event in Maker().some(9, at=NOW):
        first, again = (line(event, log_format, stamp=NOW + at) for at in (0, 3600))

        assert first != again
        assert len({content(each) for each in (first, again, forged(first), unsigned(again))}) == 1


@every_format
def test_everything_else_counts(log_format: LogFormat) -> None:
    """A changed byte anywhere but there makes another content."""
    (whole,) = [line(event, log_format, stamp=NOW) for event in Maker().some(1, at=NOW)]
    kept = content(whole)
    free = [
        m.span()
        for m in re.finditer(rb'2026-11-18T\d\d:\d\d:\d\dZ( konghq.com )?|[\w-]{86}(?=["}]*$)', whole)
    ]
    for at in range(len(whole)):
        changed = whole[:at] + (b"~" if whole[at : at + 1] != b"~" else b"^") + whole[at + 1 :]
        if not any(start <= at < end for start, end in free):
            assert content(changed) != kept, changed


@every_format
def test_the_hash_is_that_of_the_content(log_format: LogFormat) -> None:
    """Whoever says the same under a signature of the same length is looked for in the same places."""
    for event in Maker().some(9, at=NOW):
        first, again = (line(event, log_format, stamp=NOW + at) for at in (0, 3600))

        assert len({*event_hashes([first, again, forged(first)])}) == 1


def test_without_a_time_of_its_own_the_stamp_counts() -> None:
    """Else two events of which nothing tells the time would be one."""
    one, two = (b'{"event_ts":"2026-11-18T10:26:4%dZ","name":"x"}' % n for n in (0, 1))

    assert content(one) != content(two)


@pytest.mark.parametrize(
    "text",
    [
        b"CEF:0|x user_agent=a sig=short",
        b"CEF:0|x user_agent=sig=" + b"A" * 86,
        b"CEF:0|x sig=" + b"A" * 86 + b" more=1",
        b"CEF:0|x sig=" + b"A" * 80 + b" more=",
        b'{"ua":",\\"sig\\":\\"' + b"A" * 86 + b'\\"","rt":1}',
        b'{"sig":"' + b"A" * 85 + b'"}',
        b"",
        b"sig=" + b"A" * 86,
    ],
)
def test_what_is_no_signature_stays(text: bytes) -> None:
    """A caller writes what he likes into his user agent."""
    assert content(text) == text


def test_a_signature_in_front() -> None:
    """JSON says nothing about the order of keys."""
    assert content(b'{"sig":"' + b"A" * 86 + b'","name":"x"}') == b'{"name":"x"}'
    assert content(b'{"name":"x","sig":"' + b"A" * 86 + b'","z":1}') == b'{"name":"x","z":1}'


@given(st.lists(st.sampled_from([b"a", b"b", b"CEF:0|c", b'{"rt":1}']), max_size=12), st.integers(0, 12))
def test_names_are_numbered_over_a_whole_request(lines: list[bytes], cut: int) -> None:
    """However it is cut; and no name is an event id."""
    twins: Counter[str] = Counter()
    parts = [content_names(part, twins=twins) for part in (lines[:cut], lines[cut:])]

    assert [*parts[0], *parts[1]] == content_names(lines)
    assert set(content_names(lines)).isdisjoint(event_ids(lines))
    assert len(set(content_names(lines))) == len(lines)


def test_what_is_left_of_a_batch_keeps_its_numbers() -> None:
    """A batch from which known twins were removed."""
    names = content_names([b"a"] * 3)

    assert content_names([b"a", b"a"], [1, 2]) == names[1:]
    assert content_names([b"a"], [2]) == names[2:]


@given(st.binary(max_size=300).filter(lambda text: b"\n" not in text))
def test_any_line_has_a_content_and_a_hash(text: bytes) -> None:
    """Whatever comes in."""
    assert content(content(text) + b" sig=" + b"A" * 86) is not None
    assert len({*event_hashes([text]), *event_hashes([text, text])}) == 1
