"""The hash of what all replicas have to be configured alike in."""

from __future__ import annotations

import pytest

from relay.config.agreement import agreement
from relay.config.schema import Config

MINIMAL = {
    "admin": {"port": 9000},
    "sources": [{"name": "eu", "authorization": "Bearer one"}],
    "destinations": [{"name": "sumo", "type": "fake"}],
}


def hash_of(**sections: object) -> str:
    return agreement(Config.model_validate({**MINIMAL, **sections}))


def test_the_hash_is_short_and_always_the_same() -> None:
    """Replicas compare what each of them computed for itself."""
    assert hash_of() == hash_of()
    assert len(hash_of()) == 12


@pytest.mark.parametrize(
    "sections",
    [
        {"destinations": [{"name": "sumo", "type": "fake", "max_in_flight": 2}]},
        {"sources": [{"name": "eu", "authorization": "Bearer one", "deduplicate": "1h"}]},
        {"queue": {"retention": "1d"}},
    ],
)
def test_what_must_be_alike_changes_the_hash(sections: dict[str, object]) -> None:
    """Replicas that disagree here would treat the same events differently."""
    assert hash_of(**sections) != hash_of()


@pytest.mark.parametrize(
    "sections",
    [
        {"admin": {"port": 9001}},
        {"server": {"port": 9002}},
        {"logging": {"level": "debug"}},
        {"sources": [{"name": "eu", "authorization": "Bearer two"}]},
    ],
)
def test_what_may_differ_does_not(sections: dict[str, object]) -> None:
    """Addresses and logs are each process's own, and secrets never enter, not even hashed."""
    assert hash_of(**sections) == hash_of()
