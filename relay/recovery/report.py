"""A reconciliation as a document to be filed: JSON with a digest, or one page of HTML that holds both.

Owns both forms. Every value in them is text, a whole number, true, false or null, so that the digest, over
the compact JSON with sorted keys, can be made again with any tool (docs/reconcile.md says how).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from relay.konnect.times import rfc3339
from relay.queue.fates import Fate
from relay.recovery.healing import Replayed
from relay.recovery.reconciling import Listed, Outcome

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Who asked whom, and when. Times as RFC 3339."""

    made_at: str
    made_by: str
    version: str
    region: str
    konnect: str  # the host that was asked
    relay: str  # its admin listener
    relay_version: str
    replica: str
    source: str | None  # None: all of the relay's sources
    start: str
    end: str
    retained_from: str | None  # since when the relay's log is whole; None: from its first event on
    discarded: dict[str, int]  # dead letters deleted by hand so far, by destination


@dataclass(frozen=True, slots=True)
class Healing:
    """What was done about it."""

    jobs: Sequence[Replayed]
    missing_before: int
    not_replayed: str | None  # why replay jobs did not bring everything
    pulls: Sequence[Mapping[str, Any]]  # spans that the relay pulled instead, as it answered
    problem: str | None  # why it went no further


def document(about: Circumstances, outcome: Outcome, healing: Healing | None) -> dict[str, object]:
    """The report."""
    return {
        "kind": "konnect-relay reconciliation",
        "format": FORMAT,
        "made": {"at": about.made_at, "by": about.made_by, "version": about.version},
        "range": {"from": about.start, "to": about.end},
        "konnect": {
            "region": about.region,
            "host": about.konnect,
            "organisations": list(outcome.organisations),
            "deleted_before": None if outcome.deleted_before is None else rfc3339(outcome.deleted_before),
        },
        "relay": {
            "admin": about.relay,
            "version": about.relay_version,
            "replica": about.replica,
            "source": about.source,
            "retained_from": about.retained_from,
        },
        "verdict": verdict(outcome),
        "totals": {
            "konnect": outcome.konnect,
            "accepted": outcome.accepted,
            "received": outcome.received,
            "alike": outcome.alike,
            "missing": outcome.missing,
            "unproven": outcome.unproven,
            "extra": outcome.extra,
            "portal": outcome.portal,
            "unreadable": outcome.unreadable,
            "kept_back": outcome.kept_back,
            "konnect_unreadable": outcome.konnect_unreadable,
        },
        "destinations": [
            {
                "name": name,
                "received": fates[Fate.DELIVERED],
                "missing": outcome.missing,
                "unproven": outcome.unproven,
                "extra": outcome.extra_at[name],
                "dead_lettered": fates[Fate.DEAD_LETTERED],
                "filtered": fates[Fate.FILTERED],
                "backlog": fates[Fate.BACKLOG],
                "not_owed": fates[Fate.NOT_OWED],
                "discarded_ever": about.discarded.get(name, 0),
            }
            for name, fates in outcome.destinations.items()
        ],
        "windows": [
            {"from": rfc3339(each.start), "to": rfc3339(each.end), "missing": each.missing}
            for each in outcome.windows
        ],
        "missing": [_listed(it) for it in outcome.listed_missing],
        "extra": [_listed(it) for it in outcome.listed_extra],
        "healing": None if healing is None else _healing(healing, outcome),
    }


def verdict(outcome: Outcome) -> str:
    """One word: `complete`, `missing`, or `unproven` where nobody can tell any more."""
    if outcome.missing:
        return "missing"
    return "complete" if outcome.complete else "unproven"


def _listed(listed: Listed) -> dict[str, object]:
    key = listed.key
    return {
        "at": rfc3339(key.at),
        "type": key.type.value,
        "name": key.name,
        "action": key.action,
        "outcome": key.outcome,
        "principal_id": key.principal_id,
        "org_id": key.org_id,
        "trace_id": key.trace_id,
        "count": listed.count,
    }


def _healing(healing: Healing, outcome: Outcome) -> dict[str, object]:
    return {
        "missing_before": healing.missing_before,
        "missing_after": outcome.missing,
        "not_replayed": healing.not_replayed,
        "problem": healing.problem,
        "jobs": [
            {
                "from": rfc3339(round(job.start * 1000)),
                "to": rfc3339(round(job.end * 1000)),
                "missing": job.missing,
                "state": job.state.value,
            }
            for job in healing.jobs
        ],
        "pulls": [
            {name: pull[name] for name in ("from", "to", "entries", "accepted")} for pull in healing.pulls
        ],
    }


def digest(report: dict[str, object]) -> str:
    """SHA-256 of the compact JSON with sorted keys, in hexadecimal."""
    return sha256(orjson.dumps(report, option=orjson.OPT_SORT_KEYS)).hexdigest()


def enveloped(report: dict[str, object]) -> dict[str, Any]:
    """The report with its digest beside it."""
    return {"report": report, "sha256": digest(report)}
