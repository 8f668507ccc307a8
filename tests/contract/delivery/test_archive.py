"""An archive in a bucket as the worker fills it: no event twice as long as the relay runs."""

from __future__ import annotations

import gzip

import pytest

from tests.contract.delivery.rig import Rig
from tests.fakes.siem import Answer, Received, Siem


class Bucket:
    """What a store keeps, and the rule that an object is written once."""

    def __init__(self, *, failures: int) -> None:
        self.objects: dict[str, bytes] = {}
        self._failures = failures

    def __call__(self, request: Received) -> Answer:
        """The first answers tell of a failure although the object is stored: the most awkward way to fail."""
        known = request.path in self.objects
        self.objects.setdefault(request.path, request.raw)
        if self._failures:
            self._failures -= 1
            return Answer(500)
        return Answer(412) if known else Answer(200, headers={"ETag": '"0"'})

    def lines(self) -> list[bytes]:
        return b"".join(map(gzip.decompress, self.objects.values())).splitlines()


@pytest.mark.parametrize("max_retries", [4, 0])
async def test_stored_in_spite_of_the_answer(rig: Rig, siem: Siem, max_retries: int) -> None:
    """Events that came during the wait for a retry, or during a hold, go into an object of their own."""
    bucket = Bucket(failures=2)
    siem.then(bucket)
    await rig.start(
        type="s3",
        bucket="audit",
        endpoint=siem.base,
        access_key_id="AKIAIOSFODNN7EXAMPLE",
        secret_access_key="secret",
        batch={"linger": "0s"},
        retry={"max_retries": max_retries},
    )
    await rig.append(300)
    await siem.received(1)
    await rig.clock.next_wake()
    await rig.append(200)
    await rig.waits(2)
    await rig.drained()

    assert sorted(bucket.lines()) == sorted(rig.sent)
    assert len(bucket.objects) == 2
    assert rig.books().delivered == 500
