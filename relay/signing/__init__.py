"""Checking stored events' signatures: keys fetched and kept, batches checked once for all destinations."""
