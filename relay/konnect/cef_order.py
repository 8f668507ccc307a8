"""Where in a CEF line Konnect's own fields stand, though callers may have written some that look alike.

Nothing in Konnect's CEF is escaped (docs/konnect.md section 2.1), and `request`, `user_agent`, `query` and
`principal_name` hold what a caller chose. Such a value may spell out ` status=200`, and nobody can tell it
from Konnect's own by its looks. Owns the answer to which ` key=` is a field and which is part of a value;
knows the keys of a line in their order, never their values.

**The rule of one place.** A key is read as a field only where it is the one place at which Konnect can have
written it. Hence whoever chooses a value can make fields unreadable, but never replace what Konnect wrote:

1. Everything up to the first caller's key is Konnect's.
2. A key right behind a value of Konnect's own is Konnect's: it puts no text of a caller in there.
3. A key that Konnect always writes for this type of event, and that occurs once, is Konnect's.
4. One that occurs several times is Konnect's in the only one of these places that rule 2 and the documented
   order of keys leave to it. If they leave several, none is taken.
5. `principal_name`, if it occurs once, is read even behind a caller's value, as a person's name must be
   found to be taken out. It was never more than a name the caller gave himself.
6. Any other key behind a caller's value is part of that value: `kong_initiated=true` behind a user agent is
   no more than a claim.

A line in which a key was not read as a field, or only by rule 5, is doubtful.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relay.konnect.peek import EventType

CALLERS = frozenset({"request", "user_agent", "query", "principal_name"})
"""Keys whose value the caller chooses or influences."""

KONNECTS = frozenset(
    {
        *("rt", "src", "org_id", "principal_id", "trace_id", "kong_initiated", "portal_id", "actor_id"),
        *("success", "action", "granted", "act", "status"),
    }
)
"""Keys whose value Konnect makes itself. None of these values holds a space."""

KNOWN = CALLERS | KONNECTS | {"sig"}

# In the order of the documentation's samples, without what is there only sometimes (docs/konnect.md
# section 2.2).
_ALWAYS = {
    EventType.AUTHENTICATION: "rt src request success org_id principal_id trace_id user_agent",
    EventType.AUTHORIZATION: "rt src action granted org_id principal_id trace_id user_agent",
    EventType.ACCESS: "rt src request act status org_id principal_id user_agent trace_id query",
}
_ORDER = {kind: tuple(keys.split()) for kind, keys in _ALWAYS.items()}
_ALWAYS_UNKNOWN = ("rt", "src", "org_id", "principal_id", "trace_id", "user_agent")


@dataclass(frozen=True, slots=True)
class Places:
    """Which of a line's keys are fields."""

    fields: tuple[int, ...]  # indexes into the keys, ascending; the others are text of the value before
    doubtful: bool


def places(kind: EventType, keys: Sequence[str]) -> Places:
    """Tell fields from text by the rule of one place. *keys* is a line's, without a signature at its end.

    A key that is not in KNOWN counts as a caller's: what stands behind it is anybody's guess.
    """
    search = _Search(_ORDER.get(kind), keys)
    search.take_head()
    search.take_singles()
    while search.narrow():
        pass
    doubtful = len(search.taken) < len(keys)
    if "principal_name" not in search.taken and keys.count("principal_name") == 1:
        search.take("principal_name", keys.index("principal_name"))
        doubtful = True
    return Places(tuple(sorted(search.taken.values())), doubtful)


class _Search:
    """The fields found so far; each finding may leave only one place for another key."""

    def __init__(self, order: tuple[str, ...] | None, keys: Sequence[str]) -> None:
        self.taken: dict[str, int] = {}
        self._keys = keys
        self._order = order
        always = _ALWAYS_UNKNOWN if order is None else order
        self._open: dict[str, list[int]] = {key: [] for key in always}  # of these we look for the place
        for at, key in enumerate(keys):
            if key in self._open:
                self._open[key].append(at)

    def take(self, key: str, at: int) -> None:
        """Key *key* is a field at *at*, and so is what follows a value of Konnect's own (rules 1 and 2)."""
        while key not in self.taken:
            self.taken[key] = at
            self._open.pop(key, None)
            at += 1
            if key not in KONNECTS or at == len(self._keys):
                return
            key = self._keys[at]

    def take_head(self) -> None:
        """Rule 1. Only a key that Konnect itself wrote twice interrupts it; the second is text then."""
        for at, key in enumerate(self._keys):
            self.take(key, at)
            if key not in KONNECTS:
                return

    def take_singles(self) -> None:
        """Rule 3."""
        for key, found in list(self._open.items()):
            if len(found) == 1:
                self.take(key, found[0])

    def narrow(self) -> bool:
        """Rule 4: take one more key, if there is one with a single place left."""
        for key, found in self._open.items():
            low, high = self._between(key)
            left = [at for at in found if low < at < high and self._can_be(key, at)]
            if len(left) == 1:
                self.take(key, left[0])
                return True
            self._open[key] = left
        return False

    def _can_be(self, key: str, at: int) -> bool:
        """Whether Konnect can have written *key* here: after its own value comes another key of its own."""
        if key not in KONNECTS or at + 1 == len(self._keys):
            return True
        following = self._keys[at + 1]
        return following != key and self.taken.get(following, at + 1) == at + 1

    def _between(self, key: str) -> tuple[int, int]:
        """The places around *key* by the documented order, as far as the line keeps to that."""
        everywhere = (-1, len(self._keys))
        if self._order is None:
            return everywhere
        known = [self.taken[k] for k in self._order if k in self.taken]
        if known != sorted(known):
            return everywhere
        rank = self._order.index(key)
        before = [self.taken[k] for k in self._order[:rank] if k in self.taken]
        after = [self.taken[k] for k in self._order[rank:] if k in self.taken]
        return max(before, default=-1), min(after, default=len(self._keys))
