"""The admin API over real HTTP."""

from __future__ import annotations

import json

import pytest

from relay.admin.control import KonnectAccess
from relay.admin.times import parse_rfc3339, rfc3339
from relay.model import Hold, HoldReason, Recovering, Replica, RetryState, Sighting
from relay.queue.base import DeadLetterFilter
from tests.contract.admin.conftest import TOKEN, Admined
from tests.fakes.events import NOW, cef


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/destinations/nobody", 404),
        ("GET", "/api/v1/dead-letters/7", 404),
        ("GET", "/api/v1/dead-letters/99999999999999999999", 404),
        ("GET", "/api/v1/dead-letters?reason=tired", 400),
        ("GET", "/api/v1/dead-letters?since=yesterday", 400),
        ("GET", "/api/v1/dead-letters?limit=0", 400),
        ("GET", "/api/v1/dead-letters?destinaton=sumo", 400),
        ("DELETE", "/api/v1/status", 405),
        ("POST", "/api/v1/destinations/nobody/hold", 404),
        ("POST", "/api/v1/destinations/nobody/resume", 404),
        ("POST", "/api/v1/destinations/nobody/test", 404),
        ("POST", "/api/v1/destinations/nobody/forget", 404),
        ("POST", "/api/v1/destinations/sumo/forget", 409),
        ("POST", "/api/v1/dead-letters/discard", 400),
        ("POST", "/api/v1/dead-letters/redrive", 400),
        ("POST", "/api/v1/replays", 400),
        ("POST", "/api/v1/pulls", 400),
        ("POST", "/api/v1/gaps/7/close", 404),
        ("POST", "/api/v1/gaps/99999999999999999999/close", 404),
    ],
)
async def test_a_wrong_request_gets_a_problem(admin: Admined, method: str, path: str, status: int) -> None:
    """Every error is problem+json with its status and one sentence."""
    answered, problem = await admin.ask(method, path)

    assert status == answered == problem["status"]
    assert problem["detail"]
    assert "\n" not in problem["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"destination": "sumo", "from": "2026-11-18T00:00:00Z"}, "to: Field required"),
        (
            {"destination": "sumo", "from": "2026-11-18T00:00:00Z", "to": "2026-11-17T00:00:00Z"},
            "from has to be before to",
        ),
        ({"destination": "sumo", "from": 5, "to": "2026-11-17T00:00:00Z"}, "from: expected a time"),
        (
            {
                "destination": "sumo",
                "from": "2026-11-17T00:00:00Z",
                "to": "2026-11-18T00:00:00Z",
                "rate": -1,
            },
            "rate",
        ),
    ],
)
async def test_a_replay_that_makes_no_sense_is_refused(
    admin: Admined, body: dict[str, object], says: str
) -> None:
    """The answer names the field and what was expected."""
    status, problem = await admin.ask("POST", "/api/v1/replays", body)

    assert status == 400
    assert says in problem["detail"]


async def test_a_misspelt_criterion_never_widens_what_is_discarded(admin: Admined) -> None:
    """Unknown fields are refused; so is saying `all` together with a criterion."""
    await admin.accept(2)
    await admin.settle("sumo", delivered=0, dead=2)

    for body in (
        {"destinaton": "splunk", "all": True},
        {"destination": "splunk", "all": True},
        {"all": False},
    ):
        assert (await admin.ask("POST", "/api/v1/dead-letters/discard", body))[0] == 400

    assert len(await admin.queue.dead_letters(DeadLetterFilter())) == 2


async def test_a_body_that_is_not_json_is_refused(admin: Admined) -> None:
    """Without a stack trace, in the client or in the log."""
    async with admin.session.post(
        admin.url + "/api/v1/replays", data=b"\x1f\x8b", headers={"Authorization": f"Bearer {TOKEN}"}
    ) as response:
        assert response.status == 400
        assert response.content_type == "application/problem+json"


async def test_a_queue_that_cannot_commit_is_not_ready(admin: Admined) -> None:
    """Readiness is a commit; the process is alive all the same."""
    await admin.lose_queue()

    assert (await admin.ask("GET", "/readyz"))[0] == 503
    assert (await admin.ask("GET", "/healthz"))[0] == 200


async def test_readiness_is_proven_at_most_once_a_second(admin: Admined) -> None:
    """Whoever asks without a token cannot make the disk busy."""
    assert (await admin.ask("GET", "/readyz"))[0] == 200
    await admin.lose_queue()
    assert (await admin.ask("GET", "/readyz"))[0] == 200

    await admin.clock.advance(1.0)

    assert (await admin.ask("GET", "/readyz"))[0] == 503


async def test_status_tells_of_a_fresh_relay(admin: Admined) -> None:
    """Configured sources and destinations are there before anything happened."""
    status = await admin.get("/api/v1/status")

    assert status["started_at"] == status["time"] == rfc3339(NOW)
    assert [it["name"] for it in status["sources"]] == ["eu", "us"]
    assert {
        key: status["sources"][0][key] for key in ("webhook_enabled", "webhook_status", "last_attempt_at")
    } == {"webhook_enabled": True, "webhook_status": "active", "last_attempt_at": None}
    assert [(it["name"], it["state"], it["backlog"]) for it in status["destinations"]] == [
        ("splunk", "active", 0),
        ("sumo", "active", 0),
    ]
    assert status["queue"]["accepting"] is True


async def test_a_source_that_was_refused_is_inactive(admin: Admined) -> None:
    """Konnect's four fields, from our side."""
    admin.control.answered = {"eu": Sighting(NOW + 1, 429), "us": Sighting(NOW + 2, 200)}

    eu, us = (await admin.get("/api/v1/status"))["sources"]

    assert (eu["webhook_status"], eu["last_response_code"], eu["webhook_enabled"]) == ("inactive", 429, True)
    assert (us["webhook_status"], us["last_response_code"]) == ("active", 200)
    assert eu["last_attempt_at"] < us["last_attempt_at"]


async def test_status_tells_what_a_destination_is_owed(admin: Admined) -> None:
    """The books, the age of the oldest event, and what the destination said last."""
    await admin.accept(10)
    await admin.settle("sumo", delivered=4, dead=2, filtered=1)
    await admin.queue.readers("sumo")[0].retry_later(RetryState(2, NOW + 4))
    admin.control.responses["sumo"] = Sighting(NOW, 503, "It is busy.")
    await admin.clock.advance(90)

    sumo = await admin.get("/api/v1/destinations/sumo")

    assert tuple(sumo[key] for key in ("owed", "delivered", "filtered", "dead_letters", "backlog")) == (
        10,
        4,
        1,
        2,
        3,
    )
    assert sumo["oldest_event_age_seconds"] == 90
    assert (sumo["state"], sumo["webhook_status"], sumo["failed_attempts"]) == ("retrying", "inactive", 2)
    assert (sumo["last_response_code"], sumo["last_response_message"]) == (503, "It is busy.")
    assert sumo["next_attempt_at"].endswith("Z")


async def test_any_replica_tells_of_all(admin: Admined) -> None:
    """Who delivers and what the SIEM said there; the newest request, whichever replica answered it."""
    admin.control.answered = {"eu": Sighting(NOW + 1, 429), "us": Sighting(NOW + 5, 200)}
    del admin.control.responses["sumo"]
    admin.control.others = [
        Replica(
            "e5f6",
            "9.9",
            "ingest",
            NOW - 60,
            "c0ffee",
            sources={"eu": Sighting(NOW + 2, 200), "us": Sighting(NOW + 4, 500)},
        ),
        Replica(
            "c3d4",
            "0.1",
            "deliver",
            NOW - 90,
            "facade",
            destinations={"sumo": Sighting(NOW + 3, 502, "Bad gateway.")},
        ),
    ]

    status = await admin.get("/api/v1/status")

    splunk, sumo = status["destinations"]
    assert [(it["id"], it["role"], it["same_configuration"]) for it in status["replicas"]] == [
        ("a1b2", "all", True),
        ("e5f6", "ingest", True),
        ("c3d4", "deliver", False),
    ]
    assert [(it["last_response_code"], it["webhook_status"]) for it in status["sources"]] == [
        (200, "active"),
        (200, "active"),
    ]
    assert (splunk["replica"], splunk["last_attempt_at"], splunk["last_response_message"]) == (
        "a1b2",
        None,
        None,
    )
    assert (sumo["replica"], sumo["last_attempt_at"]) == ("c3d4", rfc3339(NOW + 3))
    assert (sumo["last_response_code"], sumo["last_response_message"]) == (502, "Bad gateway.")


async def test_a_destination_nobody_delivers_to_keeps_its_state(admin: Admined) -> None:
    """While a lease changes hands the stored hold is what counts."""
    del admin.control.responses["sumo"]
    await admin.queue.set_hold("sumo", Hold(HoldReason.OPERATOR, NOW, "moving house"))

    sumo = await admin.get("/api/v1/destinations/sumo")

    assert (sumo["state"], sumo["replica"], sumo["webhook_status"]) == ("paused", None, "inactive")


async def test_status_holds_no_event(admin: Admined) -> None:
    """Neither a line nor what a destination echoed of it."""
    await admin.accept(2)
    await admin.settle("sumo", delivered=1, dead=1)

    status, answer = await admin.ask("GET", "/api/v1/status")

    assert status == 200
    assert "principal_id" not in str(answer)
    assert '{"error"' not in str(answer)


async def test_holding_and_resuming(admin: Admined) -> None:
    """A hold is shown with its reason, and lifted again."""
    _, held = await admin.ask("POST", "/api/v1/destinations/sumo/hold", {"detail": "moving house"})
    _, resumed = await admin.ask("POST", "/api/v1/destinations/sumo/resume")

    assert (
        held["state"],
        held["webhook_enabled"],
        held["webhook_status"],
    ) == ("paused", False, "inactive")
    assert (held["hold"]["reason"], held["hold"]["detail"]) == ("operator", "moving house")
    assert (resumed["state"], resumed["hold"]) == ("active", None)


async def test_a_broken_circuit_is_not_an_operators_hold(admin: Admined) -> None:
    """A destination that refuses our credentials is enabled, but inactive."""
    await admin.queue.set_hold("sumo", Hold(HoldReason.MISCONFIGURED, NOW, "HTTP 401"))

    sumo = await admin.get("/api/v1/destinations/sumo")

    assert (sumo["state"], sumo["webhook_enabled"], sumo["webhook_status"]) == ("held", True, "inactive")


async def test_a_destination_is_forgotten_once_it_is_out_of_the_configuration(admin: Admined) -> None:
    """Until then its backlog is kept and shown as unconfigured."""
    await admin.accept(3)
    admin.control.remove("sumo")

    left = await admin.get("/api/v1/destinations/sumo")
    assert (left["webhook_status"], left["type"], left["backlog"]) == ("unconfigured", None, 3)

    assert (await admin.ask("POST", "/api/v1/destinations/sumo/forget"))[1] == {"forgotten": "sumo"}
    assert (await admin.ask("GET", "/api/v1/destinations/sumo"))[0] == 404


async def test_a_probe_is_reported(admin: Admined) -> None:
    """`test` answers 200 whatever the destination says; the document tells."""
    assert (await admin.ask("POST", "/api/v1/destinations/sumo/test"))[1] == {
        "ok": True,
        "detail": "It answers.",
    }


async def test_dead_letters_are_listed_without_content_page_by_page(admin: Admined) -> None:
    """Ascending ids; the page says where the next one starts."""
    await admin.accept(5)
    await admin.settle("sumo", delivered=0, dead=5)

    first = await admin.get("/api/v1/dead-letters?destination=sumo&reason=rejected&limit=3")
    second = await admin.get(f"/api/v1/dead-letters?limit=3&after={first['meta']['next']}")
    none = await admin.get("/api/v1/dead-letters?destination=splunk")

    assert (len(first["data"]), len(second["data"]), len(none["data"])) == (3, 2, 0)
    assert second["meta"]["next"] is None
    assert tuple(first["data"][0][key] for key in ("status", "detail", "reason", "source")) == (
        400,
        "It says no.",
        "rejected",
        "eu",
    )
    assert "principal_id" not in str(first)


async def test_a_dead_letter_is_shown_with_its_line(admin: Admined) -> None:
    """Whoever asks for one sees the exact event and the destination's answer."""
    await admin.accept(1)
    await admin.settle("sumo", delivered=0, dead=1)
    (letter,) = (await admin.get("/api/v1/dead-letters"))["data"]

    shown = await admin.get(f"/api/v1/dead-letters/{letter['id']}")

    assert cef(0).decode() == shown["line"]
    assert shown["response_excerpt"] == '{"error":"no"}'
    assert letter == shown["summary"]


async def test_dead_letters_are_discarded_and_stay_counted(admin: Admined) -> None:
    """Discarding is final, and in the books."""
    await admin.accept(3)
    await admin.settle("sumo", delivered=0, dead=3)
    first = (await admin.get("/api/v1/dead-letters"))["data"][0]["id"]

    assert (await admin.ask("POST", "/api/v1/dead-letters/discard", {"ids": [first]}))[1] == {"events": 1}

    sumo = await admin.get("/api/v1/destinations/sumo")
    assert (sumo["dead_letters"], sumo["discarded"]) == (2, 1)


async def test_dead_letters_are_redriven(admin: Admined) -> None:
    """They go to a reader beside the live one, which status shows."""
    await admin.accept(3)
    await admin.settle("sumo", delivered=0, dead=3)

    answer = await admin.ask(
        "POST", "/api/v1/dead-letters/redrive", {"destination": "sumo", "since": "2026-01-01T00:00:00Z"}
    )

    assert answer == (200, {"events": 3})
    (reader,) = (await admin.get("/api/v1/destinations/sumo"))["readers"]
    assert (reader["kind"], reader["backlog"]) == ("redrive", 3)


async def test_a_replay_is_started_and_listed(admin: Admined) -> None:
    """202 with the reader; it is listed until it is through."""
    await admin.accept(7)

    status, reader = await admin.ask(
        "POST",
        "/api/v1/replays",
        {"destination": "sumo", "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z", "rate": 50},
    )

    assert (status, reader["kind"], reader["total"], reader["rate"]) == (202, "replay", 7, 50)
    assert [reader] == (await admin.get("/api/v1/replays"))["data"]


async def test_a_replay_to_nobody_is_refused(admin: Admined) -> None:
    """The destination has to be known."""
    body = {"destination": "x", "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"}

    assert (await admin.ask("POST", "/api/v1/replays", body))[0] == 404


async def test_gaps_are_listed(admin: Admined) -> None:
    """What recovery will have to fetch."""
    await admin.queue.open_gap("eu", NOW - 60, NOW, "429")

    (gap,) = (await admin.get("/api/v1/gaps"))["data"]

    assert (gap["source"], gap["cause"], gap["closed_at"]) == ("eu", "429", None)


async def test_without_a_token_a_gap_tells_the_call_to_make(admin: Admined) -> None:
    """The window has a margin and begins with what Konnect still has; nothing secret is in it."""
    await admin.queue.open_gap("eu", NOW - 3600, NOW - 1800, "429")
    await admin.queue.open_gap("us", NOW - 60, NOW - 30, "429")
    admin.control.access = KonnectAccess("eu", margin=60.0, webhooks={"eu": None, "us": "p1"})

    gap, other = (await admin.get("/api/v1/gaps"))["data"]

    assert (gap["state"], gap["age_seconds"], gap["deadline_seconds"]) == ("open", 3600, 7 * 86400 - 3600)
    assert gap["doing"] is None
    (organisation,), (portal,) = gap["replay"], other["replay"]
    assert "https://eu.api.konghq.com/v3/audit-log-replay-job" in organisation
    assert "https://eu.api.konghq.com/v3/portals/p1/audit-log-replay-job" in portal
    body = json.loads(organisation.split(" -d ")[1].strip("'"))
    assert parse_rfc3339(body["start_at"]) == NOW - 3660
    assert parse_rfc3339(body["end_at"]) == NOW - 1740


async def test_where_the_relay_recovers_a_gap_tells_what_is_done(admin: Admined) -> None:
    """By whichever replica does it; what is lost stays in the list and in the status."""
    await admin.queue.open_gap("eu", NOW - 9 * 86400, NOW - 8 * 86400, "downtime", refusals=0)
    await admin.queue.open_gap("eu", NOW - 3600, NOW - 1800, "429")
    await admin.queue.close_gap(1, at=NOW, lost_until=NOW - 8 * 86400)
    admin.control.access = KonnectAccess("eu", recovers=True, webhooks={"eu": None})
    admin.metrics.set_recovered(["eu"])
    doing = Recovering(2, "replaying the hour", at_work=True)
    admin.control.others = [Replica("b2", "1", "all", NOW, "c0ffee", recovering=doing)]

    lost, opened = (await admin.get("/api/v1/gaps?include_closed=true"))["data"]
    status = await admin.get("/api/v1/status")

    assert (lost["state"], lost["deadline"], lost["replay"]) == ("lost", None, [])
    assert (opened["doing"], opened["at_work"], opened["replay"]) == ("replaying the hour", True, [])
    assert lost["at_work"] is False
    assert status["recovery"] == "replaying the hour"
    assert [gap["id"] for gap in status["gaps"]] == [2]
    assert [(each["open_gaps"], each["lost_gaps"]) for each in status["sources"]] == [(1, 1), (0, 0)]
    assert (await admin.series())['relay_gaps_lost{source="eu"}'] == 1


async def test_a_source_without_a_webhook_is_left_to_the_operator(admin: Admined) -> None:
    """The relay has a token, and yet nobody would ever close it: the call is told, nothing waited for."""
    await admin.queue.open_gap("us", NOW - 3600, NOW - 1800, "downtime", refusals=0)
    admin.control.access = KonnectAccess("eu", recovers=True, webhooks={"eu": None})
    doing = Recovering(None, "watching")
    admin.control.others = [Replica("b2", "1", "all", NOW, "c0ffee", recovering=doing)]

    (gap,) = (await admin.get("/api/v1/gaps"))["data"]

    assert (gap["doing"], gap["at_work"], len(gap["replay"])) == (None, False, 1)


async def test_a_gap_is_closed_by_hand(admin: Admined) -> None:
    """For good, once; who did it and why is in the log."""
    await admin.queue.open_gap("eu", NOW - 3600, NOW - 1800, "downtime", refusals=0)

    status, gap = await admin.ask("POST", "/api/v1/gaps/1/close", {"detail": "replayed it"})
    again = await admin.ask("POST", "/api/v1/gaps/1/close")
    await admin.restart()

    assert (status, gap["state"], gap["replay"]) == (200, "closed", [])
    assert again == (200, gap)
    assert (await admin.get("/api/v1/gaps"))["data"] == []


async def test_closing_a_gap_is_in_the_log_once(admin: Admined) -> None:
    """With the gap and the reason; closing it again is no news."""
    await admin.queue.open_gap("eu", NOW - 3600, NOW - 1800, "downtime", refusals=0)
    for _ in range(2):
        await admin.ask("POST", "/api/v1/gaps/1/close", {"detail": "replayed it"})
        await admin.clock.advance(1.0)

    said = [call.kwargs for call in admin.logged.calls if call.kwargs["event"] == "gap.closed_by_hand"]

    assert [(it["gap"], it["source"], it["cause"], it["detail"]) for it in said] == [
        (1, "eu", "downtime", "replayed it")
    ]


async def test_a_misspelt_reason_closes_nothing(admin: Admined) -> None:
    """Unknown fields are refused."""
    await admin.queue.open_gap("eu", NOW - 60, NOW, "429")

    status, _ = await admin.ask("POST", "/api/v1/gaps/1/close", {"detial": "replayed"})

    assert status == 400
    assert len(await admin.queue.gaps()) == 1


async def test_a_process_that_only_delivers_closes_no_gap(admin: Admined) -> None:
    """The other one has them and would write them back."""
    await admin.queue.open_gap("eu", NOW - 60, NOW, "429")
    await admin.restart("deliver")

    assert (await admin.ask("POST", "/api/v1/gaps/1/close"))[0] == 409
    assert len((await admin.get("/api/v1/gaps"))["data"]) == 1


async def test_a_failing_queue_is_a_problem_and_no_stack_trace(admin: Admined) -> None:
    """What the relay raises on purpose reaches the client as a sentence."""
    await admin.lose_queue()

    status, problem = await admin.ask(
        "POST", "/api/v1/destinations/sumo/hold", {"detail": "the disk is gone"}
    )

    assert status == 500
    assert "Traceback" not in problem["detail"]


async def test_a_process_that_only_accepts_leaves_destinations_alone(admin: Admined) -> None:
    """Their books and readers are the other process's; what this one shows of them would be stale."""
    await admin.restart("ingest")
    replay = {"destination": "sumo", "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"}

    assert (await admin.ask("POST", "/api/v1/dead-letters/redrive", {"all": True}))[0] == 409
    assert (await admin.ask("POST", "/api/v1/dead-letters/discard", {"all": True}))[0] == 409
    assert (await admin.ask("POST", "/api/v1/replays", replay))[0] == 409
    assert (await admin.get("/api/v1/status"))["destinations"] == []


async def test_a_change_is_found_in_the_log(admin: Admined) -> None:
    """Who asked for what, and how it ended; reading leaves no line."""
    await admin.ask("GET", "/api/v1/status")
    await admin.ask("POST", "/api/v1/destinations/sumo/hold", {"detail": "moving house"})

    (line,) = admin.logged.calls
    assert (line.kwargs["event"], line.kwargs["path"]) == ("admin.request", "/api/v1/destinations/sumo/hold")
    assert (line.kwargs["status"], line.kwargs["remote"]) == (200, "127.0.0.1")


async def test_a_span_is_pulled_for_an_operator(admin: Admined) -> None:
    """What came of it is answered once everything is in the queue; of another region there is no log here."""
    admin.control.access = KonnectAccess("eu", recovers=True, webhooks={"eu": None})
    span = {"from": "2026-11-17T00:00:00Z", "to": "2026-11-18T00:00:00Z"}

    status, answer = await admin.ask("POST", "/api/v1/pulls", {**span, "region": "eu"})
    refused, problem = await admin.ask("POST", "/api/v1/pulls", {**span, "region": "us"})

    assert (status, answer) == (
        200,
        {"source": "eu", "entries": 3, "accepted": 2, "reached": "2026-11-17T00:00:00.000Z"},
    )
    assert admin.control.pulled == [(parse_rfc3339(span["from"]), parse_rfc3339(span["to"]))]
    assert (refused, "not us" in problem["detail"]) == (409, True)
