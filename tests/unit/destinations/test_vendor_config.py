"""What the settings of single vendors refuse, without a word of a secret."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from relay.destinations.registry import CONFIG_TYPES

BASE: dict[str, dict[str, object]] = {
    "elasticsearch": {"url": "https://siem.example.com/s3cret"},
    "datadog": {"api_key": "s3cret"},
    "loki": {"url": "https://siem.example.com/s3cret"},
    "newrelic": {"license_key": "s3cret"},
}


@pytest.mark.parametrize(
    ("type_name", "settings", "message"),
    [
        ("elasticsearch", {"bearer": "s3cret", "api_key": "s3cret"}, "at most one way to authenticate"),
        ("elasticsearch", {"bearer": "s3cret", "authorization": "s3cret"}, "at most one way to authenticate"),
        ("elasticsearch", {"api_key": "id:s3cret"}, "the `encoded` value of `api_key`, not `id:key`"),
        ("elasticsearch", {"api_key": "s3cret\n"}, "one line of Latin-1"),
        ("elasticsearch", {"index": "logs-*"}, "String should match"),
        ("elasticsearch", {"index": "_all"}, "String should match"),
        ("elasticsearch", {"index": "a/_bulk?b"}, "String should match"),
        ("elasticsearch", {"pipeline": ""}, "at least 1 character"),
        ("loki", {"labels": {}}, "at least 1 item"),
        ("loki", {"labels": {"a-b": "c"}}, "String should match"),
        ("loki", {"labels": {"a": ""}}, "at least 1 character"),
        ("loki", {"labels": {f"l{n}": "x" for n in range(16)}}, "at most 15 items"),
        ("loki", {"tenant": "a\nb"}, "one line of Latin-1"),
        ("loki", {"basic": {"username": "a", "password": "s3cret"}, "bearer": "s3cret"}, "at most one way"),
        ("newrelic", {"region": "mars"}, "'us', 'eu', 'jp' or 'gov'"),
        ("newrelic", {"license_key": ""}, "must not be empty"),
        ("newrelic", {"license_key": "s3cret\n"}, "one line of Latin-1"),
        ("newrelic", {"url": "ftp://s3cret"}, "expected a URL such as"),
        ("datadog", {"api_key": ""}, "must not be empty"),
        ("datadog", {"api_key": "s3cret\n"}, "one line of Latin-1"),
        ("datadog", {"site": "https://app.datadoghq.com"}, "String should match"),
        ("datadog", {"site": "datadoghq.com/s3cret"}, "String should match"),
        ("datadog", {"site": 5}, "valid string"),
        ("datadog", {"url": "ftp://s3cret"}, "expected a URL such as"),
        ("datadog", {"tags": ["env:prod,team:s3cret"]}, "String should match"),
        ("datadog", {"batch": {"max_events": 1001}}, "less than or equal to 1000"),
    ],
)
def test_refused(type_name: str, settings: dict[str, object], message: str) -> None:
    """A request that could not be made well is refused when the configuration is read."""
    whole = {"name": "siem", "type": type_name, **BASE[type_name], **settings}
    with pytest.raises(ValidationError) as caught:
        CONFIG_TYPES[type_name].model_validate(whole)

    assert message in str(caught.value)
    assert "s3cr" not in str(caught.value)
