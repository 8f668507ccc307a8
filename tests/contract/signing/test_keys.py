"""Keys from a server that is down, slow, wrong or rotating; from a file; from the cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest

from relay.config.secret import Secret, SecretUrl
from relay.config.signatures import PinnedKey, PinnedKeys
from relay.errors import ConfigError, KeysUnusable
from relay.observe import logs
from relay.signing import fetch
from relay.signing.keeper import AFTER_FAILURE, EVERY, FILE_EVERY, WITHOUT_KEYS, KeyKeeper
from tests.fakes.clock import FakeClock
from tests.fakes.keys import KeyServer
from tests.fakes.process import free_port
from tests.fakes.signing import TEST, another, jwks

A, B = another(1), another(2)


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with KeyServer(A) as server:
        yield server


class Bench:
    """A keeper and what it says."""

    def __init__(self, origin: str | Path | PinnedKeys, cache: Path | None = None) -> None:
        self.clock = FakeClock()
        self.said = BytesIO()
        self.keeper = KeyKeeper(
            "eu",
            SecretUrl.parse(origin) if isinstance(origin, str) else origin,
            cache=cache,
            fetch=fetch.fetch,
            clock=self.clock,
            log=logs.configure("info", stream=self.said),
        )

    @property
    def kids(self) -> list[str]:
        return [key.kid for key in self.keeper.ring.keys]

    def logged(self, event: str) -> int:
        return self.said.getvalue().count(event.encode())


# Fetching


@pytest.mark.parametrize(
    ("status", "sentence"), [(404, "answered 404"), (500, "answered 500"), (302, "answered 302")]
)
async def test_another_status(server: KeyServer, status: int, sentence: str) -> None:
    """Only a 200 brings keys; a redirect is not followed."""
    server.status, server.headers = status, {"Location": "/elsewhere"}
    with pytest.raises(KeysUnusable, match=sentence):
        await fetch.fetch(server.url)
    assert len(server.asked) == 1


async def test_a_server_that_is_down() -> None:
    """It says so, and does not repeat the address."""
    port = free_port()
    with pytest.raises(KeysUnusable, match="cannot connect: ") as caught:
        await fetch.fetch(f"http://127.0.0.1:{port}/secret")
    assert "secret" not in str(caught.value)


async def test_a_server_that_is_slow(server: KeyServer) -> None:
    """The whole answer has one time limit."""
    server.hangs = True
    with pytest.raises(KeysUnusable, match=r"no complete answer within 0\.1 s"):
        await fetch.fetch(server.url, timeout=0.1)


async def test_an_answer_without_end(server: KeyServer) -> None:
    """Memory is bounded."""
    server.body = b"x" * 300_000
    with pytest.raises(KeysUnusable, match="more than 262144 bytes"):
        await fetch.fetch(server.url)


async def test_a_name_that_is_none() -> None:
    """Whatever is wrong with an address, it is one sentence."""
    with pytest.raises(KeysUnusable, match=r"not a valid URL|cannot be resolved"):
        await fetch.fetch("http://" + "a" * 70 + ".invalid/")


async def test_the_token_is_for_konnect(server: KeyServer) -> None:
    """Whoever else is configured to have the keys does not get to see it."""
    server.token = "kpat_x"
    token = Secret("kpat_x")

    await fetch.with_token(token, SecretUrl(server.url))(server.url)
    with pytest.raises(KeysUnusable, match="answered 401 without credentials"):
        await fetch.with_token(token, SecretUrl("https://eu.api.konghq.com"))(server.url)


async def test_the_token_is_for_a_server_that_wants_it(server: KeyServer) -> None:
    """It is asked without first; the token never goes where nobody asks for it."""
    token = Secret("kpat_x")
    await fetch.fetch(server.url, token=token)
    assert server.asked == [None]

    server.token = "kpat_x"
    await fetch.fetch(server.url, token=token)
    assert server.asked == [None, None, "Bearer kpat_x"]
    with pytest.raises(KeysUnusable, match="answered 401 without credentials"):
        await fetch.fetch(server.url)


# Keeping


async def test_keys_are_read_and_followed(server: KeyServer) -> None:
    """Every hour; a key that leaves the set is retired."""
    bench = Bench(server.url)
    await bench.keeper.open()
    assert bench.kids == []
    await bench.keeper.refresh_when_due()
    assert bench.kids == ["key-1"]

    server.publish(B)
    await bench.clock.advance(EVERY - 1)
    await bench.keeper.refresh_when_due()
    assert bench.kids == ["key-1"]
    await bench.clock.advance(1)
    await bench.keeper.refresh_when_due()
    assert bench.kids == ["key-2", "key-1"]
    assert bench.keeper.ring.current == (B.key,)


@pytest.mark.parametrize(
    "body", [b"", b"<html>maintenance</html>", b'{"keys":[]}', b'{"keys":[{"kty":"RSA"}]}']
)
async def test_garbage_leaves_the_old_keys_in_force(server: KeyServer, body: bytes) -> None:
    """Whatever the server says, the relay does not forget what it knows; it complains once."""
    bench = Bench(server.url)
    await bench.keeper.refresh_when_due()
    server.body = body
    for _ in range(3):
        await bench.clock.advance(EVERY)
        await bench.keeper.refresh_when_due()

    assert len(server.asked) == 4
    assert bench.kids == ["key-1"]
    assert bench.keeper.trouble is not None
    assert bench.logged("signatures.keys_failed") == 1

    server.publish(B)
    await bench.clock.advance(AFTER_FAILURE)
    await bench.keeper.refresh_when_due()
    assert bench.kids == ["key-2", "key-1"]
    assert bench.logged("signatures.keys_failed") == 1


async def test_events_that_fail_cannot_cause_a_stampede(server: KeyServer) -> None:
    """However many ask at once and however often, the server is asked every five minutes."""
    bench = Bench(server.url)
    await asyncio.gather(*[bench.keeper.refresh(AFTER_FAILURE) for _ in range(50)])
    assert len(server.asked) == 1

    for _ in range(100):
        await bench.clock.advance(AFTER_FAILURE / 100)
        await asyncio.gather(*[bench.keeper.refresh(AFTER_FAILURE) for _ in range(5)])
    assert len(server.asked) == 2


async def test_without_any_key_it_is_asked_more_often() -> None:
    """Every fifteen seconds, since nothing can be checked till then."""
    server = KeyServer(A)
    await server.start()
    await server.stop()
    bench = Bench(server.url)
    await bench.keeper.refresh_when_due()
    assert bench.kids == []

    await server.start()
    await bench.keeper.refresh_when_due()
    assert server.asked == []
    await bench.clock.advance(WITHOUT_KEYS)
    await bench.keeper.refresh_when_due()
    assert bench.kids == ["key-1"]
    await server.stop()


async def test_who_is_cancelled_leaves_the_request_to_others(server: KeyServer) -> None:
    """A destination that stops must not make the others believe that there are no keys."""
    server.hangs = True
    bench = Bench(server.url)
    first = asyncio.create_task(bench.keeper.refresh(AFTER_FAILURE))
    await server.arrived.wait()
    second = asyncio.create_task(bench.keeper.refresh(AFTER_FAILURE))
    server.hangs = False
    first.cancel()
    await second

    assert bench.kids == ["key-1"]
    server.release.set()


# From disk


async def test_the_cache_outlives_the_server(server: KeyServer, tmp_path: Path) -> None:
    """A relay that starts while Konnect's API is away has the keys of before, retired ones too."""
    cache = tmp_path / "new" / "keys.json"
    bench = Bench(server.url, cache)
    await bench.keeper.refresh_when_due()
    server.publish(B)
    await bench.clock.advance(EVERY)
    await bench.keeper.refresh_when_due()
    await server.stop()

    again = Bench(server.url, cache)
    await again.keeper.open()
    assert again.keeper.ring == bench.keeper.ring
    assert again.keeper.read_at == bench.keeper.read_at
    await again.keeper.refresh_when_due()
    assert again.kids == ["key-2", "key-1"]
    assert again.keeper.trouble is not None


async def test_the_cache_of_another_region(server: KeyServer, tmp_path: Path) -> None:
    """Keys belong to their URL."""
    cache = tmp_path / "keys.json"
    await Bench(server.url, cache).keeper.refresh_when_due()
    other = Bench(f"{server.url}?region=eu", cache)
    await other.keeper.open()
    assert other.kids == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"origin": 1', b"\xff"])
async def test_a_broken_cache_is_none(server: KeyServer, tmp_path: Path, content: bytes) -> None:
    """The keys are fetched as if it were not there, and it is written anew."""
    cache = tmp_path / "keys.json"
    cache.write_bytes(content)
    bench = Bench(server.url, cache)
    await bench.keeper.open()
    assert bench.kids == []
    await bench.keeper.refresh_when_due()
    assert cache.read_bytes() != content


async def test_a_cache_that_cannot_be_written(server: KeyServer, tmp_path: Path) -> None:
    """Is logged; the keys are in force all the same."""
    (tmp_path / "file").touch()
    bench = Bench(server.url, tmp_path / "file" / "keys.json")
    await bench.keeper.open()
    await bench.keeper.refresh_when_due()
    assert bench.kids == ["key-1"]
    assert bench.logged("signatures.cache_failed") == 1


async def test_a_file_is_followed(tmp_path: Path) -> None:
    """It is read again every minute; while it cannot be read the old keys stay."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(A))
    bench = Bench(path)
    await bench.keeper.open()
    assert bench.kids == ["key-1"]

    path.unlink()
    await bench.clock.advance(FILE_EVERY)
    await bench.keeper.refresh_when_due()
    assert bench.kids == ["key-1"]
    path.write_bytes(jwks(B))
    await bench.clock.advance(FILE_EVERY)
    await bench.keeper.refresh_when_due()
    assert bench.kids == ["key-2", "key-1"]


@pytest.mark.parametrize("content", [None, b"no keys"])
async def test_a_file_that_is_unusable_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    """Is a mistake of the configuration, and told as one."""
    path = tmp_path / "jwks.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"signatures\.jwks: .*jwks\.json: it "):
        await Bench(path).keeper.open()


async def test_pinned_keys_need_nothing() -> None:
    """They are there at once and never change."""
    bench = Bench(
        PinnedKeys(keys=(PinnedKey(kid="mine", x=TEST.key.jwk()["x"]), PinnedKey(x=A.key.jwk()["x"])))
    )
    await bench.keeper.open()
    await bench.keeper.refresh(0)
    assert bench.keeper.ring.current == (TEST.key, A.key)
    assert bench.kids[0] == "mine"
