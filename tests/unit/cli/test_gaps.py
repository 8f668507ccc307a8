"""`gaps close` says which it wants to be told, and nothing is asked of a relay before that."""

from __future__ import annotations

import pytest

from relay.cli.main import main

NOBODY = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "say which: one ID or several, or else --all"),
        (["3", "--all"], 2, "say which: one ID or several, or else --all"),
        (["3", "0"], 2, "greater than or equal to 1"),
        (["3", "4"], 1, "No relay answers at http://127.0.0.1:1"),
        (["--all", "--yes"], 1, "No relay answers at http://127.0.0.1:1"),
    ],
)
def test_which_gaps_to_close_is_said_once(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    """By id or all of them; wrong usage is 2, a relay that does not answer is 1."""
    with pytest.raises(SystemExit) as exit_:
        main(["gaps", "close", *arguments, "--admin-url", NOBODY])

    assert exit_.value.code == code
    assert says in capsys.readouterr().err
