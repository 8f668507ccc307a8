"""What each request is answered, and what is stored of it (contract in architecture.md section 8)."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3

import pytest

from tests.contract.ingest.conftest import Launch, Rig, head, source
from tests.fakes.events import DATA, cef, lines

BODY = b"".join(line + b"\n" for line in lines(3))
SAMPLES = sorted(path.name for path in DATA.glob("*.txt") if not path.name.startswith("batch_"))


# -- who is refused


@pytest.mark.parametrize("authorization", [None, "", "Bearer wrong", "Bearer us", "bearer s3cret"])
async def test_a_wrong_authorization_is_401_and_leaves_no_trace(rig: Rig, authorization: str | None) -> None:
    """A stranger stores nothing and opens no gap: it must not steer recovery."""
    answer = await rig.post(BODY, authorization=authorization)

    assert answer.status == 401
    assert answer.headers["www-authenticate"]
    assert await rig.stored() == []
    assert await rig.gap_causes() == []


async def test_nothing_of_a_strangers_body_is_awaited(rig: Rig) -> None:
    """A stranger is refused by the head alone, and the connection ends."""
    sender = await rig.sender()
    sender.write(head(10_000_000, authorization="Bearer wrong"))

    answer = await sender.answer()

    assert answer.status == 401
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/", "/audit-logs", "/audit-logs/", "/audit-logs/asia", "/audit-logs/eu/x"])
async def test_an_unknown_path_is_404(rig: Rig, path: str) -> None:
    """With several sources, each has one path and nothing else has any."""
    assert (await rig.post(BODY, path=path)).status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_anything_but_post_is_405(rig: Rig, method: str) -> None:
    """Other methods are told which one is right."""
    sender = await rig.sender()
    sender.write(head(0, method=method))

    answer = await sender.answer()

    assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_head_is_405_without_a_body(rig: Rig) -> None:
    """The answer to HEAD has no body, so that the next answer on the connection is found."""
    sender = await rig.sender()
    sender.write(head(0, method="HEAD"))

    assert (await sender.answer(bodiless=True)).status == 405
    assert (await sender.post(BODY)).status == 200


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"P /\x00 HTTP/1.1\r\n\r\n"],
)
async def test_what_is_not_http_is_refused_without_noise(
    rig: Rig, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Port scanners get a 400 and the log no stack trace."""
    sender = await rig.sender()
    sender.write(junk)

    assert (await sender.ended()).startswith(b"HTTP/1.1 400 ")
    assert caplog.records == []


# -- what is refused


async def test_an_announced_size_beyond_the_limit_is_413_at_once(launch: Launch) -> None:
    """A body that is announced too large is refused unread, and a gap opens."""
    rig = await launch(max_body=1000)
    sender = await rig.sender()
    sender.write(head(1001))

    assert (await sender.answer()).status == 413
    assert await rig.gap_causes() == ["413"]


async def test_an_unannounced_size_beyond_the_limit_is_413(launch: Launch) -> None:
    """A chunked body is refused once it is over the limit, and the answer arrives although more is sent."""
    rig = await launch(max_body=1000)
    sender = await rig.sender()
    sender.write(head(None))
    for _ in range(50):
        sender.write(b"400\r\n" + bytes(1024) + b"\r\n")
    sender.write(b"0\r\n\r\n")

    assert (await sender.answer()).status == 413
    assert await rig.stored() == []
    assert await rig.gap_causes() == ["413"]


async def test_the_answer_to_an_oversized_body_is_not_lost(launch: Launch) -> None:
    """A sender that pushes megabytes before it listens still finds the 413, not a reset."""
    rig = await launch(max_body=1000)

    assert (await rig.post(bytes(8_000_000))).status == 413


async def test_a_bomb_is_413(launch: Launch) -> None:
    """A small body that swells beyond `max_decoded_body` is refused, and a gap opens."""
    rig = await launch(max_decoded_body=1 << 20)

    assert (await rig.post(gzip.compress(bytes(50 << 20)))).status == 413
    assert await rig.gap_causes() == ["413"]


async def test_broken_gzip_is_400_and_kept(rig: Rig) -> None:
    """What cannot be decoded goes to quarantine byte for byte, and a gap opens."""
    raw = gzip.compress(BODY)[:-3]

    assert (await rig.post(raw)).status == 400
    assert await rig.stored() == []
    assert await rig.gap_causes() == ["400"]
    with sqlite3.connect(rig.path) as database:
        assert database.execute("SELECT source, body FROM quarantine").fetchall() == [("eu", raw)]
    database.close()


async def test_broken_gzip_that_cannot_be_kept_is_500(rig: Rig) -> None:
    """Nothing is thrown away: where even quarantine fails, Konnect is asked to try again."""
    await rig.break_queue()

    assert (await rig.post(gzip.compress(BODY)[:-3])).status == 500


async def test_a_full_queue_is_429(launch: Launch) -> None:
    """Without room the sender is told when to come back, nothing is stored, and a gap opens."""
    rig = await launch(queue_bytes=200_000)
    rng_body = b"".join(b"%s\n" % line for line in lines(20_000))

    answer = await rig.post(gzip.compress(rng_body, 1))

    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert await rig.stored() == []
    assert await rig.gap_causes() == ["429"]


async def test_a_failed_commit_is_500(rig: Rig) -> None:
    """What could not be committed is not acknowledged, in a code that Konnect retries."""
    await rig.break_queue()

    assert (await rig.post(BODY)).status == 500
    assert await rig.gap_causes() == ["500"]


async def test_too_much_in_flight_is_429_before_the_body(launch: Launch) -> None:
    """While others hold the memory a request is refused by its head; when they are done it is taken."""
    rig = await launch(max_in_flight_bytes=10_000)
    slow = await rig.sender()
    slow.write(head(9_000, fields="Expect: 100-continue\r\n"))
    assert (await slow.answer()).status == 100  # by now it holds its share
    late = await rig.sender()
    late.write(head(2_000))

    refused = await late.answer()
    slow.write(b"x" * 9_000)

    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert (await slow.answer()).status == 200
    assert (await rig.post(BODY)).status == 200
    assert await rig.gap_causes() == ["429"]


# -- what is accepted


async def test_an_accepted_batch_is_stored_before_the_answer(rig: Rig) -> None:
    """The answer counts the events, and they are in the queue by then."""
    answer = await rig.post(gzip.compress(BODY))

    assert answer.status == 200
    assert json.loads(answer.body) == {"accepted": 3, "duplicates": 0}
    assert answer.headers["content-type"] == "application/json"
    assert "server" not in answer.headers
    assert await rig.stored() == lines(3)


async def test_no_answer_before_the_commit(rig: Rig) -> None:
    """While the database cannot commit there is no 200."""
    sender = await rig.sender()
    lock = rig.lock_database()
    sender.write(head(len(BODY)) + BODY)
    early = asyncio.ensure_future(sender.answer())
    done, _ = await asyncio.wait([early], timeout=0.2)
    lock.close()

    assert not done
    assert (await early).status == 200


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
async def test_every_sample_arrives_byte_for_byte(rig: Rig, name: str, encode: type[bytes]) -> None:
    """Every known kind of batch is taken as it is."""
    body = (DATA / name).read_bytes()

    answer = await rig.post(encode(body))

    events = [line for line in body.split(b"\n") if line]
    assert (answer.status, json.loads(answer.body)["accepted"]) == (200, len(events))
    assert await rig.stored() == events


@pytest.mark.parametrize(
    "encoding",
    ["", "gzip", "x-gzip", "application/gzip", "GZIP", "identity", "gzip, identity", "deflate", "br"],
)
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
async def test_the_encoding_is_told_by_the_bytes(rig: Rig, encoding: str, encode: type[bytes]) -> None:
    """Whatever the header says about the encoding, or nothing, the first two bytes decide."""
    field = f"Content-Encoding: {encoding}\r\n" if encoding else ""

    assert (await rig.post(encode(BODY), fields=field)).status == 200
    assert await rig.stored() == lines(3)


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/text", "text/plain; charset=utf-8"]
)
async def test_any_content_type_is_accepted(rig: Rig, content_type: str) -> None:
    """Konnect has changed it before."""
    assert (await rig.post(BODY, content_type=content_type)).status == 200


async def test_a_chunked_body_is_accepted(rig: Rig) -> None:
    """A body may come in chunks of any size."""
    sender = await rig.sender()
    raw = gzip.compress(BODY)
    sender.write(head(None))
    for at in range(0, len(raw), 7):
        piece = raw[at : at + 7]
        sender.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    sender.write(b"0\r\n\r\n")

    assert (await sender.answer()).status == 200
    assert await rig.stored() == lines(3)


async def test_a_body_in_many_pieces_is_accepted(rig: Rig) -> None:
    """A body that arrives byte by byte is the same body."""
    sender = await rig.sender()
    raw = gzip.compress(BODY)
    sender.write(head(len(raw)))
    for byte in raw:
        sender.write(bytes([byte]))
        await asyncio.sleep(0)

    assert (await sender.answer()).status == 200
    assert await rig.stored() == lines(3)


@pytest.mark.parametrize("length", [0, None], ids=["empty", "empty chunked"])
async def test_an_empty_body_is_accepted(rig: Rig, length: int | None) -> None:
    """Nothing to store is no error."""
    sender = await rig.sender()
    sender.write(head(length) + (b"0\r\n\r\n" if length is None else b""))

    answer = await sender.answer()

    assert (answer.status, json.loads(answer.body)) == (200, {"accepted": 0, "duplicates": 0})


async def test_a_post_without_any_length_is_empty(rig: Rig) -> None:
    """A request that announces no body has none."""
    sender = await rig.sender()
    sender.write(b"POST /audit-logs/eu HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n\r\n")

    assert json.loads((await sender.answer()).body) == {"accepted": 0, "duplicates": 0}


async def test_a_retried_batch_is_counted_as_duplicates(rig: Rig) -> None:
    """Konnect sends a batch again when our answer was lost; it is stored once."""
    await rig.post(gzip.compress(BODY))

    answer = await rig.post(BODY)

    assert json.loads(answer.body) == {"accepted": 0, "duplicates": 3}
    assert await rig.stored() == lines(3)


async def test_a_query_string_is_ignored(rig: Rig) -> None:
    """Konnect posts to the configured address with its query string."""
    assert (await rig.post(BODY, path="/audit-logs/eu?code=abc%20d")).status == 200


async def test_the_absolute_form_is_understood(rig: Rig) -> None:
    """Proxies may put the whole address into the request line."""
    assert (await rig.post(BODY, path="http://relay.example.com/audit-logs/eu?x=1")).status == 200


async def test_a_single_source_also_answers_on_the_short_path(launch: Launch) -> None:
    """With one source its name may be left out."""
    rig = await launch(sources=[source("eu")])

    assert (await rig.post(BODY, path="/audit-logs")).status == 200
    assert (await rig.post(BODY, path="/audit-logs/eu")).status == 200


async def test_expect_continue_is_answered_before_the_body(rig: Rig) -> None:
    """A sender that asks first is invited, and its body taken."""
    sender = await rig.sender()
    sender.write(head(len(BODY), fields="Expect: 100-continue\r\n"))

    assert (await sender.answer()).status == 100
    sender.write(BODY)
    assert (await sender.answer()).status == 200


async def test_expect_continue_is_refused_without_the_body(rig: Rig) -> None:
    """A sender that asks first and may not send is told so at once."""
    sender = await rig.sender()
    sender.write(head(len(BODY), authorization="Bearer wrong", fields="Expect: 100-continue\r\n"))

    assert (await sender.answer()).status == 401


async def test_an_http_1_0_sender_is_answered(rig: Rig) -> None:
    """The answer ends with the connection."""
    sender = await rig.sender()
    raw = gzip.compress(BODY)
    sender.write(
        b"POST /audit-logs/eu HTTP/1.0\r\nAuthorization: Bearer s3cret\r\nContent-Length: %d\r\n\r\n%s"
        % (len(raw), raw)
    )

    assert (await sender.ended()).startswith(b"HTTP/1.1 200 ")


async def test_several_authorizations_are_accepted(launch: Launch) -> None:
    """While a credential is being changed, the old and the new one are right."""
    rig = await launch(sources=[source("eu", "old", "new")])

    assert (await rig.post(BODY, authorization="old")).status == 200
    assert (await rig.post(BODY, authorization=" new ")).status == 200
    assert (await rig.post(BODY, authorization="other")).status == 401


# -- what is told of it


async def test_each_request_is_one_log_line(rig: Rig) -> None:
    """The line names source, code, counts and sizes, and holds no event and no secret."""
    raw = gzip.compress(BODY)
    await rig.post(raw)
    await rig.post(BODY, authorization="Bearer wrong")
    (accepted, refused) = await rig.log.requests(2)

    assert accepted["seconds"] > 0
    assert accepted | {"seconds": 0} == {
        "event": "ingest.request",
        "level": "info",
        "source": "eu",
        "code": 200,
        "accepted": 3,
        "duplicates": 0,
        "bytes": len(raw),
        "decoded_bytes": len(BODY),
        "seconds": 0,
        "remote": "127.0.0.1",
    }
    assert (refused["code"], refused["bytes"]) == (401, 0)
    assert "s3cret" not in repr(rig.log.entries)
    assert cef(0).decode() not in repr(rig.log.entries)


async def test_metrics_count_requests_by_code(rig: Rig) -> None:
    """Every answer is counted; a path without a source counts as unknown."""
    raw = gzip.compress(BODY)
    await rig.post(raw)
    await rig.post(raw, authorization="no")
    await rig.post(raw, path="/favicon.ico")
    text = (await rig.metrics.exposition()).decode()

    assert 'relay_ingest_requests_total{code="200",source="eu"} 1.0' in text
    assert 'relay_ingest_requests_total{code="401",source="eu"} 1.0' in text
    assert 'relay_ingest_requests_total{code="404",source="unknown"} 1.0' in text
    assert f'relay_ingest_bytes_total{{source="eu"}} {float(len(raw))}' in text


async def test_the_last_attempt_of_a_source_is_known(rig: Rig) -> None:
    """Status tells when a source last sent something and what it was answered."""
    assert rig.intake.last_attempt("eu") == (None, None)

    await rig.post(BODY)
    at, code = rig.intake.last_attempt("eu")

    assert at is not None
    assert code == 200
    assert rig.intake.last_attempt("us") == (None, None)


async def test_a_bug_is_500_and_logged(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody foresaw costs no batch: Konnect is asked to try again."""

    def broken(*_: object, **__: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr("relay.ingest.intake.unpack", broken)

    assert (await rig.post(BODY)).status == 500
    assert [entry["event"] for entry in rig.log.entries] == ["ingest.failed", "ingest.request"]
