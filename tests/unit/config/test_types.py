"""Durations, sizes and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from relay.config.types import FROM_FILE, Duration, Name, Size, Whole, format_duration, format_size

DURATION: TypeAdapter[float] = TypeAdapter(Duration)
SIZE: TypeAdapter[int] = TypeAdapter(Size)
NAME: TypeAdapter[str] = TypeAdapter(Name)
WHOLE: TypeAdapter[int] = TypeAdapter(Whole)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("1.5s", 1.5), ("5m", 300), ("2h", 7200), ("7d", 604800), ("0s", 0)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    """Each unit counts as what it says."""
    assert DURATION.validate_python(text, context=FROM_FILE) == seconds


@pytest.mark.parametrize(
    "value", ["", "30", "s", "-1s", "1 fortnight", "1e3s", 30, 0, 1.5, True, None, ["1s"]]
)
def test_a_duration_from_a_file_needs_a_unit(value: object) -> None:
    """A bare number could be anything, so it is refused."""
    with pytest.raises(ValidationError, match="expected a duration such as 30s"):
        DURATION.validate_python(value, context=FROM_FILE)


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), True])
def test_a_duration_in_code_is_a_finite_number_of_seconds(value: float) -> None:
    """Code may say seconds as a number, but not any number."""
    assert DURATION.validate_python(2) == 2.0
    with pytest.raises(ValidationError):
        DURATION.validate_python(value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65536),
        ("10MiB", 10485760),
        ("1.5GiB", 1610612736),
        ("1TiB", 2**40),
        ("1kB", 1000),
        ("2 MB", 2000000),
        ("3GB", 3 * 10**9),
        ("1TB", 10**12),
        ("7B", 7),
        ("7", 7),
        (7, 7),
    ],
)
def test_sizes_are_bytes(text: str | int, size: int) -> None:
    """Binary and decimal units differ; a bare number is bytes."""
    assert SIZE.validate_python(text) == size


@pytest.mark.parametrize("value", ["", "MiB", "-1MiB", "10mib", "10M", -1, 1.5, True, None])
def test_other_sizes_are_refused(value: object) -> None:
    """A size that leaves doubt is an error."""
    with pytest.raises(ValidationError, match="expected a size such as 10MiB"):
        SIZE.validate_python(value)


@given(st.integers(0, 10**9).map(lambda n: n / 1000))
def test_durations_survive_printing(seconds: float) -> None:
    """What is shown in the units of the file means the same when read again."""
    assert DURATION.validate_python(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@given(st.integers(0, 2**60))
def test_sizes_survive_printing(size: int) -> None:
    """What is shown in the units of the file means the same when read again."""
    assert SIZE.validate_python(format_size(size)) == size


def test_printing_takes_the_largest_unit() -> None:
    """Nobody wants to read 604800s."""
    assert [format_duration(s) for s in (604800, 90, 300, 0.5, 0, 0.0001)] == [
        *("7d", "90s", "5m", "500ms", "0s", "0.0001s")
    ]
    assert [format_size(s) for s in (10 * 2**30, 2**20, 10**6, 1500, 0)] == [
        *("10GiB", "1MiB", "1MB", "1500", "0")
    ]


@pytest.mark.parametrize("name", ["Konnect", "", "-a", ".a", "a b", "a/b", "ä", "a\n"])
def test_names_fit_into_urls_labels_and_files(name: str) -> None:
    """Anything that would have to be escaped somewhere is refused."""
    assert NAME.validate_python("konnect-us.1_b") == "konnect-us.1_b"
    with pytest.raises(ValidationError, match="expected a name of lower-case letters"):
        NAME.validate_python(name)


def test_true_is_not_one() -> None:
    """A boolean where a number belongs is a mistake."""
    assert WHOLE.validate_python("3") == 3
    with pytest.raises(ValidationError, match="expected a whole number, got true"):
        WHOLE.validate_python(True)
