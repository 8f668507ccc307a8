"""Does the relay have everything that Konnect has? The real process, and a Konnect on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from relay.clock import SystemClock
from relay.konnect.pulled import line_of
from tests.e2e.support import AUTHORIZATION, SOURCE, configuration, destination, drained
from tests.fakes.konnect import PORTAL, TOKEN, FakeKonnect, Fault, Maker
from tests.fakes.konnect.writing import body, entry, jwks, line
from tests.fakes.process import RelayProcess
from tests.fakes.siem import Answer, Received, Siem

AGO = 600.0  # seconds; what happened then is not on its way any more
RANGE = ("--from", "-1h")


class House:
    """A Konnect, a relay, and two SIEMs: one takes authorizations only, the other refuses what is denied."""

    def __init__(self, konnect: FakeKonnect, relay: RelayProcess) -> None:
        self.konnect = konnect
        self.relay = relay
        self.maker = Maker()
        self.then = SystemClock().now() - AGO

    async def reconcile(self, *arguments: str, status: int = 0) -> Any:
        """The report, once its exit status is what it should be."""
        code, out, err = await self.relay.command("konnect", "reconcile", *RANGE, *arguments, "--json")
        assert code == status, err + out
        return json.loads(out)["report"]


def picky(received: Received) -> Answer:
    return Answer(400 if b"granted=false" in received.body else 200)


@asynccontextmanager
async def house(
    tmp_path: Path, token: str = TOKEN, signatures: dict[str, object] | None = None
) -> AsyncIterator[House]:
    async with Siem() as whole, Siem() as some, FakeKonnect(SystemClock()) as konnect:
        whole.then(picky)
        config = configuration(
            tmp_path,
            [
                destination("whole", whole),
                destination("some", some, filter={"types": ["authorization"]}),
            ],
        )
        config["sources"][0]["signatures"] = signatures or {}
        config["recovery"] = {
            "konnect": {
                "region": "us",
                "token": token,
                "regional_url": konnect.url(),
                "global_url": konnect.url("global"),
                "job_interval": "50ms",
                "margin": "1s",
            }
        }
        konnect.replays.pace = 0.01
        async with RelayProcess(config, tmp_path) as relay:
            url = f"http://127.0.0.1:{relay.port}/audit-logs/{SOURCE}"
            konnect.organisation.bind(url, AUTHORIZATION)
            yield House(konnect, relay)


async def test_whoever_cannot_be_asked_is_named(tmp_path: Path) -> None:
    """A wrong token, a relay that is down, and wrong usage have their sentences and statuses."""
    async with house(tmp_path, token="kpat_wrong") as it:
        code, _, err = await it.relay.command("konnect", "reconcile", *RANGE)
        assert (code, "401" in err) == (1, True)

        code, _, err = await it.relay.command("konnect", "reconcile", "--from", "-1h", "--to", "-2h")
        assert (code, "--from has to be before --to" in err) == (2, True)

        code, _, err = await it.relay.command("konnect", "reconcile", *RANGE, "-o", "report.pdf")
        assert (code, ".html" in err) == (2, True)

    async with house(tmp_path) as it:
        await it.relay.kill()
        code, _, err = await it.relay.command("konnect", "reconcile", *RANGE)
        assert (code, "Is it running?" in err) == (1, True)


async def test_everything_is_accounted_for(tmp_path: Path) -> None:
    """Twins, a Dev Portal's events, filtered and refused ones: each has its column, nothing is missing."""
    async with house(tmp_path) as it:
        twins = [it.maker.authorization(at=it.then)] * 2
        others = it.maker.some(30, at=it.then)
        denied = [it.maker.authorization(at=it.then + 1, granted=False)]
        portal = [it.maker.authentication(at=it.then, portal=PORTAL)]
        it.konnect.happen([*twins, *others, *denied], batch=8)
        await it.konnect.sent()
        await post(it, portal)
        await drained(it.relay, "whole", "some")

        report = await it.reconcile()

        assert report["verdict"] == "complete"
        totals = report["totals"]
        assert (totals["konnect"], totals["received"], totals["missing"], totals["extra"]) == (33, 33, 0, 0)
        assert totals["portal"] == 1
        columns = ("name", "received", "dead_lettered", "filtered", "backlog", "not_owed")
        assert [tuple(each[name] for name in columns) for each in report["destinations"]] == [
            ("whole", 32, 1, 0, 0, 0),
            ("some", 13, 0, 20, 0, 0),
        ]


async def test_what_is_missing_is_found_and_brought_back(tmp_path: Path) -> None:
    """Exit status 1 while Konnect has more; with `--heal` a replay of just that time brings it."""
    async with house(tmp_path) as it:
        twin = it.maker.authorization(at=it.then)
        it.konnect.happen([*it.maker.some(20, at=it.then), twin], batch=5)
        await it.konnect.sent()
        it.konnect.record(it.maker.some(7, at=it.then + 300))
        await drained(it.relay, "whole", "some")

        report = await it.reconcile(status=1)
        assert (report["verdict"], report["totals"]["missing"]) == ("missing", 7)
        assert len(report["missing"]) == 7
        assert [window["missing"] for window in report["windows"]] == [7]

        page = tmp_path / "report.html"
        report = await it.reconcile("--heal", "--output", str(page))

        assert report["healing"]["missing_before"] == 7
        assert [job["state"] for job in report["healing"]["jobs"]] == ["completed"]
        totals = report["totals"]
        assert (report["verdict"], totals["missing"], totals["extra"]) == ("complete", 0, 0)
        assert totals["konnect"] == 28
        assert "Complete" in page.read_text()


async def test_a_replay_that_fails_leaves_it_to_the_relay(tmp_path: Path) -> None:
    """Which pulls what is missing, be it the twin of an event that came, and the report says why."""
    async with house(tmp_path) as it:
        twin = it.maker.authorization(at=it.then)
        it.konnect.happen([twin])
        await it.konnect.sent()
        it.konnect.record([twin])
        it.konnect.replays.fail_after = 0

        # Konnect's log is read once to compare; the relay's own reading comes second.
        it.konnect.faults.add(Fault("GET", "*/audit-logs", status=403, after=1))
        report = await it.reconcile("--heal", status=1)

        assert (report["totals"]["missing"], report["healing"]["missing_after"]) == (1, 1)
        assert report["healing"]["not_replayed"] == "Konnect's replay job ended as failed."
        assert "403" in report["healing"]["problem"]

        it.konnect.replays.fail_after = 0
        report = await it.reconcile("--heal")

        assert (report["totals"]["missing"], report["healing"]["missing_after"]) == (0, 0)
        assert [pull["accepted"] for pull in report["healing"]["pulls"]] == [1]
        assert report["healing"]["problem"] is None


async def test_what_konnect_does_not_show_is_extra(tmp_path: Path) -> None:
    """It is listed, and proves no loss."""
    async with house(tmp_path) as it:
        await post(it, [it.maker.access(at=it.then)])
        await drained(it.relay, "whole", "some")

        report = await it.reconcile()

        assert (report["totals"]["extra"], report["totals"]["missing"]) == (1, 0)
        assert [(each["type"], each["action"]) for each in report["extra"]] == [
            ("access", "POST /konnect-api/api/control_planes")
        ]
        assert [each["extra"] for each in report["destinations"]] == [1, 0]


async def test_a_forged_copy_is_no_proof(tmp_path: Path) -> None:
    """Neither one that was kept back, nor one that says it was pulled; the replay brings the event."""
    (tmp_path / "keys.json").write_text(json.dumps(jwks()))
    signatures: dict[str, object] = {"mode": "quarantine", "jwks": str(tmp_path / "keys.json")}
    async with house(tmp_path, signatures=signatures) as it:
        event = it.maker.authorization(at=it.then)
        it.konnect.record([event])
        forged = line(event, "cef", stamp=it.then, signed=False)
        await send(it, forged + b"\n" + line_of(entry(event, signed=False)) + b"\n")
        await drained(it.relay, "whole", "some")

        report = await it.reconcile(status=1)
        assert (report["verdict"], report["totals"]["missing"]) == ("missing", 1)
        assert (report["totals"]["received"], report["totals"]["kept_back"]) == (0, 2)

        report = await it.reconcile("--heal")
        assert (report["verdict"], report["totals"]["received"]) == ("complete", 1)


async def test_what_konnect_has_deleted_is_not_called_complete(tmp_path: Path) -> None:
    """Of a time that its log does not reach back to, nobody can tell."""
    async with house(tmp_path) as it:
        for span in (("--from", "-30d", "--to", "-8d"), ("--from", "-7d")):
            report = await it.reconcile(*span, status=1)

            assert (report["verdict"], report["totals"]["missing"]) == ("unproven", 0)
            assert report["konnect"]["deleted_before"] <= report["range"]["to"]

        report = await it.reconcile("--from", "-6d")
        assert (report["verdict"], report["konnect"]["deleted_before"]) == ("complete", None)


async def post(it: House, events: list[Any]) -> None:
    """Events that Konnect's log of the organisation does not have."""
    await send(it, body(events, "json"))


async def send(it: House, text: bytes) -> None:
    """As the webhook would."""
    headers = {"Authorization": AUTHORIZATION, "Content-Type": "text/plain"}
    assert (await it.relay.post(text, SOURCE, headers))[0] == 200
