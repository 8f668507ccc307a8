"""`status`: what the relay is doing, on one screen."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from relay.cli import output
from relay.cli.client import reach
from relay.cli.gaps import doing
from relay.cli.options import DEFAULT_CONFIG, AdminTokenOption, AdminUrlOption, ConfigOption, JsonOption


def status(
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = None,
    admin_token: AdminTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sources, destinations, backlog, age of the oldest event, circuit, dead letters."""
    with reach(config, admin_url, admin_token) as relay:
        document = relay.get("/api/v1/status")
    if as_json:
        output.print_json(document)
        return
    screen = output.console()
    screen.print(headline(document), markup=False)
    screen.print()
    screen.print(_destinations(document["destinations"]))
    screen.print()
    screen.print(_sources(document["sources"]))
    if document["gaps"]:
        screen.print()
        screen.print(_gaps(document["gaps"]))
        for it in document["gaps"]:
            for call in it["replay"]:
                screen.print(output.printable(call), markup=False, soft_wrap=True)
            if it["replay"]:
                screen.print(f"and when it is replayed: konnect-relay gaps close {it['id']}", markup=False)
    if len(document["replicas"]) > 1:
        screen.print()
        screen.print(_replicas(document["replicas"], document["destinations"]))


def headline(document: Any) -> str:
    """The lines above the tables."""
    queue = document["queue"]
    trouble = queue.get("trouble")  # not told by relays before it
    refusing = f"REFUSING: {trouble}" if trouble else "REFUSING for lack of room"
    on_disk = queue["disk_free_bytes"]
    free = "" if on_disk is None else f"{output.size(on_disk)} free on disk, "
    lines = [
        f"konnect-relay {document['version']}, role {document['role']}, up since {document['started_at']}",
        (
            f"queue: {'accepting' if queue['accepting'] else refusing}, "
            f"{output.size(queue['bytes'])} of {output.size(queue['max_bytes'])}, "
            f"{free}{queue['events']:,} events"
        ),
    ]
    if queue["corrupt_batches"] or queue["quarantined_bodies"]:
        corrupt = queue["corrupt_batches"]  # counted by the process; what is kept outlives it
        found = f", {corrupt:,} found corrupt since the start" if corrupt else ""
        lines.append(
            f"quarantine: {queue['quarantined_bodies']:,} bodies or batches that could not be read{found}"
        )
    if document["open_gaps"]:
        lines.append(f"gaps: {document['open_gaps']:,} open; Konnect may hold events that never arrived")
    if document["recovery"]:
        lines.append(f"recovery: {output.printable(document['recovery'])}")
    if lost := sum(it["lost_gaps"] for it in document["sources"]):
        lines.append(f"lost: Konnect had deleted events of {lost:,} gaps before they could be fetched")
    return "\n".join(lines)


def _destinations(destinations: list[Any]) -> Table:
    return output.table(
        "DESTINATION",
        "TYPE",
        "STATE",
        "#BACKLOG",
        "#OLDEST",
        "#DELIVERED",
        "#FILTERED",
        "#DEAD LETTERS",
        "LAST ANSWER",
        rows=[
            (
                it["name"],
                it["type"] or "not configured",
                _circuit(it),
                it["backlog"],
                output.span(it["oldest_event_age_seconds"]) if it["oldest_event_at"] else None,
                it["delivered"],
                it["filtered"],
                it["dead_letters"],
                _answer(it),
            )
            for it in destinations
        ],
    )


def _circuit(destination: Any) -> str:
    hold = destination["hold"]
    if hold:
        return f"{destination['state'] or 'held'} ({hold['reason']})"
    if destination["next_attempt_at"]:
        return f"retrying at {destination['next_attempt_at']}"
    return str(destination["state"] or "–")


def _answer(destination: Any) -> str | None:
    if not destination["last_attempt_at"]:
        return None
    code = destination["last_response_code"]
    message = destination["last_response_message"] or ""
    return f"{destination['last_attempt_at']} {'' if code is None else f'{code} '}{message}"


def _sources(sources: list[Any]) -> Table:
    return output.table(
        "SOURCE",
        "PATH",
        "STATE",
        "#ACCEPTED",
        "#DUPLICATES",
        "LAST EVENT",
        "#LAST CODE",
        "#OPEN GAPS",
        "SIGNATURES",
        rows=[
            (
                it["name"],
                it["path"] or "not configured",
                it["webhook_status"],
                it["accepted"],
                it["duplicates"],
                it["last_event_at"],
                it["last_response_code"],
                it["open_gaps"],
                _signatures(it["signatures"]),
            )
            for it in sources
        ],
    )


def _signatures(found: Any) -> str:
    """In as few words as they need: what did not verify, and why nothing can."""
    if found is None:
        return "not checked"
    others = ("failed", "malformed", "absent", "no_key")
    told = [f"{found[name]:,} {name}" for name in ("verified", *others) if name == "verified" or found[name]]
    trouble = [f"keys: {found['keys_trouble']}"] if found["keys_trouble"] else []
    return ", ".join([*told, *trouble])


def _gaps(gaps: list[Any]) -> Table:
    return output.table(
        "GAP",
        "SOURCE",
        "CAUSE",
        "FROM",
        "TO",
        "#AGE",
        "#LEFT",
        "DOING",
        rows=[
            (
                it["id"],
                it["source"],
                it["cause"],
                it["start"],
                it["end"],
                output.span(it["age_seconds"]),
                output.span(it["deadline_seconds"]),
                doing(it),
            )
            for it in gaps
        ],
    )


def _replicas(replicas: list[Any], destinations: list[Any]) -> Table:
    return output.table(
        "REPLICA",
        "VERSION",
        "ROLE",
        "UP SINCE",
        "CONFIGURATION",
        "DELIVERS TO",
        rows=[
            (
                it["id"],
                it["version"],
                it["role"],
                it["started_at"],
                it["configuration"] if it["same_configuration"] else f"{it['configuration']} DIFFERS",
                ", ".join([each["name"] for each in destinations if each["replica"] == it["id"]]) or None,
            )
            for it in replicas
        ],
    )
