"""Records as Konnect could have written them, for hypothesis to choose from."""

from __future__ import annotations

from hypothesis import strategies as st

from relay.konnect.record import Record

# Anything a header or a path may hold on one line, but nothing that looks like a field of CEF: a line that
# does is doubtful by rights, and has its own tests.
_ANY = st.text(st.characters(exclude_characters="\n\r=", exclude_categories=["Cs"]), max_size=40)
_TOKEN = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789-_./*"), min_size=1, max_size=30)
_ID = st.one_of(st.just(""), st.uuids().map(str))
_SIG = st.text(
    st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
    min_size=86,
    max_size=86,
)
_TRACE = st.one_of(
    st.integers(0, 2**64 - 1).map(str), st.text(st.sampled_from("0123456789abcdef"), min_size=32, max_size=32)
)
_ADDRESS = st.one_of(st.ip_addresses().map(str), st.just("127.0.0.6"))


def _common(
    name: st.SearchStrategy[str], class_id: st.SearchStrategy[str]
) -> dict[str, st.SearchStrategy[object]]:
    return {
        "cef_version": st.just("0"),
        "event_ts": st.sampled_from(["2025-06-18T21:02:36Z", "Apr 14 05:39:08"]),
        "event_vendor": st.just("KongInc"),
        "event_product": st.sampled_from(["Konnect", "Dev-Portal"]),
        "event_version": st.just("1.0"),
        "event_class_id": class_id,
        "name": name,
        "severity": st.integers(0, 10),
        "rt": st.integers(10**12, 10**13 - 1),
        "src": _ADDRESS,
        "org_id": _ID,
        "principal_id": _ID,
        "trace_id": _TRACE,
        "user_agent": _ANY,
        "principal_name": st.none() | _ANY,
        "sig": st.none() | _SIG,
    }


_authentication = st.builds(
    Record,
    **_common(
        st.sampled_from(["SUCCESS", "INVALID_PASSWORD", "LOCKED", "NEW"]).map(
            lambda n: f"AUTHENTICATION_OUTCOME_{n}"
        ),
        st.sampled_from(["BASIC", "PAT", "SSO"]).map(lambda n: f"AUTHENTICATION_TYPE_{n}"),
    ),
    request=_ANY.map(lambda path: f"/{path}"),
    success=st.booleans(),
    portal_id=st.none() | _ID,
)
_authorization = st.builds(
    Record,
    **_common(_TOKEN.map(lambda resource: f"Authz.{resource}"), _TOKEN),
    action=_TOKEN,
    granted=st.booleans(),
    actor_id=st.none() | _ID,
    kong_initiated=st.none() | st.just(True),
)
_access = st.builds(
    Record,
    **_common(st.just("Ingress"), st.just("KongGateway")),
    request=_ANY.map(lambda path: f"/{path}"),
    act=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "QUERY"]),
    status=st.integers(100, 599),
    query=st.one_of(st.just("{}"), _ANY, st.just('{"end":"1684270800","filter":"a b=c"}')),
    kong_initiated=st.none() | st.just(True),
)
_unknown = st.builds(Record, **_common(st.sampled_from(["Egress", "authz.x", "|", "a\\b"]), _TOKEN))

records = st.one_of(_authentication, _authorization, _access, _unknown)
"""Every type of event, each field with any value that Konnect could have given it."""
