"""`queue inspect`, `verify` and `repair` belong to the file of a SQLite queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.cli.main import main

CONFIG = """
sources: [{name: eu, authorization: Bearer let-me-in}]
queue: {type: jetstream, servers: ["nats://127.0.0.1:1"]}
destinations: [{name: audit, type: file, path: /tmp/audit.ndjson}]
"""


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["repair", "--yes"]])
def test_a_cluster_has_no_file_to_look_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """The sentence names what to use instead; nothing is connected to."""
    config = tmp_path / "relay.yaml"
    config.write_text(CONFIG)

    with pytest.raises(SystemExit) as exit_:
        main(["queue", *command, "--config", str(config)])

    assert exit_.value.code == 1
    assert "nats stream info konnect-audit" in capsys.readouterr().err
