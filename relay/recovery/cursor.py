"""Where the next page of a list begins: a pure function of what Konnect answered.

Owns the forms a cursor is seen in. The specification shows a path without `/v3`, and an example whose escapes
are broken (`page%5Bsize%5=1`); Kong's own client, kongctl, takes a bare token, a path or a full URL, in
either place, and so does this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from relay.recovery.errors import Unreadable

_AFTER: Final = re.compile(r"page(?:\[|%5B?)after(?:\]|%5D?)=([^&#]*)", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"/|https?://|\?")


def next_cursor(document: Mapping[str, object]) -> str | None:
    """The token for `page[after]`, or None on the last page.

    Raises `ValueError` where there is a next page that nobody can find: to stop there would be to miss it.
    """
    meta = document.get("meta")
    if not isinstance(meta, Mapping):
        return None
    page = meta.get("page")
    following = (page.get("next") if isinstance(page, Mapping) else None) or meta.get("next")
    if not following:
        return None
    if not isinstance(following, str):
        raise Unreadable("a cursor that is no text")
    found = _AFTER.search(following)
    if found is not None and found[1]:
        return unquote(found[1])
    if _ADDRESS.match(following):
        raise Unreadable("a next page without a cursor")
    return following
