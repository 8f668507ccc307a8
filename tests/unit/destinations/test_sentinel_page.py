"""The data collection rule on the page of `sentinel` fits the rows that are sent, and reads CEF well."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.fakes.chunks import sample

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/destinations/sentinel.md").read_text(encoding="utf-8")
RULE = json.loads(PAGE.split("```json\n")[1].split("```")[0])["properties"]
(FLOW,) = RULE["dataFlows"]


def extracted(line: bytes) -> dict[str, str]:
    """What the rule's regular expressions find in a CEF line; they are the same in RE2 and here."""
    extension = " " + line.decode().split("|", 7)[7]
    found = re.findall(r"(\w+) = (?:tobool\()?extract\(@'([^']+)', 1, Extension\)", FLOW["transformKql"])
    return {name: match[1] if (match := re.search(pattern, extension)) else "" for name, pattern in found}


def test_streams_and_columns_fit() -> None:
    """The rule declares each column that a row may have."""
    rows = [
        row
        for file in (ROOT / "tests/data/golden").glob("sentinel_*.json")
        for row in json.loads(file.read_bytes())
    ]
    (stream,) = FLOW["streams"]

    declared = {column["name"] for column in RULE["streamDeclarations"][stream]["columns"]}
    assert declared == {name for row in rows for name in row}


def test_table_has_the_projected_columns() -> None:
    """The command that makes the table makes the columns that the transformation fills."""
    command = PAGE.split("--columns ")[1].split("\n\n")[0].replace("\\\n", "")
    made = {pair.partition("=")[0] for pair in command.split()}
    projected = FLOW["transformKql"].split("| project ")[1]
    plain = re.sub(r" = (?:extract|to\w+)\(.*?\)+(?=, [A-Z]|$)", "", projected)

    assert set(plain.split(", ")) == made


def test_cef_is_read() -> None:
    """A usual line gives its fields."""
    assert extracted(sample("cef")[0]) == {
        "SrcIp": "127.0.0.1",
        "Request": "/api/v1/personal-access-tokens/introspect",
        "Success": "true",
        "Granted": "",
        "OrgId": "b065b594-6afc-4658-9101-5d9cf3f36b7b",
        "PrincipalId": "87655c36-8d63-48fe-9a1e-53b28dfbc19b",
        "TraceId": "3895213347334635099",
        "UserAgent": "grpc-go/1.51.0",
    }


def test_forged_pairs() -> None:
    """A user agent with pairs of its own replaces nothing that Konnect wrote, not even an empty value."""
    forged, _, longer, empty = (extracted(line) for line in sample("edge_unproven")[:4])
    faked = sample("edge_unproven")[3] + b" principal_id=00000000-0000-0000-0000-000000000000"

    assert forged["PrincipalId"] == "87655c36-8d63-48fe-9a1e-53b28dfbc19b"
    assert forged["UserAgent"] == "evil"
    assert longer["UserAgent"] == "curl/8.0"
    assert empty["PrincipalId"] == ""
    assert extracted(faked)["PrincipalId"] == ""
