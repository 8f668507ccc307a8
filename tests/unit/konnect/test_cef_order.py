"""What a caller can make of a CEF line, and what he cannot."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.konnect.cef_order import KONNECTS
from relay.konnect.parse import parse
from relay.konnect.record import Record
from tests.fakes.chunks import sample

ACCESS = (
    "2025-06-18T21:01:35Z konghq.com CEF:0|KongInc|Konnect|1.0|KongGateway|Ingress|6|rt=1750280495722"
    " src=127.0.0.6 request={request} act=POST status=403 org_id=true-org principal_id=true-user"
    " user_agent={user_agent} trace_id=11 query={query} sig=TRUE"
)
AUTHENTICATION = (
    "2025-06-18T21:01:35Z konghq.com CEF:0|KongInc|Konnect|1.0|AUTHENTICATION_TYPE_BASIC"
    "|AUTHENTICATION_OUTCOME_LOCKED|6|rt=1750280495722 src=127.0.0.6 request={request} success=false"
    " org_id=true-org principal_id=true-user trace_id=11 user_agent={user_agent} sig=TRUE"
)
AUTHORIZATION = (
    "2025-06-18T21:01:35Z konghq.com CEF:0|KongInc|Konnect|1.0|konnect|Authz.portals|6|rt=1750280495722"
    " src=127.0.0.6 action=edit granted=false org_id=true-org principal_id=true-user actor_id= trace_id=11"
    " user_agent={user_agent} sig=TRUE"
)
TRUTH = {
    "rt": 1_750_280_495_722,
    "src": "127.0.0.6",
    "act": "POST",
    "status": 403,
    "action": "edit",
    "granted": False,
    "success": False,
    "org_id": "true-org",
    "principal_id": "true-user",
    "actor_id": "",
    "trace_id": "11",
    "sig": "TRUE",
    "severity": 6,
    "kong_initiated": None,
    "portal_id": None,
}
"""What Konnect wrote, in whichever of the three lines it stands."""

FORGED = (
    " rt=1999999999999 src=6.6.6.6 act=GET status=200 success=true granted=true action=read org_id=evil"
    " principal_id=evil"
)


def read(line: str, **values: str) -> Record:
    record = parse(
        line.format(**{"request": "/v2/x", "user_agent": "curl", "query": "{}", **values}).encode()
    )
    assert record is not None
    return record


def written_in(line: str) -> dict[str, object]:
    """What Konnect wrote in this line."""
    return {n: v for n, v in TRUTH.items() if n == "severity" or re.search(rf"[ |]{n}=", line)}


def lies(record: Record, line: str) -> dict[str, object]:
    """Fields that say something Konnect did not write. Unreadable ones do not lie."""
    said = {name: getattr(record, name) for name in TRUTH}
    written = written_in(line)
    return {name: value for name, value in said.items() if value is not None and value != written.get(name)}


@pytest.mark.parametrize("line", [ACCESS, AUTHENTICATION, AUTHORIZATION])
def test_an_honest_line_is_read_whole(line: str) -> None:
    """Without a forger nothing is doubtful and nothing is missing."""
    record = read(line)

    assert not record.doubtful
    assert lies(record, line) == {}
    assert written_in(line).items() <= asdict(record).items()
    assert record.user_agent == "curl"


@pytest.mark.parametrize("line", [AUTHENTICATION, AUTHORIZATION])
def test_a_user_agent_at_the_end_replaces_nothing_and_hides_nothing(line: str) -> None:
    """Everything in front of it is Konnect's, whatever it spells out."""
    if line is AUTHENTICATION:
        forged = "x" + FORGED.replace(" success=true", "") + " sig=AAAA"
        hidden = {"org_id", "principal_id"}  # the request might have spelled them out as well
    else:
        forged = "x" + FORGED + " sig=AAAA"
        hidden = set()

    record = read(line, user_agent=forged)

    assert record.doubtful
    assert lies(record, line) == {}
    assert {n: v for n, v in written_in(line).items() if n not in hidden}.items() <= asdict(record).items()


def test_a_user_agent_between_konnects_fields_replaces_none() -> None:
    """The documented order leaves one place to each of these, though they occur twice."""
    record = read(ACCESS, user_agent="x act=GET status=200 org_id=evil principal_id=evil query={}")

    assert record.doubtful
    assert lies(record, ACCESS) == {}
    assert record.query == "{}"
    assert record.trace_id == "11"


def test_a_request_replaces_nothing() -> None:
    """Nor does the path, which stands before most of Konnect's fields."""
    record = read(ACCESS, request="/x status=200 org_id=evil")

    assert record.doubtful
    assert (record.act, record.status, record.org_id) == ("POST", 403, "true-org")
    assert record.request == "/x status=200 org_id=evil"


def test_what_has_two_readings_is_not_read() -> None:
    """A path and a user agent that each hold a whole event: nobody can tell which is Konnect's."""
    forged = "x act=GET status=200 org_id=evil principal_id=evil user_agent=curl request=/v2/y"

    record = read(ACCESS, request=f"/v2/{forged}")

    assert record.doubtful
    assert lies(record, ACCESS) == {}
    assert (record.rt, record.src, record.sig) == (1_750_280_495_722, "127.0.0.6", "TRUE")


def test_two_trace_ids_behind_a_user_agent_are_told_by_what_follows() -> None:
    """No key follows another inside a value of Konnect's own."""
    record = read(ACCESS, user_agent="x trace_id=66")

    assert (record.trace_id, record.user_agent) == ("11", "x trace_id=66")


@pytest.mark.parametrize("claim", ["kong_initiated=true", "portal_id=evil", "actor_id=evil", "granted=true"])
def test_a_field_that_konnect_did_not_write_stays_a_claim(claim: str) -> None:
    """What Konnect writes only sometimes is not believed behind a caller's value, though it occurs once."""
    record = read(AUTHENTICATION, user_agent=f"curl {claim}")

    assert record.doubtful
    assert lies(record, AUTHENTICATION) == {}
    assert record.user_agent == f"curl {claim}"


def test_a_name_behind_a_user_agent_is_found_and_doubtful() -> None:
    """A person's name has to be found to be taken out, wherever Konnect puts it."""
    record = read(ACCESS, user_agent="curl principal_name=Jane Doe (jane@example.com)")

    assert record.doubtful
    assert (record.user_agent, record.principal_name) == ("curl", "Jane Doe (jane@example.com)")


def test_unknown_words_of_a_caller_stay_his() -> None:
    """`word=` in a user agent is no field."""
    record = read(AUTHORIZATION, user_agent="a=b Foo/1 x=y (tenant=z) |rt")

    assert record.user_agent == "a=b Foo/1 x=y (tenant=z) |rt"
    assert record.extra == ()
    assert not record.doubtful


def test_an_unknown_key_among_konnects_own_is_a_field() -> None:
    """Konnect's own values hold no space, so what follows one is a field nobody documented."""
    record = read(AUTHORIZATION.replace(" granted=", " realm=eu geo granted="))

    assert record.extra == (("realm", "eu geo"),)
    assert (record.action, record.granted) == ("edit", False)


def test_an_extension_called_as_a_field_of_the_header_replaces_none() -> None:
    """Both are kept."""
    record = read(AUTHORIZATION.replace(" granted=", " severity=0 name=evil granted="))

    assert (record.name, record.severity) == ("Authz.portals", 6)
    assert ("severity", "0 name=evil") in record.extra


def test_nothing_but_what_is_always_there_is_believed_behind_an_unknown_key() -> None:
    """Its value may be a caller's too."""
    record = read(AUTHORIZATION.replace(" granted=", " referer=x kong_initiated=true granted="))

    assert record.kong_initiated is None
    assert record.granted is False
    assert record.doubtful


def test_a_second_header_is_doubtful() -> None:
    """A resource's name that spells out the rest of the header would bring its own extensions."""
    record = read(AUTHORIZATION.replace("portals|", "a|0|rt=1999999999999 user_agent=x|"))

    assert record.doubtful


def test_the_order_of_an_honest_line_does_not_matter() -> None:
    """Nobody promises it, and each key occurs once."""
    head, _, extensions = AUTHORIZATION.format(user_agent="curl/8 (x)").rpartition("|")
    pairs = ["rt=1750280495722", "trace_id=11", "user_agent=curl/8 (x)", "granted=false", "action=edit"]
    pairs += ["principal_id=true-user", "org_id=true-org", "src=127.0.0.6"]

    record = read(f"{head}|{' '.join(pairs)} sig=TRUE")

    assert extensions
    assert record.user_agent == "curl/8 (x)"
    assert lies(record, AUTHORIZATION) == {}
    assert (record.granted, record.src, record.org_id) == (False, "127.0.0.6", "true-org")


_pieces = st.lists(
    st.one_of(
        st.sampled_from([f" {key}=" for key in sorted(KONNECTS | {"user_agent", "query", "request", "sig"})]),
        st.sampled_from([" ", "=", "|", "evil", "200", "true", "{}", '"', "x y", " foo=", "\\"]),
    ),
    max_size=14,
).map("".join)


@given(
    line=st.sampled_from([ACCESS, AUTHENTICATION, AUTHORIZATION]),
    request=_pieces,
    user_agent=_pieces,
    query=_pieces,
)
def test_no_caller_can_replace_what_konnect_wrote(
    line: str, request: str, user_agent: str, query: str
) -> None:
    """Whatever path, user agent and query hold together, a field says what Konnect wrote or nothing."""
    record = read(line, request=f"/{request}", user_agent=user_agent, query=query)

    assert lies(record, line) == {}


@pytest.mark.parametrize("line", sample("cef"))
def test_no_sample_is_doubtful(line: bytes) -> None:
    """Konnect's own lines are told without a doubt."""
    record = parse(line)

    assert record is not None
    assert not record.doubtful
