"""The streams a relay makes, changes, or only checks."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from relay.config.queue import JetStreamQueueConfig, Placement
from relay.errors import QueueError
from relay.observe import logs
from relay.queue.jetstream.assets import ensure, streams
from relay.queue.jetstream.connect import connect
from relay.queue.jetstream.link import Link
from tests.fakes.nats import NatsCluster, NatsServer


def config(server: NatsServer, prefix: str, **keys: Any) -> JetStreamQueueConfig:
    keys = {"replicas": 1, "max_bytes": 1 << 30, **keys}
    return JetStreamQueueConfig(type="jetstream", servers=(server.url,), stream=prefix, **keys)


@asynccontextmanager
async def linked(server: NatsServer) -> AsyncIterator[Link]:
    client = await connect(config(server, "x"), log=logs.configure("error"), name="test")
    link = await Link.open(client)
    try:
        yield link
    finally:
        await link.close()


@pytest.fixture
async def link(nats_server: NatsServer) -> AsyncIterator[Link]:
    async with linked(nats_server) as link:
        yield link


async def logged(link: Link, config: JetStreamQueueConfig) -> list[dict[str, Any]]:
    """Have the streams, and what the log says to that."""
    stream = io.BytesIO()
    await ensure(link, config, log=logs.configure("info", stream=stream))
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [{key: each[key] for key in each if key not in ("level", "timestamp")} for each in records]


async def refusal(link: Link, config: JetStreamQueueConfig) -> str:
    with pytest.raises(QueueError) as raised:
        await ensure(link, config, log=logs.configure("info", stream=io.BytesIO()))
    return str(raised.value)


async def settings(link: Link, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = (await link.api(f"STREAM.INFO.{stream}"))["config"]
    return found


# -- managed -------------------------------------------------------------------------------------


async def test_made_once(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """The first relay makes them, every later start finds them as they should be."""
    wanted = config(nats_server, prefix)

    assert await logged(link, wanted) == [
        {"event": "queue.stream_created", "stream": prefix, "replicas": 1},
        {"event": "queue.stream_created", "stream": f"KV_{prefix}-state", "replicas": 1},
    ]
    assert await logged(link, wanted) == []


async def test_what_promises_rest_on(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """Nothing is deleted by age or for room, and what is stored together is stored or not."""
    await logged(link, config(nats_server, prefix))

    for name in (prefix, f"KV_{prefix}-state"):
        found = await settings(link, name)
        kept = {key: found[key] for key in ("storage", "retention", "discard", "max_age", "max_msgs")}
        assert kept == {
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_age": 0,
            "max_msgs": -1,
        }
        assert (found["allow_atomic"], found["allow_direct"]) == (True, True)
    assert (await settings(link, prefix))["max_bytes"] == 1 << 30


async def test_the_state_is_a_bucket(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """`nats kv` and the client's own key-value reader take it for one of theirs."""
    await logged(link, config(nats_server, prefix))

    bucket = await link.client.jetstream().key_value(f"{prefix}-state")
    revision = await bucket.put("destination.siem", b"{}")

    assert (await bucket.get("destination.siem")).revision == revision
    assert (await bucket.status()).history == 1


async def test_many_relays_start_at_once(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """None of them minds that another was faster."""
    wanted = config(nats_server, prefix)

    said = await asyncio.gather(*[logged(link, wanted) for _ in range(8)])

    created = [record["stream"] for records in said for record in records]
    assert set(created) == {prefix, f"KV_{prefix}-state"}
    assert {record["event"] for records in said for record in records} == {"queue.stream_created"}


async def test_a_changed_configuration(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """What is stored stays, and the log says what was changed."""
    await logged(link, config(nats_server, prefix))
    await link.client.jetstream().publish(f"{prefix}.events.a", b"x")

    records = await logged(link, config(nats_server, prefix, max_bytes=2 << 30))

    assert records == [
        {
            "event": "queue.stream_changed",
            "stream": prefix,
            "changes": [f"{prefix} has max_bytes 1073741824, expected 2147483648"],
        }
    ]
    info = await link.api(f"STREAM.INFO.{prefix}")
    assert (info["config"]["max_bytes"], info["state"]["messages"]) == (2 << 30, 1)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("max_age", 600 * 10**9),
        ("discard", "old"),
        ("allow_direct", False),
        ("max_msgs", 5),
        ("no_ack", True),
        ("max_msg_size", 4096),
    ],
)
async def test_what_an_operator_changed_is_put_right(
    link: Link, nats_server: NatsServer, prefix: str, setting: str, wrong: object
) -> None:
    """Whatever would lose or refuse events, and can be changed."""
    wanted = config(nats_server, prefix)
    await logged(link, wanted)
    good = await settings(link, prefix)
    await link.api(f"STREAM.UPDATE.{prefix}", {**good, setting: wrong})

    await logged(link, wanted)

    assert await settings(link, prefix) == good


async def test_other_settings_are_left_alone(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """Descriptions and metadata are the operator's."""
    wanted = config(nats_server, prefix)
    await logged(link, wanted)
    good = await settings(link, prefix)
    await link.api(f"STREAM.UPDATE.{prefix}", {**good, "description": "audit", "max_consumers": 50})

    assert await logged(link, wanted) == []


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [("storage", "memory"), ("retention", "workqueue"), ("deny_purge", True), ("sealed", True)],
)
async def test_what_cannot_be_changed(
    link: Link, nats_server: NatsServer, prefix: str, setting: str, wrong: object
) -> None:
    """The sentence says what is wrong and what the server says to changing it."""
    (events, _) = streams(config(nats_server, prefix))
    stream = {"name": prefix, "subjects": events["subjects"], "storage": "file", setting: wrong}
    if setting == "sealed":
        del stream["sealed"]
        made = (await link.api(f"STREAM.CREATE.{prefix}", stream))["config"]
        await link.api(f"STREAM.UPDATE.{prefix}", {**made, "sealed": True})
    else:
        await link.api(f"STREAM.CREATE.{prefix}", stream)

    told = await refusal(link, config(nats_server, prefix))

    assert f"{prefix} has {setting} {json.dumps(wrong)}, expected " in told
    assert "; NATS: " in told


async def test_a_stream_of_somebody_else(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """One of our name with other subjects is left as it is: our retention would purge what is in it."""
    theirs = {"name": prefix, "subjects": ["orders.>"], "storage": "file"}
    made = (await link.api(f"STREAM.CREATE.{prefix}", theirs))["config"]

    told = await refusal(link, config(nats_server, prefix))

    assert told == (
        f"the stream {prefix} is somebody else's: its subjects are orders.>; choose another `queue.stream`"
    )
    assert await settings(link, prefix) == made


async def test_a_stream_in_the_way(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """Two installations of one name would mix their events."""
    await link.api(f"STREAM.CREATE.{prefix}-other", {"name": f"{prefix}-other", "subjects": [f"{prefix}.>"]})

    told = await refusal(link, config(nats_server, prefix))

    assert told == (
        f"the stream {prefix} cannot be created; NATS: subjects overlap with an existing stream (10065): "
        "another stream takes the subjects; choose another stream in the configuration"
    )


async def test_three_replicas_on_one_server(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """The default asks for a cluster; the sentence says what a single server can do."""
    told = await refusal(link, config(nats_server, prefix, replicas=3))

    assert told.endswith(": a single server can only hold replicas: 1")


async def test_no_room_for_it(tmp_path: Path) -> None:
    """JetStream sets the room aside in advance."""
    async with (
        NatsServer(tmp_path, jetstream={"max_file_store": 1 << 20}) as server,
        linked(server) as link,
    ):
        told = await refusal(link, config(server, "audit"))

    assert told.endswith(": the servers have no room for max_bytes")


# -- only checked --------------------------------------------------------------------------------


async def test_nothing_is_made_unmanaged(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """Both that are missing are named at once."""
    told = await refusal(link, config(nats_server, prefix, manage=False))

    assert told == (
        "with manage: false the streams must be right already: "
        f"there is no stream {prefix}; there is no stream KV_{prefix}-state"
    )


async def test_every_deviation_is_named(link: Link, nats_server: NatsServer, prefix: str) -> None:
    """One start tells all there is to put right; nothing is changed."""
    await logged(link, config(nats_server, prefix))
    good = await settings(link, prefix)
    wrong = {**good, "max_age": 600 * 10**9, "max_bytes": 1 << 20, "allow_direct": False}
    await link.api(f"STREAM.UPDATE.{prefix}", wrong)
    await link.api(f"STREAM.DELETE.KV_{prefix}-state")

    told = await refusal(link, config(nats_server, prefix, manage=False))

    assert told.removeprefix("with manage: false the streams must be right already: ").split("; ") == [
        f"{prefix} has max_age 600000000000, expected 0",
        f"{prefix} has allow_direct false, expected true",
        f"{prefix} has max_bytes 1048576, expected 1073741824",
        f"there is no stream KV_{prefix}-state",
    ]
    assert (await settings(link, prefix))["max_age"] == 600 * 10**9


async def test_more_than_asked_for_is_fine_unmanaged(
    link: Link, nats_server: NatsServer, prefix: str
) -> None:
    """Whoever manages the streams may be more generous."""
    await logged(link, config(nats_server, prefix))
    for name in (prefix, f"KV_{prefix}-state"):
        good = await settings(link, name)
        await link.api(f"STREAM.UPDATE.{name}", {**good, "duplicate_window": 600 * 10**9, "max_bytes": -1})

    assert await logged(link, config(nats_server, prefix, manage=False)) == []


# -- on a cluster --------------------------------------------------------------------------------


async def test_a_cluster_without_room_says_so(tmp_path: Path) -> None:
    """Not that too few servers fit, which NATS mentions in the same breath."""
    async with NatsCluster(tmp_path, jetstream={"max_file_store": 1 << 20}) as cluster:
        one = cluster.servers[0]
        async with linked(one) as link:
            told = await refusal(link, config(one, "audit", replicas=3))

    assert told.endswith(": the servers have no room for max_bytes")


async def test_replicas_and_placement_on_a_cluster(tmp_path: Path) -> None:
    """One becomes three while it is used; only servers with the tags are taken."""
    tags = [{"server_tags": ["ssd", f"zone:{zone}"]} for zone in "abc"]
    async with NatsCluster(tmp_path, each=tags) as cluster:
        one = cluster.servers[0]
        async with linked(one) as link:
            nowhere = Placement(tags=("zone:b", "nvme"))
            told = await refusal(link, config(one, "audit", placement=nowhere))
            assert told.endswith(": too few servers of the cluster fit replicas and placement")

            await logged(link, config(one, "zoned", placement=Placement(tags=("zone:b",))))
            assert (await cluster.leader_of("zoned")).name == "n2"
            told = await refusal(link, config(one, "zoned", replicas=3, placement=Placement(tags=("ssd",))))
            assert told.endswith(": change replicas or placement, and the other one when that is done")

            everywhere = Placement(cluster="test", tags=("ssd",))
            await logged(link, config(one, "audit", placement=everywhere))
            await link.client.jetstream().publish("audit.events.a", b"x")
            await logged(link, config(one, "audit", replicas=3, placement=everywhere))
            await cluster.in_step("audit")
            assert (await settings(link, "audit"))["num_replicas"] == 3

        leader = await cluster.leader_of("audit")
        await leader.kill()
        heir = await cluster.leader_of("audit", other_than=leader)
        assert (await heir.api("STREAM.INFO.audit"))["state"]["messages"] == 1


async def test_many_relays_start_at_once_on_a_cluster(tmp_path: Path) -> None:
    """Each goes on when the streams have leaders: what is asked before gets no answer."""
    async with NatsCluster(tmp_path) as cluster, AsyncExitStack() as stack:
        links = [await stack.enter_async_context(linked(server)) for server in cluster]

        async def start(link: Link, prefix: str) -> None:
            await logged(link, config(cluster.servers[0], prefix, replicas=3))
            for stream in (prefix, f"KV_{prefix}-state"):
                assert (await link.api(f"STREAM.INFO.{stream}"))["cluster"]["leader"]

        for number in range(4):
            await asyncio.gather(*[start(link, f"audit-{number}") for link in links])


@pytest.mark.parametrize("refusals", [2, sys.maxsize])
async def test_servers_that_are_about_to_join_are_waited_for(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """Relays and servers are started together: a leader of a moment has not heard of the others yet.

    The answers are what a server says in that moment, which no test can bring about.
    """
    if refusals > 2:
        monkeypatch.setattr("relay.queue.jetstream.assets._PATIENCE_SECONDS", 1.0)
    alone = {"code": 400, "err_code": 10005, "description": "no suitable peers for placement, peer offline"}
    missing = {"code": 404, "err_code": 10059, "description": "stream not found"}
    asked = 0

    async def answer(message: Msg) -> None:
        nonlocal asked
        if ".STREAM.CREATE." not in message.subject:
            said: dict[str, Any] = {"error": missing}
        elif (asked := asked + 1) <= refusals:
            said = {"error": alone}
        else:
            said = {"config": json.loads(message.data), "cluster": {"leader": "n1"}}
        await message.respond(json.dumps(said).encode())

    wanted = config(nats_server, "audit", replicas=3)
    client = await connect(wanted, log=logs.configure("error"), name="test")
    link = await Link.open(client, api_prefix="BEGINNING.API")
    await client.subscribe("BEGINNING.API.>", cb=answer)
    try:
        if refusals == 2:
            assert [each["event"] for each in await logged(link, wanted)] == ["queue.stream_created"] * 2
        else:
            told = await refusal(link, wanted)
            assert told.endswith(
                "peer offline (10005): too few servers of the cluster fit replicas and placement"
            )
    finally:
        await link.close()


async def test_a_cluster_without_a_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start waits for an election, but not for ever."""
    monkeypatch.setattr("relay.queue.jetstream.assets._PATIENCE_SECONDS", 0.5)
    async with NatsCluster(tmp_path) as cluster:
        one, two, three = cluster.servers
        async with linked(one) as link:
            await two.kill()
            await three.kill()
            told = await refusal(link, config(one, "audit", replicas=3))

    assert "NATS" in told
