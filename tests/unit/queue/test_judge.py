"""How many signatures one request may have checked."""

from __future__ import annotations

import pytest

from relay.queue.dedup import judge
from tests.fakes.events import NOW
from tests.fakes.judging import Keys, forged
from tests.fakes.konnect import Maker
from tests.fakes.konnect.writing import line


async def test_beyond_the_limit_nothing_stands_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not checked counts as forged: its copy is kept. Lines given twice are checked once."""
    monkeypatch.setattr(judge, "_MOST", 3)
    keys = Keys()
    true = [line(event, "cef", stamp=NOW) for event in Maker().some(3, at=NOW)]
    bad = forged(true[0])

    found = await judge.vouch(keys, "eu", [true[0], true[0], bad, true[1], true[2]])

    assert found == {true[0]: True, bad: False, true[1]: True, true[2]: False}
    assert keys.asked == 3


async def test_without_a_question_nobody_is_asked() -> None:
    """No thread is started for nothing."""
    assert await judge.vouch(Keys(), "eu", []) == {}
