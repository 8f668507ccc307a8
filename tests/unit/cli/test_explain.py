"""`check --explain`: what each destination would get."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from relay.cli.main import main
from tests.fakes.chunks import sample


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "relay.yaml"
    document = {
        "sources": [{"name": "us", "authorization": "x"}, {"name": "eu", "authorization": "y"}],
        "destinations": [
            {"name": "all", "type": "http", "url": "https://siem.example.com/s3cret"},
            {
                "name": "denied",
                "type": "http",
                "url": "https://siem.example.com/s3cret",
                "filter": {"min_severity": 6, "sources": ["us"]},
                "format": "json",
                "redact": ["user_agent"],
            },
            {"name": "splunk", "type": "splunk_hec", "url": "https://siem.example.com", "token": "s3cret"},
        ],
    }
    path.write_text(json.dumps(document))
    return path


def run(*arguments: str) -> int:
    """The exit status of `konnect-relay check`."""
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    return int(ended.value.code or 0)


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert run("--json", *arguments) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["lines"]
    return found


def test_every_line_has_a_fate_at_every_destination(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sent with its text, filtered, or set aside; in the vendor's own writing where there is one."""
    lines = tmp_path / "lines.gz"
    denied = next(line for line in sample("cef") if b"granted=false" in line)
    lines.write_bytes(gzip.compress(b"\n".join([sample("cef")[0], denied, b"no record"])))

    first, second, third = explained(capsys, "-c", str(config), "--explain", str(lines))

    assert first["line"] == sample("cef")[0].decode()
    fates = [
        {fate["destination"]: (fate["outcome"], fate["text"]) for fate in each["fates"]}  # type: ignore[attr-defined]
        for each in (first, second, third)
    ]
    assert fates[0]["all"] == ("sent", first["line"])
    assert fates[0]["denied"] == ("filtered", "")
    outcome, text = fates[1]["denied"]
    assert outcome == "sent"
    assert json.loads(text)["relay_redacted"] == "user_agent"
    assert "user_agent" not in json.loads(text)
    assert json.loads(fates[1]["splunk"][1])["event"] == denied.decode()
    outcome, text = fates[2]["denied"]
    assert outcome == "dead_lettered"
    assert text.startswith("it cannot be read")


def test_of_another_source(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Filters may go by the source."""
    lines = tmp_path / "lines"
    lines.write_bytes(next(line for line in sample("cef") if b"granted=false" in line))

    (line,) = explained(capsys, "-c", str(config), "--explain", str(lines), "--source", "eu")

    assert [fate["outcome"] for fate in line["fates"]] == ["sent", "filtered", "sent"]  # type: ignore[attr-defined]


def test_for_people(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line, and below it what becomes of it; nothing in it reaches the terminal as a command."""
    lines = tmp_path / "lines"
    lines.write_bytes(b"\x1b[31m odd [bold]\n")

    assert run("-c", str(config), "--explain", str(lines)) == 0

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "  all: \N{REPLACEMENT CHARACTER}[31m odd [bold]" in out
    assert "  denied: dead-lettered: it cannot be read, so" in out


def test_what_can_be_copied(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A long line stays one line in a pipe too, and nothing in it is taken for an icon or a tab stop."""
    line = b"[bold] :warning: \t" + b"long " * 200
    lines = tmp_path / "lines"
    lines.write_bytes(line)

    assert run("-c", str(config), "--explain", str(lines)) == 0

    assert f"  all: {line.decode()}" in capsys.readouterr().out.splitlines()


def test_every_type_shows_its_own_writing(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Header, wrapping and message are shown, what is too long is told, and no key is."""
    address = {"type": "http", "url": "https://siem.example.com"}
    kinds = {
        "udp": {"type": "syslog", "address": "localhost:514", "protocol": "udp"},
        "array": {**address, "framing": "json_array"},
        "dynatrace": {**address, "profile": "dynatrace", "authorization": "Api-Token s3cret"},
        "pager": {"type": "http", "profile": "pagerduty", "routing_key": "s3cret"},
        "room": {**address, "profile": "slack"},
        "file": {"type": "file", "path": str(tmp_path / "file")},
    }
    document = json.loads(config.read_text())
    document["destinations"] = [{"name": name, **settings} for name, settings in kinds.items()]
    config.write_text(json.dumps(document))
    line, long = sample("cef")[0], sample("cef")[0] + b"x" * 3000
    lines = tmp_path / "lines"
    lines.write_bytes(line + b"\n" + long)

    found = explained(capsys, "-c", str(config), "--explain", str(lines))

    first, second = (
        {fate["destination"]: (fate["outcome"], fate["text"]) for fate in each["fates"]}  # type: ignore[attr-defined]
        for each in found
    )
    received = line.decode()
    assert {outcome for outcome, _ in first.values()} == {"sent"}
    assert first["file"][1] == received
    assert first["udp"][1].startswith("<")
    assert first["udp"][1].endswith(received[received.index("CEF:") :])
    assert json.loads(first["array"][1])["message"] == received
    assert json.loads(first["dynatrace"][1])[0]["content"] == received
    assert json.loads(first["pager"][1])["routing_key"] == "<secret>"
    assert "blocks" in json.loads(first["room"][1])
    outcome, text = second["udp"]
    assert outcome == "dead_lettered"
    assert text.endswith("max_message is 2048")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explain", "/nowhere"], "cannot read /nowhere: No such file or directory"),
        (["--explain", "{config}", "--source", "asia"], "--source: expected one of us, eu, got 'asia'"),
    ],
)
def test_mistakes(
    config: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is not there and a source that is none: exit status 2 and a sentence."""
    filled = [each.replace("{config}", str(config)) for each in arguments]

    assert run("-c", str(config), *filled) == 2
    assert message in capsys.readouterr().err
