"""A durable relay between Kong Konnect's audit-log webhook and any number of SIEMs."""

__version__ = "0.1.0"
