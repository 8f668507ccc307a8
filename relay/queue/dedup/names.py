"""The names events are compared by: the event's id, which covers its bytes, and one for what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from relay.konnect.content import content_names
from relay.konnect.lines import event_ids


class Names(NamedTuple):
    """Of a batch's events, in order. No id equals the name of a content, so both may be kept in one list."""

    ids: Sequence[str]
    contents: Sequence[str]


def names_of(
    lines: Sequence[bytes],
    ordinals: Sequence[int] | None = None,
    *,
    pulled: bool = False,
    twins: Counter[str] | None = None,
) -> Names:
    """*ordinals* and *pulled* as in `event_ids`, *twins* as in `content_names`.

    What was pulled is only told by its id: Konnect gives an entry as it is each time, and no webhook's line
    may pass for one.
    """
    ids = event_ids(lines, ordinals, pulled=pulled)
    return Names(ids, ids if pulled else content_names(lines, ordinals, twins=twins))
