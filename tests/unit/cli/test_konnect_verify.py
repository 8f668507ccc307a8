"""`konnect verify`: an exported log, checked without a running relay."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from relay.cli.main import main
from relay.config.secret import SecretUrl
from relay.konnect.jwks import Keyring
from relay.konnect.pulled import line_of
from relay.signing.cache import Cached, KeyCache
from tests.fakes.chunks import DATA, sample
from tests.fakes.events import cef
from tests.fakes.konnect import Maker
from tests.fakes.konnect.writing import entry
from tests.fakes.process import free_port
from tests.fakes.signing import JWKS_FILE, TEST, another, jwks

Run = Callable[..., tuple[int, str, str]]
KEYS = ("--jwks", str(JWKS_FILE))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Exit status, output and complaints of `konnect-relay konnect verify`."""
    monkeypatch.chdir(tmp_path)  # where there is no configuration
    monkeypatch.delenv("RELAY_CONFIG", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["konnect", "verify", *map(str, arguments)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def configured(path: Path, *jwks: object) -> Path:
    """A configuration whose sources are a, b, … with these keys."""
    sources = [
        {"name": name, "authorization": "x", "signatures": {"mode": "tag", "jwks": keys} if keys else {}}
        for name, keys in zip("abc", jwks, strict=False)
    ]
    destination = {"name": "siem", "type": "http", "url": "https://siem.example.com"}
    queue = {"path": str(path.parent / "relay.db")}
    path.write_text(json.dumps({"sources": sources, "queue": queue, "destinations": [destination]}))
    return path


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("no-such-file", *KEYS), "does not exist"),
        ((JWKS_FILE, "--jwks", "http://keys.example.com"), "expected an https URL"),
        ((JWKS_FILE, "--jwks", "no-such-file"), "--jwks: no-such-file: it cannot be read"),
        ((JWKS_FILE, "--jwks", DATA / "cef.txt"), "it is not JSON, so no key set"),
        ((JWKS_FILE, "--region", "us.evil.example/"), "expected a region such as us"),
        ((JWKS_FILE, "--region", "us", *KEYS), "give one of --jwks, --region and --source"),
        ((JWKS_FILE,), "config/relay.yaml"),
    ],
)
def test_wrong_usage(run: Run, arguments: tuple[object, ...], complaint: str) -> None:
    """Exit status 2, and a sentence."""
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert complaint in err


def test_lines_that_were_pulled(run: Run, tmp_path: Path) -> None:
    """One whose entry a key signed is told from the others, of which nothing can be said."""
    events = Maker().some(3, at=1_750_000_000.0)
    lines = [*map(line_of, map(entry, events)), line_of(entry(events[0], signed=False))]
    file = written(tmp_path / "audit.log", *lines, TEST.cef(cef(1)))

    status, out, _ = run(file, *KEYS, "--json")
    found = json.loads(out)
    assert status == 1
    assert (found["results"]["verified"], found["results"]["absent"]) == (4, 1)
    assert {"format": "pulled", "rule": "S1", "events": 3} in found["rules"]
    assert [(each["line"], each["result"]) for each in found["failing"]] == [(4, "absent")]


def test_keys_that_cannot_be_had(run: Run) -> None:
    """Exit status 1: nothing was wrong with the command."""
    status, _, err = run(DATA / "cef.txt", "--jwks", f"http://127.0.0.1:{free_port()}/jwks.json")
    assert status == 1
    assert "no keys: cannot connect" in err


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b\x08broken", gzip.compress(b"x" * 5000, mtime=0)[:-9]], ids=["garbage", "cut off"]
)
def test_a_broken_gzip(run: Run, tmp_path: Path, content: bytes) -> None:
    """A log of which a part is missing is no proof of anything."""
    (tmp_path / "log.gz").write_bytes(content)
    status, _, err = run(tmp_path / "log.gz", *KEYS)
    assert status == 1
    assert "log.gz: its gzip is broken" in err


@pytest.mark.parametrize("content", [b"", b"\n\r\n\n"])
def test_a_log_without_events(run: Run, tmp_path: Path, content: bytes) -> None:
    """Proves nothing either."""
    (tmp_path / "log").write_bytes(content)
    status, out, _ = run(tmp_path / "log", *KEYS)
    assert (status, out) == (1, "There is no event in this file.\n")


def test_what_fails_is_shown_with_its_line(run: Run, tmp_path: Path) -> None:
    """The first ones; empty lines count, as in an editor."""
    forged = sample("cef")[0].replace(b"success=true", b"success=false")
    file = written(tmp_path / "log", b"", sample("cef")[1], forged, cef(1), cef(2)[:-1] + b"\x1b[31m sig=x")
    status, out, _ = run(file, *KEYS, "--failing", 2)
    assert status == 1
    assert [line.split()[:2] for line in out.splitlines()[-3:-1]] == [["3", "failed"], ["4", "absent"]]
    assert out.endswith("and 1 more\n")
    _, everything, _ = run(file, *KEYS)
    assert "\x1b" not in everything


@pytest.mark.parametrize(("name", "rule"), [("cef", "C1"), ("json", "J1"), ("cps", "P1")])
def test_a_log_that_verifies(run: Run, name: str, rule: str) -> None:
    """Exit status 0, and by which rule."""
    status, out, err = run(DATA / f"{name}.txt", *KEYS)
    assert (status, err) == (0, "")
    assert f"28 {name} events verified by rule {rule}" in out


def test_the_document(run: Run, tmp_path: Path) -> None:
    """For scripts: one JSON document, whatever was found."""
    file = tmp_path / "log.gz"
    file.write_bytes(gzip.compress(b"\xef\xbb\xbf" + b"\r\n".join([*sample("cef"), *sample("json"), cef(1)])))
    status, out, _ = run(file, *KEYS, "--json")
    document: dict[str, Any] = json.loads(out)
    assert status == 1
    assert document == {
        "file": str(file),
        "verified": False,
        "events": 57,
        "results": {"verified": 56, "failed": 0, "absent": 1, "no_key": 0, "malformed": 0},
        "rules": [
            {"format": "cef", "rule": "C1", "events": 28},
            {"format": "json", "rule": "J1", "events": 28},
        ],
        "keys": [{"kid": "test-809b912e397c9f4201bf7abbf589ce4f3b0661f0", "retired": False, "events": 56}],
        "failing": [{"line": 57, "result": "absent", "text": cef(1).decode()}],
    }


def test_a_log_of_many_lines(run: Run, tmp_path: Path) -> None:
    """Larger than what is read at once; the numbers are right."""
    lines = [TEST.cef(cef(n)) for n in range(3000)]
    lines[2345] = lines[2345][:-1]
    _, out, _ = run(written(tmp_path / "log", *lines), *KEYS, "--json")
    document = json.loads(out)
    assert document["results"]["verified"] == 2999
    assert [each["line"] for each in document["failing"]] == [2346]


def test_a_line_without_end(run: Run, tmp_path: Path) -> None:
    """Is refused before it fills the memory."""
    (tmp_path / "log").write_bytes(b"x" * (16 * 1024 * 1024 + 1))
    status, _, err = run(tmp_path / "log", *KEYS)
    assert status == 1
    assert "line 1 is longer than" in err


# Keys of the configuration


def test_the_keys_of_the_only_source_that_has_some(run: Run, tmp_path: Path) -> None:
    """Nothing has to be given then."""
    config = configured(tmp_path / "relay.yaml", None, str(JWKS_FILE))
    assert run(DATA / "cef.txt", "-c", config)[0] == 0


def test_which_source(run: Run, tmp_path: Path) -> None:
    """Several have keys: which of them has to be said, and has to be one of them."""
    pinned = {"keys": [another(1).key.jwk()]}
    config = configured(tmp_path / "relay.yaml", str(JWKS_FILE), pinned, None)
    assert run(DATA / "cef.txt", "-c", config, "--source", "a")[0] == 0
    assert run(DATA / "cef.txt", "-c", config, "--source", "b")[0] == 1
    for arguments in ((), ("--source", "c"), ("--source", "d")):
        status, _, err = run(DATA / "cef.txt", "-c", config, *arguments)
        assert status == 2
        assert "source" in err
    config = configured(tmp_path / "relay.yaml", None)
    assert "give --jwks or --region" in run(DATA / "cef.txt", "-c", config)[2]


class _Keys(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(jwks(another(2)))

    def log_message(self, *_: object) -> None: ...


def test_retired_keys_come_from_the_relays_cache(run: Run, tmp_path: Path) -> None:
    """An old log was signed by an old key; the relay remembers it, the server does not."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Keys)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    config = configured(tmp_path / "relay.yaml", url)
    cache = tmp_path / "relay.db.jwks-a.json"
    KeyCache(cache, url).write(Cached(Keyring((TEST.key,)), 1.0))
    before = cache.read_bytes()
    try:
        log = written(tmp_path / "log", TEST.cef(cef(1)), another(2).cef(cef(2)))
        status, out, err = run(log, "-c", config, "--json")
    finally:
        server.shutdown()
        server.server_close()

    assert (status, err) == (0, "")
    assert [(each["retired"], each["events"]) for each in json.loads(out)["keys"]] == [(False, 1), (True, 1)]
    assert cache.read_bytes() == before
    status, _, err = run(log, "-c", config)
    assert status == 1
    assert "keys of before, since now cannot connect" in err


def test_the_url_of_a_region_is_a_url() -> None:
    """The one of Konnect's documentation."""
    from relay.cli.konnect_verify import _JWKS_URL

    url = SecretUrl.parse(_JWKS_URL.format(region="us"))
    assert url.reveal() == "https://us.api.konghq.com/v2/audit-log-webhook/jwks.json"
