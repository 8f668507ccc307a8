"""Secrets come out by `reveal()` and no other way."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from relay.config.public import public_view
from relay.config.secret import OptionalSecret, Secret, SecretUrl, is_loopback
from relay.errors import ConfigError
from tests.unit.config.kit import ConfigFile, minimal

HIDDEN = "hunter2"


def test_a_secret_prints_as_a_placeholder() -> None:
    """Neither repr nor str nor a format shows it; two with the same value are equal."""
    secret = Secret(HIDDEN)

    assert f"{secret} {secret!r} {secret!s} {[secret]}".count("<secret>") == 4
    assert secret.reveal() == HIDDEN
    assert secret == Secret(HIDDEN) == copy.deepcopy(secret)
    assert secret != Secret("other")
    assert secret != HIDDEN
    assert len({secret, Secret(HIDDEN)}) == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://siem.example.com/receiver/{HIDDEN}", "https://siem.example.com/…"),
        (f"http://user:{HIDDEN}@siem:8088/?code={HIDDEN}", "http://siem:8088/…"),
        (f"https://[::1]:9/#{HIDDEN}", "https://[::1]:9/…"),
        (f"https://{HIDDEN}@host", "https://host/…"),
    ],
)
def test_a_url_shows_where_it_leads_and_no_more(url: str, shown: str) -> None:
    """User, password, path, query and fragment may all be credentials."""
    assert repr(SecretUrl.parse(url)) == str(SecretUrl.parse(url)) == shown
    assert SecretUrl.parse(url).reveal() == url


@pytest.mark.parametrize(
    "url", ["", "siem.example.com", "ftp://h/", "https://", "https://h:x/", "https://h:0/", "http://a b/", 7]
)
def test_what_is_no_url_is_refused_without_repeating_it(url: object) -> None:
    """The error says what a URL looks like."""
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(SecretUrl).validate_python(url)
    assert (
        "siem.example.com/path" in str(refused.value) or "must not be empty" in str(refused.value) or url == 7
    )


@pytest.mark.parametrize(
    ("url", "exposed"),
    [("http://10.0.0.1/", True), ("https://10.0.0.1/", False), ("http://127.0.0.1/", False)],
)
def test_plain_http_beyond_this_machine_is_exposed(url: str, exposed: bool) -> None:
    """Only traffic that leaves the machine unencrypted counts."""
    assert SecretUrl.parse(url).exposed is exposed


def test_loopback_is_told_by_name_or_number() -> None:
    """A wildcard address is not loopback."""
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.0.1", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.com")))


def test_a_secret_may_stand_in_a_file(tmp_path: Path, file: ConfigFile) -> None:
    """The file's content counts without its last line end, and is read again on every load."""
    path = tmp_path / "token"
    path.write_text("one\n")
    content = minimal()
    content["sources"][0]["authorization"] = [{"file": str(path)}, "two", {"file": "${WHERE}/token"}]

    first = file.load(content, WHERE=str(tmp_path)).config
    path.write_text("rotated")
    second = file.load(content, WHERE=str(tmp_path)).config

    assert [secret.reveal() for secret in first.sources[0].authorization] == ["one", "two", "one"]
    assert [secret.reveal() for secret in second.sources[0].authorization] == ["rotated", "two", "rotated"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read {path}: No such file or directory"),
        (b"\n", "{path} is empty"),
        (b"\xff", "cannot read {path}: it is not UTF-8 text"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_named(
    tmp_path: Path, file: ConfigFile, content: bytes | None, message: str
) -> None:
    """The error gives the path in the configuration and the file's."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    configuration = minimal() | {"admin": {"token": {"file": str(path)}}}

    assert file.problems(configuration) == [f"admin.token: {message.format(path=path)}"]


def test_an_empty_optional_secret_is_none() -> None:
    """`token: ${TOKEN:-}` with nothing set means no token."""
    adapter: TypeAdapter[Secret | None] = TypeAdapter(OptionalSecret)

    assert adapter.validate_python("") is None
    assert adapter.validate_python(None) is None
    assert adapter.validate_python("x") == Secret("x")


def secretive() -> dict[str, object]:
    """A configuration with a secret wherever one may stand."""
    web = {
        "name": "siem",
        "type": "web",
        "url": f"https://siem.example.com/{HIDDEN}",
        "token": HIDDEN,
        "headers": {"X-Key": HIDDEN},
    }
    return {
        "admin": {"token": HIDDEN},
        "sources": [{"name": "a", "authorization": [HIDDEN, f"{HIDDEN}-2"]}],
        "destinations": [web],
    }


def test_no_view_of_the_configuration_holds_a_secret(file: ConfigFile) -> None:
    """repr, str, dumps and the public view show placeholders."""
    loaded = file.load(secretive())
    config = loaded.config
    views = [repr(loaded), str(config), str(config.model_dump()), config.model_dump_json()]
    views += [json.dumps(public_view(config)), str(vars(config))]

    assert [view for view in views if HIDDEN in view] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("admin", "token"), [HIDDEN]),
        (("admin", "tokn"), HIDDEN),
        (("admin", "token"), {"fil": HIDDEN}),
        (("sources", 0, "authorization"), {"value": HIDDEN}),
        (("sources", 0, "authorization"), [[HIDDEN]]),
        (("destinations", 0, "url"), HIDDEN),
        (("destinations", 0, "url"), f"https://{HIDDEN}:x/"),
        (("destinations", 0, "headers"), f"X-Key: {HIDDEN}"),
        (("destinations", 0, "headers"), [HIDDEN]),
        (("destinations", 0, "headers", "X-Key"), [HIDDEN]),
        (("destinations", 0), HIDDEN),
        (("destinations",), HIDDEN),
        (("sources", 0), HIDDEN),
        (("sources",), {"a": HIDDEN}),
    ],
)
def test_no_error_holds_a_secret(file: ConfigFile, path: tuple[str | int, ...], value: object) -> None:
    """Whatever is wrong with a secret, or stands in its place, the message does not repeat it."""
    content: dict[str, object] = secretive()
    node: object = content
    for step in path[:-1]:
        node = node[step]  # type: ignore[index] # nested mappings and lists
    node[path[-1]] = value  # type: ignore[index] # as above

    with pytest.raises(ConfigError) as refused:
        file.load(content)

    assert HIDDEN not in str(refused.value)
    assert HIDDEN not in repr(refused.value)
