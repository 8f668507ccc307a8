"""A report as one page of HTML that needs nothing else: tables for people, and the JSON it was made of.

Owns the page. Everything in it is escaped: names, paths and principals are what a caller chose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

import orjson

from relay.recovery.report import enveloped

_STYLE: Final = """
:root { color-scheme: light; }
body { font: 14px/1.5 system-ui, sans-serif; color: #1c2430;
  margin: 2.5rem auto; max-width: 62rem; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; } .small { color: #5a6675; font-size: .85rem; }
.verdict { display: inline-block; font-weight: 600;
  padding: .25rem .75rem; border-radius: .3rem; margin: .75rem 0; }
.complete { background: #dff3e4; color: #14532d; } .missing { background: #fde2e1; color: #7f1d1d; }
.unproven { background: #fdf0d0; color: #713f12; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e2e7ee; vertical-align: top; }
th { color: #5a6675; font-weight: 600; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; } td.n, th.n, td.at { white-space: nowrap; overflow-wrap: normal; }
td.bad { color: #b91c1c; font-weight: 600; }
code { font: .8rem ui-monospace, monospace; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; } }
"""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_SENTENCES: Final[Mapping[str, str]] = {
    "complete": "Complete: every event Konnect has was accepted",
    "missing": "Missing: Konnect has events that were not accepted",
    "unproven": "Unproven: part of the range can no longer be told",
}
_TOTALS: Final[Sequence[tuple[str, str]]] = (
    ("konnect", "in Konnect's log"),
    ("received", "of these accepted by the relay"),
    ("alike", "of these told by everything but the name of a resource"),
    ("missing", "in Konnect's log and missing"),
    ("unproven", "in Konnect's log and older than what the relay's still holds"),
    ("konnect_unreadable", "in Konnect's log with nothing to compare by"),
    ("extra", "accepted, and not in Konnect's log"),
    ("portal", "accepted from a Dev Portal, which Konnect's log does not cover"),
    ("unreadable", "accepted with nothing to compare by"),
    ("kept_back", "kept back for their signature, which count as not accepted"),
)
_COLUMNS: Final = (
    "received",
    "missing",
    "unproven",
    "extra",
    "dead_lettered",
    "filtered",
    "backlog",
    "not_owed",
)
_ALARMING: Final = frozenset({"missing", "dead_lettered"})


def html(report: dict[str, object]) -> str:
    """The page for a report as `relay.recovery.report.document` makes it."""
    it: Any = report
    envelope = enveloped(report)
    verdict = str(it["verdict"])
    parts = [
        f"<h1>Audit log reconciliation</h1><p>{_e(it['range']['from'])} to {_e(it['range']['to'])}</p>",
        f'<p class="verdict {_e(verdict)}">{_e(_SENTENCES[verdict])}</p>',
        _about(it),
        "<h2>Events</h2>" + _pairs((text, it["totals"][name], name) for name, text in _TOTALS),
        "<h2>By destination</h2>" + _destinations(it["destinations"]),
        _healing(it["healing"]),
        _events("Missing", it["missing"], it["totals"]["missing"]),
        _events("Extra", it["extra"], it["totals"]["extra"]),
        "<h2>Integrity</h2><p>SHA-256 of this page's report as compact JSON with sorted keys:</p>",
        f"<p><code>{_e(envelope['sha256'])}</code></p>",
    ]
    # Inside a script element only its own end tag is special.
    raw = orjson.dumps(report, option=orjson.OPT_SORT_KEYS).decode().replace("<", "\\u003c")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>Audit log reconciliation {_e(it['range']['from'])}</title>"
        f"<style>{_STYLE}</style></head><body>"
        + "".join(parts)
        + f'<script type="application/json" id="report">{raw}</script></body></html>\n'
    )


def _e(value: object) -> str:
    return "–" if value is None else escape(str(value))


def _n(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _e(value)


def _about(it: Any) -> str:
    made, konnect, relay = it["made"], it["konnect"], it["relay"]
    rows = (
        ("Made", f"{made['at']} by {made['by']} with konnect-relay {made['version']}"),
        ("Konnect", f"{konnect['host']}, organisation {', '.join(konnect['organisations']) or 'unknown'}"),
        ("Relay", f"{relay['admin']}, version {relay['version']}, replica {relay['replica']}"),
        ("Source", relay["source"] or "all"),
        ("Konnect has deleted", f"what is before {konnect['deleted_before'] or 'the range'}"),
        ("Log whole since", relay["retained_from"] or "its first event"),
    )
    return (
        "<table>"
        + "".join(f"<tr><th>{_e(name)}</th><td>{_e(text)}</td></tr>" for name, text in rows)
        + "</table>"
    )


def _pairs(rows: Iterable[tuple[str, int, str]]) -> str:
    return (
        "<table>"
        + "".join(
            f'<tr><td class="n{_bad(name, count)}">{_n(count)}</td><td>{_e(text)}</td></tr>'
            for text, count, name in rows
        )
        + "</table>"
    )


def _bad(name: str, count: int) -> str:
    return " bad" if count and name in _ALARMING else ""


def _destinations(destinations: Sequence[Any]) -> str:
    head = "".join(f'<th class="n">{_e(name.replace("_", " "))}</th>' for name in _COLUMNS)
    rows = "".join(
        f"<tr><td>{_e(each['name'])}</td>"
        + "".join(f'<td class="n{_bad(name, each[name])}">{_n(each[name])}</td>' for name in _COLUMNS)
        + "</tr>"
        for each in destinations
    )
    notes = "".join(
        f'<p class="small">{_e(each["name"])}: {_n(each["discarded_ever"])} dead letters were deleted by '
        "hand so far; where they are of this range they count as received.</p>"
        for each in destinations
        if each["discarded_ever"]
    )
    return f"<table><tr><th>Destination</th>{head}</tr>{rows}</table>{notes}"


def _healing(healing: Any) -> str:
    if healing is None:
        return ""
    jobs = "".join(
        f"<tr><td>{_e(job['from'])}</td><td>{_e(job['to'])}</td>"
        f'<td class="n">{_n(job["missing"])}</td><td>{_e(job["state"])}</td></tr>'
        for job in healing["jobs"]
    )
    pulls = "".join(
        f"<tr><td>{_e(pull['from'])}</td><td>{_e(pull['to'])}</td>"
        f'<td class="n">{_n(pull["entries"])}</td><td class="n">{_n(pull["accepted"])}</td></tr>'
        for pull in healing["pulls"]
    )
    if pulls:
        pulls = (
            '<table><tr><th>Pulled from</th><th>to</th><th class="n">entries</th><th class="n">new</th></tr>'
            f"{pulls}</table>"
        )
    words = [healing["not_replayed"], healing["problem"]]
    problem = "".join(f"<p>{_e(each)}</p>" for each in words if each)
    return (
        f"<h2>Healing</h2><p>{_n(healing['missing_before'])} events were missing before, "
        f"{_n(healing['missing_after'])} afterwards.</p>{problem}"
        '<table><tr><th>Replayed from</th><th>to</th><th class="n">missing</th><th>job</th></tr>'
        f"{jobs}</table>{pulls}"
    )


def _events(title: str, events: Sequence[Any], count: int) -> str:
    if not count:
        return ""
    shown = sum(each["count"] for each in events)
    more = f'<p class="small">The earliest {_n(shown)} of {_n(count)}.</p>' if shown < count else ""
    rows = "".join(
        f'<tr><td class="at">{_e(each["at"])}</td><td>{_e(each["type"])}</td><td>{_e(each["name"])}</td>'
        f"<td>{_e(each['action'])}</td><td>{_e(each['outcome'])}</td><td><code>{_e(each['trace_id'])}</code></td>"
        f'<td class="n">{_n(each["count"])}</td></tr>'
        for each in events
    )
    return (
        f"<h2>{_e(title)}</h2>{more}<table><tr><th>at</th><th>type</th><th>name</th><th>action</th>"
        f'<th>outcome</th><th>trace</th><th class="n">times</th></tr>{rows}</table>'
    )
