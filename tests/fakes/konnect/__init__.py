"""Kong Konnect on loopback, as far as audit logs go: see `server.FakeKonnect`."""

from tests.fakes.konnect.events import AuditEvent, Maker
from tests.fakes.konnect.faults import Fault
from tests.fakes.konnect.organisation import PORTAL, REGION, TOKEN, Destination, Place
from tests.fakes.konnect.server import FakeKonnect

__all__ = ["PORTAL", "REGION", "TOKEN", "AuditEvent", "Destination", "FakeKonnect", "Fault", "Maker", "Place"]
