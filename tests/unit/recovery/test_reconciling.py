"""The comparison: what counts as received, missing, extra or unprovable."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from relay.konnect.peek import EventType
from relay.queue.fates import Fate
from relay.recovery.keys import Key
from relay.recovery.reconciling import Outcome, Reconciliation, Window, windows
from relay.recovery.spool import Spool, key_of

AT = 1_750_000_000_000
MINUTE = 60_000
D, F, L, B, N = Fate.DELIVERED, Fate.FILTERED, Fate.DEAD_LETTERED, Fate.BACKLOG, Fate.NOT_OWED


def key(number: int, *, at: int = AT, portal: str = "") -> Key:
    return Key(EventType.ACCESS, at, str(number), "org", portal, "who", "", "GET /", "200")


def compare(
    folder: Path,
    konnect: Iterable[Key | None],
    relay: Iterable[tuple[Key | None, Fate]],
    *,
    retained_from: int | None = None,
    deleted_before: int | None = None,
    limit: int = 1000,
) -> Outcome:
    both = Reconciliation(folder, limit=limit)
    for each in konnect:
        both.konnect_has(each)
    both.relay_delivers_to(["siem"])
    for each, fate in relay:
        both.relay_accepted(each, {"siem": fate})
    return both.outcome(retained_from, deleted_before)


def test_nothing_on_either_side_is_complete(tmp_path: Path) -> None:
    """There is nothing that could be missing."""
    outcome = compare(tmp_path, [], [])

    assert outcome.complete
    assert (outcome.konnect, outcome.received) == (0, 0)


def test_each_side_may_have_what_the_other_has_not(tmp_path: Path) -> None:
    """Missing is what Konnect alone has, extra what the relay alone has."""
    outcome = compare(tmp_path, [key(1), key(2)], [(key(2), D), (key(3), D)])

    assert not outcome.complete
    assert (outcome.received, outcome.missing, outcome.extra) == (1, 1, 1)
    assert [(it.key, it.count) for it in outcome.listed_missing] == [(key(1), 1)]
    assert [(it.key, it.count) for it in outcome.listed_extra] == [(key(3), 1)]
    assert outcome.extra_at == {"siem": 1}


def test_a_resource_may_have_two_names(tmp_path: Path) -> None:
    """What is alike in all else is the same event, once for each; the report says how many were told so."""
    ours, theirs = key(1)._replace(name="runtime-groups"), key(1)._replace(name="control-planes")

    outcome = compare(tmp_path, [theirs] * 3, [(ours, D), (ours, L)])

    assert (outcome.received, outcome.alike, outcome.missing, outcome.extra) == (2, 2, 1, 0)
    assert outcome.destinations["siem"][D] == 1


def test_one_name_in_both_goes_first(tmp_path: Path) -> None:
    """An event is not given away to one that only looks like it."""
    same, other = key(1)._replace(name="portals"), key(1)._replace(name="usage")

    outcome = compare(tmp_path, [other, same], [(same, D)])

    assert (outcome.received, outcome.alike) == (1, 0)
    assert [it.key for it in outcome.listed_missing] == [other]


def test_twins_are_counted(tmp_path: Path) -> None:
    """Two of three were accepted: one is missing."""
    outcome = compare(tmp_path, [key(1)] * 3, [(key(1), D)] * 2)

    assert (outcome.received, outcome.missing) == (2, 1)


def test_of_a_copy_too_many_the_best_counts(tmp_path: Path) -> None:
    """An event that was delivered once is delivered, whatever became of its second copy."""
    outcome = compare(tmp_path, [key(1)], [(key(1), B), (key(1), D), (key(1), L)])

    assert (outcome.received, outcome.extra) == (1, 2)
    assert outcome.destinations["siem"][D] == 1
    assert outcome.extra_at == {"siem": 0}


def test_fates_add_up_to_what_was_received(tmp_path: Path) -> None:
    """Every event has exactly one."""
    fates = (D, D, F, L, B, N)
    relay = [(key(n), fate) for n, fate in enumerate(fates)]

    outcome = compare(tmp_path, [each for each, _ in relay], relay)

    assert outcome.destinations == {"siem": {D: 2, F: 1, L: 1, B: 1, N: 1}}
    assert sum(outcome.destinations["siem"].values()) == outcome.received


def test_what_the_log_no_longer_holds_is_not_called_missing(tmp_path: Path) -> None:
    """It may have been accepted: that is unproven, and no complete result either."""
    before, after = key(1, at=AT), key(2, at=AT + 10 * MINUTE)

    outcome = compare(tmp_path, [before, after], [], retained_from=AT + MINUTE)

    assert (outcome.unproven, outcome.missing) == (1, 1)
    assert not compare(tmp_path, [before], [], retained_from=AT + MINUTE).complete


def test_what_konnect_has_deleted_cannot_be_told(tmp_path: Path) -> None:
    """Nobody knows what there was: no complete result, and what was accepted of that time is not extra."""
    outcome = compare(tmp_path, [], [(key(1), D), (key(2, at=AT + MINUTE), D)], deleted_before=AT + MINUTE)

    assert not outcome.complete
    assert (outcome.accepted, outcome.missing, outcome.extra) == (2, 0, 1)
    assert outcome.extra_at == {"siem": 1}


def test_what_was_kept_back_proves_nothing(tmp_path: Path) -> None:
    """Whoever forges a copy of an event must not make it look received; the genuine one beside it is."""
    both = Reconciliation(tmp_path)
    both.konnect_has(key(1))
    both.konnect_has(key(2))
    both.relay_delivers_to(["siem"])
    both.relay_accepted(key(1), {"siem": L}, kept_back=True)
    both.relay_accepted(key(2), {"siem": L}, kept_back=True)
    both.relay_accepted(key(2), {"siem": D})
    outcome = both.outcome(None)

    assert not outcome.complete
    assert (outcome.received, outcome.missing, outcome.extra, outcome.kept_back) == (1, 1, 0, 2)
    assert outcome.destinations["siem"] == {**dict.fromkeys(Fate, 0), D: 1}
    assert [each.missing for each in outcome.windows] == [1]  # which `--heal` fetches


def test_what_cannot_be_compared_is_counted_apart(tmp_path: Path) -> None:
    """Unreadable lines and portals' events are no losses; an unreadable entry of Konnect's is no proof."""
    outcome = compare(tmp_path, [], [(None, D), (key(1, portal="p"), D)])
    assert (outcome.unreadable, outcome.portal, outcome.extra) == (1, 1, 0)
    assert outcome.complete

    outcome = compare(tmp_path, [None], [])
    assert (outcome.konnect, outcome.konnect_unreadable) == (1, 1)
    assert not outcome.complete


def test_lists_hold_the_earliest(tmp_path: Path) -> None:
    """However many are missing, all are counted and the first few are listed."""
    outcome = compare(tmp_path, [key(n, at=AT + n) for n in range(3000, 0, -1)], [], limit=3)

    assert outcome.missing == 3000
    assert [it.key.at for it in outcome.listed_missing] == [AT + 1, AT + 2, AT + 3]


def test_windows_are_tight() -> None:
    """Minutes close together are one window; a longer pause begins another."""
    assert windows({}) == ()
    assert windows({100: 2, 105: 1, 200: 4}) == (
        Window(100 * MINUTE, 106 * MINUTE, 3),
        Window(200 * MINUTE, 201 * MINUTE, 4),
    )


def test_a_spool_gives_back_what_was_put_in(tmp_path: Path) -> None:
    """Across blocks and parts; a value may hold any character."""
    odd = key(1)._replace(name='a\nb!"[ü\u2028')
    many = [key(n) for n in range(20_000)]
    spool = Spool(tmp_path, parts=3)
    for each in [odd, *many]:
        spool.pulled(each)
        spool.accepted(each, b"DB")

    found = {key_of(text): entry for part in spool.parts() for text, entry in part.items()}

    assert found.keys() == {odd, *many}
    assert {(entry.pulled, *entry.accepted) for entry in found.values()} == {(1, b"DB")}
    assert list(tmp_path.iterdir()) == []
