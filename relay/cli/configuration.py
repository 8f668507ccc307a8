"""Reads the configuration for the commands that need it."""

from __future__ import annotations

from pathlib import Path

from relay.config.load import Loaded, load
from relay.destinations.registry import CONFIG_TYPES


def load_config(path: Path) -> Loaded:
    """The configuration in *path* with its warnings. Raises `ConfigError`."""
    return load(path, destination_types=CONFIG_TYPES)
