"""YAML and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.document import dotted, read
from relay.errors import ConfigError


def content_of(tmp_path: Path, text: str, **environ: str) -> object:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    document = read(path, environ)
    assert document.problems == ()
    return document.content


def refusal_of(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as refused:
        read(path, {})
    return str(refused.value).removeprefix(f"{path}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The message says which file cannot be read and why."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file or directory"):
        read(tmp_path / "nowhere.yaml", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: \xff", "cannot be read: it is not UTF-8 text"),
        ("a: {b: 1", "line 1, column 9: expected ',' or '}', but got …"),
        ("a: 1\nb:\n  a: 1\n  a: 2", "line 4, column 3: the key a is given twice"),
        ("token: *s3cret", "line 1, column 8: found undefined alias …"),
        ("token: !s3cret x", "line 1, column 8: could not determine a constructor for the tag …"),
        ("token: %s3cret", "line 1, column 8: found character '%' that cannot start any token"),
        ("a: \x00", "not a YAML document"),
        ("a: " + "[" * 5000, "not a YAML document"),
        ("a: &a [*a]", "not a YAML document"),
        ("a: " + "9" * 5000, "not a YAML document"),
    ],
)
def test_what_is_no_yaml_is_refused_without_quoting_it(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    """A syntax error says where it is; it never repeats what may be a secret."""
    assert refusal_of(tmp_path, text) == message


def test_words_stay_words(tmp_path: Path) -> None:
    """`off` is no boolean, a time no number of seconds, a date no date, 010 not 8."""
    text = "[off, on, yes, no, 12:30:00, 2026-01-01, 010, 1_000, true, False, 7, -1, 0.5, ~]"

    assert content_of(tmp_path, text) == [
        *("off", "on", "yes", "no", "12:30:00", "2026-01-01", "010", "1_000"),
        *(True, False, 7, -1, 0.5, None),
    ]


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    """A key that overrides a merged one is not given twice."""
    text = "base: &base {a: 1, b: 2}\none: {<<: *base, b: 3}\ntwo: {<<: *base, a: 4}"

    assert content_of(tmp_path, text) == {
        "base": {"a": 1, "b": 2},
        "one": {"a": 1, "b": 3},
        "two": {"a": 4, "b": 2},
    }


def test_a_key_without_a_value_is_not_given(tmp_path: Path) -> None:
    """A section whose keys are all commented out falls back to its defaults."""
    assert content_of(tmp_path, "logging:\na: {b: }") == {"a": {}}


@pytest.mark.parametrize(
    ("written", "expanded"),
    [
        ("${NAME}", "value"),
        ("Bearer ${NAME}", "Bearer value"),
        ("${NAME}${NAME}", "valuevalue"),
        ("${NONE:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${NAME:-default}", "value"),
        ("${NONE:-}", ""),
        ("${EMPTY}", ""),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}$$", "$value$"),
        ("a$b$", "a$b$"),
        ("${ODD}", "${NAME} $$"),
    ],
)
def test_the_environment_is_filled_in(tmp_path: Path, written: str, expanded: str) -> None:
    """References are replaced once, defaults stand in for unset and empty variables, `$$` is a dollar."""
    text = f"- a: '{written}'"

    assert content_of(tmp_path, text, NAME="value", EMPTY="", ODD="${NAME} $$") == [{"a": expanded}]


def test_every_reference_that_cannot_be_filled_in_is_told(tmp_path: Path) -> None:
    """Each problem comes with its place."""
    path = tmp_path / "c.yaml"
    path.write_text("a: ['${ONE}', '${TWO} ${THREE}']\nb: {c: '${FO O}'}")

    problems = [f"{dotted(loc)}: {message}" for loc, message in read(path, {"TWO": ""}).problems]

    assert problems == [
        "a[0]: the environment variable ONE is not set",
        "a[1]: the environment variable THREE is not set",
        "b.c: expected ${NAME} or ${NAME:-default}; a plain ${ is written $${",
    ]


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without another mapping, variables come from the process."""
    monkeypatch.setenv("RELAY_TEST_VARIABLE", "here")
    path = tmp_path / "c.yaml"
    path.write_text("a: ${RELAY_TEST_VARIABLE}")

    assert read(path).content == {"a": "here"}
