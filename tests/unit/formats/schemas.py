"""The published field names of ECS and OCSF, and what a document has against them.

The names are data, in tests/data/schemas, with their source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from tests.fakes.chunks import DATA

ECS = json.loads((DATA / "schemas" / "ecs-8.11.0.json").read_bytes())
OCSF = json.loads((DATA / "schemas" / "ocsf-1.3.0.json").read_bytes())

_CUSTOM = "kong."


def _is_date(value: object) -> bool:
    return isinstance(value, str) and value.endswith("Z") and datetime.fromisoformat(value).tzinfo is not None


def _is_ip(value: object) -> bool:
    return isinstance(value, str) and "%" not in value and bool(ip_address(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_ECS_TYPES: Mapping[str, Callable[[object], bool]] = {
    "date": _is_date,
    "ip": _is_ip,
    "keyword": _is_text,
    "match_only_text": _is_text,
    "wildcard": _is_text,
    "long": _is_integer,
}
_OCSF_INTEGERS = {"integer_t", "long_t", "timestamp_t"}
_OCSF_TEXTS = {"string_t", "username_t", "email_t", "hostname_t", "url_t"}


def against_ecs(document: Mapping[str, Any]) -> list[str]:
    """What ECS says against a document; nothing if it is one."""
    found = dict(_flat(document))
    complaints = [f"{name} is missing" for name in ECS["required"] if name not in found]
    for name, value in found.items():
        field = ECS["fields"].get(name)
        if name.startswith(_CUSTOM):
            continue
        if field is None:
            complaints.append(f"{name} is no field of ECS")
            continue
        if isinstance(value, list) != bool(field.get("array")):
            complaints.append(f"{name} is {'an' if isinstance(value, list) else 'no'} array")
        values = value if isinstance(value, list) else [value]
        complaints += [
            f"{name}: {v!r} is no {field['type']}" for v in values if not _ECS_TYPES[field["type"]](v)
        ]
        allowed = ECS["allowed"].get(name)
        complaints += [
            f"{name}: {v!r} is not allowed" for v in values if allowed is not None and v not in allowed
        ]
    categories = found.get("event.category", [])
    expected = {kind for category in categories for kind in ECS["expected_event_types"][category]}
    complaints += [
        f"{kind} is no type of {categories}"
        for kind in found.get("event.type", [])
        if categories and kind not in expected
    ]
    return complaints


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def against_ocsf(event: Mapping[str, Any]) -> list[str]:
    """What OCSF says against an event; nothing if it is one."""
    known = OCSF["classes"].get(str(event.get("class_uid")))
    if known is None:
        return [f"{event.get('class_uid')} is no class"]
    complaints = _against_object(event, known, "")
    activity = event["activity_id"]
    named = known["attributes"]["activity_id"]["enum"].get(str(activity))
    if event["type_uid"] != event["class_uid"] * 100 + activity:
        complaints.append("type_uid does not follow from class_uid and activity_id")
    if event["type_name"] != f"{event['class_name']}: {event['activity_name']}":
        complaints.append("type_name does not follow from class_name and activity_name")
    if activity != 99 and event["activity_name"] != named:
        complaints.append(f"activity {activity} is called {named}")
    if (event["class_name"], event["category_uid"], event["category_name"]) != (
        known["caption"],
        known["category_uid"],
        known["category_name"],
    ):
        complaints.append("the class or the category is called otherwise")
    for number in ("severity", "status"):
        caption = known["attributes"][f"{number}_id"]["enum"].get(str(event[f"{number}_id"]))
        if event[f"{number}_id"] != 99 and event[number] != caption:
            complaints.append(f"{number} {event[f'{number}_id']} is called {caption}")
    if event["metadata"]["version"] != OCSF["version"]:
        complaints.append("another version of OCSF")
    return complaints


def _against_object(value: Mapping[str, Any], known: Mapping[str, Any], path: str) -> list[str]:
    attributes = known["attributes"]
    complaints = [
        f"{path}{n} is missing" for n, a in attributes.items() if a.get("required") and n not in value
    ]
    for name, inner in value.items():
        if name in attributes:
            complaints += _against_attribute(inner, attributes[name], f"{path}{name}")
        else:
            complaints.append(f"{path}{name} is no attribute")
    present = value.keys()
    one_of, only_one = (known["constraints"].get(rule, []) for rule in ("at_least_one", "just_one"))
    if one_of and not present & set(one_of):
        complaints.append(f"{path} has none of {one_of}")
    if only_one and len(present & set(only_one)) != 1:
        complaints.append(f"{path} has not just one of {only_one}")
    return complaints


def _against_attribute(value: object, known: Mapping[str, Any], path: str) -> list[str]:
    if known.get("array"):
        if not isinstance(value, list):
            return [f"{path} is no array"]
        one = {k: v for k, v in known.items() if k != "array"}
        return [complaint for inner in value for complaint in _against_attribute(inner, one, path)]
    kind = known["type"]
    if kind in OCSF["objects"]:
        return (
            _against_object(value, OCSF["objects"][kind], f"{path}.")
            if isinstance(value, dict)
            else [f"{path}: {value!r}"]
        )
    if "enum" in known and str(value) not in known["enum"]:
        return [f"{path}: {value!r} is not allowed"]
    fits = (
        _is_integer(value)
        if kind in _OCSF_INTEGERS
        else _is_text(value)
        if kind in _OCSF_TEXTS
        else _is_ip(value)
        if kind == "ip_t"
        else isinstance(value, dict)
        if kind == "object"
        else False
    )
    return [] if fits else [f"{path}: {value!r} is no {kind}"]
