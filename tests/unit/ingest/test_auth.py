"""Who may send."""

from __future__ import annotations

import pytest

from relay.config.schema import Source
from relay.ingest.auth import Gate


def gate(*sources: tuple[str, list[str]]) -> Gate:
    return Gate([Source.model_validate({"name": name, "authorization": values}) for name, values in sources])


@pytest.mark.parametrize(
    "given",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer s3cre",
        "Bearer s3cret2",
        "bearer s3cret",
        "s3cret",
        "Bearer  s3cret",
    ],
)
def test_anything_but_the_exact_value_is_refused(given: str) -> None:
    """Scheme, case and inner spaces count; a part of the value opens nothing."""
    assert not gate(("eu", ["Bearer s3cret"])).admits("eu", given)


def test_header_bytes_that_are_no_text_are_refused() -> None:
    """A header that is not UTF-8 is wrong, not an error."""
    assert not gate(("eu", ["Bearer s3cret"])).admits("eu", "Bearer \udcff")


def test_a_source_does_not_open_another() -> None:
    """Each source has its own credentials."""
    both = gate(("eu", ["one"]), ("us", ["two"]))

    assert not both.admits("us", "one")
    assert not both.admits("eu", "two")


def test_an_unknown_source_admits_nobody() -> None:
    """Without a source there is nothing to be admitted to, whatever is shown."""
    assert not gate(("eu", ["one"])).admits(None, "one")


@pytest.mark.parametrize("given", ["old", "new", "  new\t"])
def test_each_accepted_value_opens(given: str) -> None:
    """During rotation several values are right; white space around them is not part of them."""
    assert gate(("eu", ["old", " new "])).admits("eu", given)


def test_credentials_are_not_kept_in_the_clear() -> None:
    """Whoever gets to see the gate's memory does not see a secret."""
    assert "s3cret" not in repr(vars(gate(("eu", ["Bearer s3cret"]))))
