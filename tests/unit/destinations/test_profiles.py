"""What a profile fills in, what it leaves alone, and what it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from relay.destinations.http import HttpConfig, statuses
from relay.destinations.profiles import PROFILES, ProfileName

URL = "https://siem.example.com/s3cret"
PAGE = (Path(__file__).parents[3] / "docs" / "destinations" / "profiles.md").read_text()


def config(**settings: Any) -> HttpConfig:
    return HttpConfig.model_validate({"name": "siem", "type": "http", "url": URL, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": "splunk"}, "Input should be 'panther', 'cortex_xsiam'"),
        ({"profile": ["panther"]}, "Input should be 'panther', 'cortex_xsiam'"),
        ({"profile": "panther", "bearer": "s3cret", "batch": [1]}, "valid dictionary"),
        ({"profile": "panther", "bearer": "s3cret", "batch": {"max_event": 1}}, "Extra inputs"),
        (
            {"profile": "panther"},
            "the profile panther needs `authorization` or `bearer` or `basic` or `headers`",
        ),
        ({"profile": "cortex_xsiam"}, "needs `authorization`: the collector's API key, without a scheme"),
        ({"profile": "cortex_xsiam", "bearer": "s3cret"}, "the profile cortex_xsiam needs `authorization`"),
        (
            {"profile": "exabeam", "authorization": ""},
            "needs `authorization` or `bearer`: the collector's token",
        ),
        ({"profile": "dynatrace"}, "needs `authorization` or `bearer`: `Api-Token <token>` with the scope"),
        (
            {"profile": "dynatrace", "authorization": "s3cret"},
            "the profile dynatrace expects an `authorization` that begins with 'Api-Token ' or 'Bearer '",
        ),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    """What a vendor cannot do without is asked for when the configuration is read."""
    with pytest.raises(ValidationError) as caught:
        config(**settings)

    assert message in str(caught.value)
    assert "s3cr" not in str(caught.value)


def test_a_header_may_hold_the_credential() -> None:
    """An Authorization header among `headers` is as good as the key of that name."""
    assert config(profile="cortex_xsiam", headers={"authorization": "key"}).profile == "cortex_xsiam"


def test_filled_in() -> None:
    """What was left out is the vendor's."""
    given = config(profile="dynatrace", authorization="Api-Token x")

    assert given.framing == "json_array"
    assert given.content_type == "application/json; charset=utf-8"
    assert (given.batch.max_events, given.batch.max_bytes, given.batch.compression) == (
        5000,
        4_000_000,
        "gzip",
    )
    assert statuses(given.success) == {200, 204}


def test_what_is_set_wins() -> None:
    """Each setting of the user's stands, also the rest of a section he set one key of."""
    given = config(
        profile="dynatrace",
        bearer="x",
        framing="ndjson",
        success=[202],
        batch={"max_events": 7, "compression": "none"},
    )

    assert given.framing == "ndjson"
    assert given.content_type is None  # the vendor's belongs to another framing
    assert statuses(given.success) == {202}
    assert (given.batch.max_events, given.batch.max_bytes, given.batch.compression) == (7, 4_000_000, "none")


def test_without_a_profile_nothing_changes() -> None:
    """The defaults are those of `http`."""
    assert config().model_dump() == config(profile=None).model_dump()
    assert config().framing == "lines"


def test_every_name_has_a_profile() -> None:
    """The names in the configuration's type are those of the table."""
    assert list(PROFILES) == list(get_args(ProfileName))


@pytest.mark.parametrize("name", list(PROFILES))
def test_page(name: str) -> None:
    """Each profile has its section, and the example in it is valid and uses it."""
    section = PAGE.split(f"\n## `{name}`")[1].split("\n## ")[0]
    example = section.split("```yaml\n")[1].split("```")[0]

    (settings,) = yaml.safe_load(example.replace("${SIEM_TOKEN}", "token"))["destinations"]

    assert HttpConfig.model_validate(settings).profile == name
