"""Other writings of an event: Konnect's own three, Elastic Common Schema, OCSF. See `relay.formats.write`."""
