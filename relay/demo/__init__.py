"""The demonstration, `konnect-relay demo`: everything on one machine, and nothing of it in the service.

The simulated Konnect and SIEMs here are small on purpose: enough to see the relay at work. What the relay is
tested against is in the tests, which a package must not need.
"""
