"""What keeps a replay from getting here, as Konnect tells it."""

from __future__ import annotations

import pytest

from relay.recovery.answers import ORGANISATION
from relay.recovery.api import KonnectApi
from relay.recovery.errors import KonnectUnauthorised
from relay.recovery.obstacle import obstacle
from tests.fakes.konnect import FakeKonnect, Fault, Place

ENDPOINT = "https://relay.example.com/audit-logs/us"


async def found(api: KonnectApi) -> str | None:
    return await obstacle(api, ORGANISATION, leads_here=lambda endpoint: endpoint == ENDPOINT)


async def test_each_is_told_in_words(api: KonnectApi, konnect: FakeKonnect) -> None:
    """The key in somebody else's endpoint is not among them."""
    words = [await found(api)]
    konnect.organisation.bind("https://siem.example.com/in?code=s3cret", "Bearer x")
    words.append(await found(api))
    konnect.organisation.bind(ENDPOINT, "Bearer x")
    words.append(await found(api))
    webhook = konnect.organisation.webhook(Place())
    webhook.failing = True
    words.append(await found(api))
    webhook.enabled = False
    words.append(await found(api))

    assert [expected in str(it) for expected, it in zip(EXPECTED, words, strict=True)] == [True] * 5
    assert "s3cret" not in str(words)


EXPECTED = ("is not set", "sends to https://siem.example.com/in", "None", "is inactive", "is switched off")


async def test_a_token_that_may_not_look_is_no_obstacle(api: KonnectApi, konnect: FakeKonnect) -> None:
    """The replay job tells by itself whether it is allowed."""
    konnect.faults.add(Fault("GET", "*", status=403))

    assert await found(api) is None


async def test_a_wrong_token_is_an_error(api: KonnectApi, konnect: FakeKonnect) -> None:
    """Nothing else would be allowed either."""
    konnect.faults.add(Fault("GET", "*", status=401))

    with pytest.raises(KonnectUnauthorised):
        await found(api)
