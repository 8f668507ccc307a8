"""`konnect setup` and `konnect teardown`: what is written to Konnect, and what is undone."""

from __future__ import annotations

import asyncio
import io
import stat
from pathlib import Path

import pytest

from relay.config.secret import Secret
from relay.recovery.answers import ORGANISATION
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectConflict
from relay.recovery.removal import delete_patiently
from relay.recovery.setup import SetupFailed, carry_out, plan
from tests.contract.recovery.commands import ENDPOINT, Commands
from tests.fakes.clock import FakeClock
from tests.fakes.konnect import PORTAL, TOKEN, FakeKonnect, Fault, Place
from tests.fakes.process import free_port

OTHER = "https://other.example.com/in?code=s3cret-code"


def written(konnect: FakeKonnect) -> list[str]:
    """The calls that change something."""
    return [f"{call.method} {call.path}" for call in konnect.calls if call.method != "GET"]


def is_untouched(konnect: FakeKonnect) -> bool:
    webhook = konnect.organisation.webhook(Place())
    return not konnect.organisation.destinations and webhook.destination is None and not webhook.enabled


# What goes wrong


@pytest.mark.parametrize(
    ("status", "words"), [(401, "access token"), (403, "Audit Logs / Admin"), (500, "500"), (429, "429")]
)
async def test_a_refused_token_changes_nothing(
    konnect: FakeKonnect, command: Commands, status: int, words: str
) -> None:
    """One sentence, exit status 1."""
    konnect.faults.add(Fault("*", "*", status=status, times=-1))

    code, out, err = await command("setup", "--yes")

    assert (code, out, written(konnect)) == (1, "", [])
    assert words in err
    assert err.count("\n") == 1
    assert TOKEN not in err


async def test_no_route_is_a_sentence(konnect: FakeKonnect, command: Commands) -> None:
    """Konnect cannot be reached at all."""
    command.settings["regional_url"] = f"http://127.0.0.1:{free_port()}"

    code, out, err = await command("setup", "--yes")

    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "cannot connect" in err


async def test_a_hanging_konnect_ends_in_time(konnect: FakeKonnect, command: Commands) -> None:
    """Every call is bounded by the configured time-out."""
    command.settings["timeout"] = "100ms"
    konnect.faults.add(Fault("GET", "*", hang=True))

    code, _, err = await command("setup", "--yes")

    assert code == 1
    assert "no complete answer" in err


@pytest.mark.parametrize("set_by", ["v2", "v3"])
async def test_a_webhook_in_use_is_left_alone(konnect: FakeKonnect, command: Commands, set_by: str) -> None:
    """However it was set; the key in its endpoint is not shown."""
    if set_by == "v3":
        konnect.organisation.bind(OTHER, "x")
    else:
        konnect.organisation.webhook(Place()).destination = konnect.organisation.new_destination(
            "inline", OTHER, "x"
        )

    code, out, err = await command("setup", "--yes")

    assert (code, out, written(konnect)) == (1, "", [])
    assert "in use" in err
    assert "--take-over" in err
    assert "https://other.example.com/in?…" in err
    assert "s3cret-code" not in err


async def test_a_taken_name_is_told_before_anything_is_written(
    konnect: FakeKonnect, command: Commands
) -> None:
    """Names are unique over all regions."""
    taken = konnect.organisation.bind(OTHER, "x", place=Place("eu"))
    taken.name = "konnect-relay-us"

    code, _, err = await command("setup", "--yes")

    assert (code, written(konnect)) == (1, [])
    assert "--name" in err


async def test_a_name_taken_meanwhile_changes_nothing(konnect: FakeKonnect, command: Commands) -> None:
    """409 on creation comes too late for the plan, not for the rest."""
    konnect.faults.add(Fault("POST", "*/audit-log-destinations", status=409))

    code, _, err = await command("setup", "--yes")

    assert code == 1
    assert "Nothing was changed" in err
    assert is_untouched(konnect)


@pytest.mark.parametrize("effective", [False, True])
async def test_a_lost_answer_to_the_creation_leaves_nothing(
    konnect: FakeKonnect, command: Commands, tmp_path: Path, effective: bool
) -> None:
    """Whether or not the destination was created behind it; the secret file goes as well."""
    konnect.faults.add(Fault("POST", "*", status=502, effective=effective))
    file = tmp_path / "authorization"

    code, _, err = await command("setup", "--yes", "--secret-file", str(file))

    assert code == 1
    assert "Nothing was changed" in err
    assert is_untouched(konnect)
    assert not file.exists()


@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize("status", [400, 502])
async def test_a_webhook_that_cannot_be_set_is_undone(
    konnect: FakeKonnect, command: Commands, status: int, effective: bool
) -> None:
    """The destination is deleted again, also when the change happened and only its answer was lost."""
    konnect.faults.add(Fault("PATCH", "*/audit-log-webhook", status=status, effective=effective))

    code, _, err = await command("setup", "--yes")

    assert code == 1
    assert "Everything is as it was before" in err
    assert is_untouched(konnect)


async def test_a_failed_take_over_puts_the_former_destination_back(
    konnect: FakeKonnect, command: Commands
) -> None:
    """Bound and enabled as it was."""
    before = konnect.organisation.bind(OTHER, "x")
    konnect.faults.add(Fault("PATCH", "*/audit-log-webhook", status=502, effective=True))

    code, _, _ = await command("setup", "--yes", "--take-over")

    webhook = konnect.organisation.webhook(Place())
    assert code == 1
    assert (webhook.destination, webhook.enabled) == (before, True)
    assert list(konnect.organisation.destinations) == [before.id]


async def test_a_failed_take_over_of_an_inline_webhook_tells_what_is_lost(
    konnect: FakeKonnect, command: Commands
) -> None:
    """Nobody can read its authorization, so nobody can put it back."""
    inline = konnect.organisation.new_destination("inline", OTHER, "x")
    konnect.organisation.webhook(Place()).destination = inline
    konnect.faults.add(Fault("PATCH", "*/audit-log-webhook", status=502, effective=True))

    code, _, err = await command("setup", "--yes", "--take-over")

    assert code == 1
    assert "has to be set again by hand" in err
    assert is_untouched(konnect)


async def test_what_cannot_be_undone_is_told(konnect: FakeKonnect, command: Commands, tmp_path: Path) -> None:
    """Konnect goes away between two steps: the message names what is left, and how to remove it."""
    konnect.faults.add(Fault("PATCH", "*/audit-log-webhook", status=500))
    konnect.faults.add(Fault("DELETE", "*", status=500, times=-1))

    file = tmp_path / "authorization"

    code, _, err = await command("setup", "--yes", "--secret-file", str(file))

    (left,) = konnect.organisation.destinations
    assert code == 1
    assert file.exists()
    assert left in err
    assert "konnect teardown --name konnect-relay-us" in err


@pytest.mark.parametrize("at", ["*/audit-log-destinations", "*/audit-log-webhook"])
async def test_an_interrupted_set_up_is_undone(
    konnect: FakeKonnect, api: KonnectApi, clock: FakeClock, at: str
) -> None:
    """Ctrl-C while Konnect thinks: whoever pressed it wants no half of it."""
    wanted = await plan(api, ORGANISATION, name="relay", endpoint=ENDPOINT, log_format="cef", take_over=False)
    method = "POST" if at.endswith("destinations") else "PATCH"
    konnect.faults.add(Fault(method, at, hang=True, effective=True))
    running = asyncio.ensure_future(carry_out(api, wanted, Secret("Bearer new"), clock))
    await konnect.asked(method, at.removeprefix("*"))

    running.cancel()

    with pytest.raises(SetupFailed, match="interrupted"):
        await running
    assert is_untouched(konnect)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--url", "http://relay.example.com"), "https"),
        (("--url", "https://relay.example.com:port"), "https"),
        (("--url", "relay"), "https"),
        (("--region", "us.example.com"), "region"),
        (("--format", "xml"), "xml"),
    ],
)
async def test_wrong_usage_asks_nothing(
    konnect: FakeKonnect, command: Commands, arguments: tuple[str, ...], words: str
) -> None:
    """Exit status 2."""
    code, out, err = await command("setup", "--yes", *arguments)

    assert (code, out, konnect.calls) == (2, "", [])
    assert words in err


@pytest.mark.parametrize(
    ("missing", "words"), [("token", "KONNECT_TOKEN"), ("url", "--url"), ("region", "region")]
)
async def test_what_is_missing_is_named(
    konnect: FakeKonnect, command: Commands, missing: str, words: str
) -> None:
    """With the option that gives it."""
    del command.settings[missing]

    code, _, err = await command("setup", "--yes")

    assert code in (1, 2)
    assert words in err
    assert konnect.calls == []


async def test_a_token_file_that_cannot_be_read_is_a_sentence(
    konnect: FakeKonnect, command: Commands, tmp_path: Path
) -> None:
    """It says which file, and asks nothing."""
    code, _, err = await command("setup", "--token-file", str(tmp_path / "none"))

    assert (code, konnect.calls) == (2, [])
    assert str(tmp_path / "none") in err


async def test_a_token_no_header_can_hold_is_refused(
    konnect: FakeKonnect, command: Commands, tmp_path: Path
) -> None:
    """Without repeating it."""
    (tmp_path / "token").write_text("kpat_a b\nc")

    code, _, err = await command("setup", "--token-file", str(tmp_path / "token"))

    assert (code, konnect.calls) == (2, [])
    assert "kpat_a" not in err


# What it does


async def test_nothing_is_written_before_a_yes(
    konnect: FakeKonnect, command: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is shown, and an end of input is a no."""
    monkeypatch.setattr("sys.stdin", io.StringIO())

    code, _, err = await command("setup", "--secret-file", str(tmp_path / "authorization"))

    assert (code, written(konnect)) == (1, [])
    assert f"create the destination konnect-relay-us: cef to {ENDPOINT}" in err
    assert "bind the webhook of the organisation" in err
    assert not (tmp_path / "authorization").exists()


async def test_the_webhook_points_here(konnect: FakeKonnect, command: Commands) -> None:
    """A destination of its own with a fresh authorization, which is told once."""
    document = await command.document("setup", "--yes", "--format", "json")

    webhook = konnect.organisation.webhook(Place())
    made = webhook.destination
    assert made is not None
    assert webhook.enabled
    assert (made.endpoint, made.log_format, made.skip_ssl_verification) == (ENDPOINT, "json", False)
    assert made.authorization == document["authorization"]
    assert made.authorization.startswith("Bearer ")
    assert len(made.authorization) >= 40
    assert document["destination"] == {"id": made.id, "name": "konnect-relay-us"}


async def test_the_authorization_goes_into_a_file_of_ours_alone(
    konnect: FakeKonnect, command: Commands, tmp_path: Path
) -> None:
    """Mode 0600, and not on the screen."""
    file = tmp_path / "authorization"

    code, out, err = await command("setup", "--yes", "--secret-file", str(file))

    made = konnect.organisation.webhook(Place()).destination
    assert made is not None
    assert (code, file.read_text()) == (0, f"{made.authorization}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made.authorization not in out + err
    assert f"{{file: {file}}}" in out


async def test_an_existing_file_is_what_konnect_will_send(
    konnect: FakeKonnect, command: Commands, tmp_path: Path
) -> None:
    """So that the relay may know it first."""
    file = tmp_path / "authorization"
    file.write_text("Splunk known-before\n")

    code, out, err = await command("setup", "--yes", "--secret-file", str(file))

    made = konnect.organisation.webhook(Place()).destination
    assert code == 0
    assert made is not None
    assert made.authorization == "Splunk known-before"
    assert "known-before" not in out + err


async def test_the_configured_authorization_may_be_what_konnect_sends(
    konnect: FakeKonnect, command: Commands
) -> None:
    """Then the relay knows it already, and nobody has to be shown it."""
    code, out, err = await command("setup", "--yes", "--as-configured")

    made = konnect.organisation.webhook(Place()).destination
    assert code == 0
    assert made is not None
    assert made.authorization == "Bearer old"
    assert "Bearer old" not in out + err


async def test_one_authorization_cannot_come_from_two_places(
    konnect: FakeKonnect, command: Commands, tmp_path: Path
) -> None:
    """Wrong usage."""
    code, _, _ = await command("setup", "--as-configured", "--secret-file", str(tmp_path / "x"))

    assert (code, konnect.calls) == (2, [])


async def test_a_portals_webhook_is_set_with_its_own_source(
    konnect: FakeKonnect, command: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The organisation's stays as it is; the token may come from the environment or from a file."""
    command.config["sources"].append({"name": "portal", "authorization": "Bearer p"})
    command.settings["portals"] = [{"id": PORTAL, "source": "portal"}]
    del command.settings["token"]
    monkeypatch.setenv("KONNECT_TOKEN", "kpat_wrong")
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    document = await command.document(
        "setup", "--yes", "--portal", PORTAL, "--token-file", str(tmp_path / "token")
    )

    assert document["endpoint"] == "https://relay.example.com/audit-logs/portal"
    assert konnect.organisation.webhook(Place(portal=PORTAL)).enabled
    assert konnect.organisation.webhook(Place()).destination is None


async def test_a_webhook_in_use_is_taken_over_when_told(konnect: FakeKonnect, command: Commands) -> None:
    """The plan says who loses it."""
    konnect.organisation.bind(OTHER, "x")

    code, _, err = await command("setup", "--yes", "--take-over")

    made = konnect.organisation.webhook(Place()).destination
    assert code == 0
    assert "which sends to https://other.example.com/in?… now" in err
    assert made is not None
    assert made.endpoint == ENDPOINT


@pytest.mark.parametrize("why", ["disabled", "inactive"])
async def test_a_webhook_of_ours_is_only_switched_on_again(
    konnect: FakeKonnect, command: Commands, why: str
) -> None:
    """No second destination, no new authorization."""
    made = konnect.organisation.bind(ENDPOINT, "Bearer old")
    webhook = konnect.organisation.webhook(Place())
    webhook.enabled, webhook.failing = why != "disabled", why == "inactive"

    document = await command.document("setup", "--yes")

    assert written(konnect) == ["PATCH /v3/audit-log-webhook"]
    assert (webhook.status, webhook.destination, made.authorization) == ("active", made, "Bearer old")
    assert document["authorization"] is None


async def test_a_webhook_that_is_right_is_left_alone(konnect: FakeKonnect, command: Commands) -> None:
    """It says what to do for a new authorization."""
    konnect.organisation.bind(ENDPOINT, "Bearer old")

    code, _, err = await command("setup", "--yes")

    assert (code, written(konnect)) == (1, [])
    assert "konnect rotate" in err


# Taking it back


async def test_teardown_leaves_nothing(konnect: FakeKonnect, command: Commands) -> None:
    """Off, unset, deleted, with patience while Konnect calls it in use."""
    await command.document("setup", "--yes")
    konnect.calls.clear()
    konnect.organisation.linger = 1

    document = await command.document("teardown", "--yes")

    path = f"/v3/audit-log-destinations/{document['destination']['id']}"
    assert document["webhook_unset"] is True
    assert is_untouched(konnect)
    assert written(konnect) == [
        "PATCH /v3/audit-log-webhook",
        "DELETE /v3/audit-log-webhook",
        f"DELETE {path}",
        f"DELETE {path}",
    ]


async def test_teardown_leaves_a_webhook_of_others_alone(konnect: FakeKonnect, command: Commands) -> None:
    """Somebody took the webhook over: only the destination goes."""
    other = konnect.organisation.bind(OTHER, "x")
    ours = konnect.organisation.new_destination("konnect-relay-us", ENDPOINT, "y")
    konnect.organisation.destinations[ours.id] = ours

    document = await command.document("teardown", "--yes")

    assert document["webhook_unset"] is False
    assert konnect.organisation.webhook(Place()).destination is other
    assert list(konnect.organisation.destinations) == [other.id]


async def test_a_name_from_konnect_steers_no_terminal(konnect: FakeKonnect, command: Commands) -> None:
    """Nor does what it says of a failure."""
    made = konnect.organisation.bind(ENDPOINT, "Bearer x")
    made.name = "evil\x1b[2J"
    konnect.organisation.webhook(Place()).enabled = False

    _, out, err = await command("setup", "--yes")
    assert "sends to evil" in out
    assert "\x1b" not in out + err
    code, out, err = await command("teardown", "--yes", "--name", made.name)
    assert (code, "The destination evil" in out) == (0, True)
    assert "\x1b" not in out + err
    code, _, err = await command("teardown", "--yes", "--name", made.name)
    assert (code, "evil" in err) == (1, True)
    assert "\x1b" not in err


async def test_teardown_of_nothing_is_a_sentence(konnect: FakeKonnect, command: Commands) -> None:
    """And changes nothing."""
    code, _, err = await command("teardown", "--yes", "--name", "nobody")

    assert (code, written(konnect)) == (1, [])
    assert "no destination called nobody" in err


async def test_patience_ends_after_a_minute(konnect: FakeKonnect, api: KonnectApi, clock: FakeClock) -> None:
    """A destination that another webhook uses stays in use for good."""
    made = konnect.organisation.bind(ENDPOINT, "x")
    waits: list[float] = []

    class Impatient(FakeClock):
        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            self._elapsed += seconds

    with pytest.raises(KonnectConflict, match="in use"):
        await delete_patiently(api, made.id, Impatient())

    assert waits[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert max(waits) == 5.0
    assert 50 <= sum(waits) <= 60
    assert (await api.webhook(ORGANISATION)).destination_id == made.id


# What Konnect says


async def test_status_shows_every_webhook(konnect: FakeKonnect, command: Commands) -> None:
    """The organisation's and each configured portal's."""
    command.config["sources"].append({"name": "portal", "authorization": "Bearer p"})
    command.settings["portals"] = [{"id": PORTAL, "source": "portal"}]
    konnect.organisation.bind(OTHER, "x")

    document = await command.document("status")
    _, out, _ = await command("status")

    assert [row["webhook_status"] for row in document["webhooks"]] == ["active", "unconfigured"]
    assert document["webhooks"][0]["endpoint"] == "https://other.example.com/in?…"
    assert document["webhooks"][1]["portal"] == PORTAL
    assert "organisation (us)" in out
    assert "s3cret-code" not in out
