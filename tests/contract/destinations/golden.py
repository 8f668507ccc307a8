"""One chunk with a line of every sort, and the bodies that vendors' types make of it, byte for byte."""

from __future__ import annotations

from relay.destinations.base import Delivered
from tests.contract.destinations.kit import KINDS, Kind, opened
from tests.fakes.chunks import DATA, chunk_of, sample
from tests.fakes.siem import Received, Siem

STRANGE = [
    b"\xff\xfe not UTF-8",
    b'\ttabs, "quotes", back\\slashes  ',
    "é中🎉\u2028".encode(),
    b"\x00\x1b[31m",
]
OBJECTS = [b'{"trace_id":18446744073709551616,"user_agent":"\\",\\"trace_id\\":1,"}', b'{"broken":']

MIXED = chunk_of(sample("cef")[:1], sample("json")[:1], sample("cps")[:1], [b"neither"], STRANGE, OBJECTS)


def row(label: str) -> Kind:
    """The row of the contract suite with this label."""
    (kind,) = (kind for kind in KINDS if kind.label == label)
    return kind


def golden(name: str) -> bytes:
    """What the body has to be: tests/data/golden/NAME."""
    return (DATA / "golden" / name).read_bytes()


async def sent_mixed(label: str, **settings: object) -> Received:
    """The one request that `MIXED` becomes."""
    kind = row(label)
    async with Siem() as siem, opened(kind.config(siem, **settings)) as destination:
        siem.then(kind.take)
        assert isinstance(await destination.send(MIXED), Delivered)
    (request,) = siem.requests
    return request
