"""What `konnect doctor` says of a source's open gaps: how long there is, who fetches them, what to do.

Pure. One finding, about the oldest of them, since its events are deleted first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from relay.observe.ledger import KONNECT_RETENTION
from relay.recovery.answers import Scope, rfc3339
from relay.recovery.finding import Finding, Level

_DAY: Final = 86_400.0
_MARGIN: Final = 120.0  # seconds around it, for times are not exact


@dataclass(frozen=True, slots=True)
class OpenGap:
    """As the relay's admin API tells it. Times in seconds since the epoch."""

    id: int  # 0: a cluster has not written it down yet
    start: float
    end: float
    by_relay: bool  # it is the relay's to fetch; otherwise people's
    doing: str | None  # what the relay does about it, or what keeps it open; None: nobody says
    at_work: bool  # it is being fetched at this moment


def gap_finding(source: str, gaps: Sequence[OpenGap], lost: int, scope: Scope, now: float) -> Finding:
    """*lost* gaps of the source were closed after Konnect had deleted events of them."""
    if not gaps:
        before = (
            f" Events of {_gaps(lost, 'earlier')} are lost: konnect-relay gaps list --closed." if lost else ""
        )
        return Finding("gaps", Level.OK, f"The source {source} has no open gaps.{before}")
    gap = min(gaps, key=lambda each: each.start)
    which = "it is" if len(gaps) == 1 else "the oldest is"
    span = f"{which} from {rfc3339(gap.start)} to {rfc3339(gap.end)}"
    text = f"The source {source} has {_gaps(len(gaps), 'open')}; {span}. {_deadline(gap, now)}"
    if gap.end + KONNECT_RETENTION <= now:
        step = "nothing brings it back; the relay closes it as lost"
        return Finding("gaps", Level.PROBLEM, text, step)
    urgent = Level.PROBLEM if gap.start + KONNECT_RETENTION - now < _DAY else Level.WARNING
    by_hand = _recover(gap, scope, now)
    if not gap.by_relay:
        text += " The relay does not fetch it: it has no Konnect token, or no webhook of this source."
        closing = f", then konnect-relay gaps close {gap.id}" if gap.id else ""
        return Finding("gaps", urgent, text, by_hand + closing)
    if gap.at_work:
        return Finding(
            "gaps", Level.WARNING, f"{text} The relay is at it: {gap.doing}.", "look again in a while"
        )
    if gap.doing is None:
        text += " Nobody is at it: no process of the relay that accepts says what it does."
        return Finding("gaps", urgent, text, "is one running? konnect-relay status")
    text += f" The relay says: {gap.doing.rstrip('.')}."
    return Finding(
        "gaps", urgent, text, f"it goes on trying; if that stays, mend it or fetch it now: {by_hand}"
    )


def _gaps(count: int, kind: str) -> str:
    return f"1 {kind} gap" if count == 1 else f"{count} {kind} gaps"


def _deadline(gap: OpenGap, now: float) -> str:
    first, last = gap.start + KONNECT_RETENTION - now, gap.end + KONNECT_RETENTION - now
    if first > 0:
        return f"Konnect deletes the first event that may be missing in {_span(first)}."
    if last > 0:
        return f"Konnect has deleted its beginning by now, and the rest within {_span(last)}."
    return "Konnect has deleted all of it by now."


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"


def _recover(gap: OpenGap, scope: Scope, now: float) -> str:
    portal = f" --portal {scope.portal}" if scope.portal is not None else ""
    start, end = rfc3339(gap.start - _MARGIN), rfc3339(min(gap.end + _MARGIN, now))
    return f"konnect-relay konnect recover --from {start} --to {end}{portal}"
