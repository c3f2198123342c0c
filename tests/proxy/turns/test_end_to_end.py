"""Turns over sockets: executed once, joined, replayed, resumed, detached, cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import Ended
from tests.support.turns import (
    LAST_CHUNK,
    Gateway,
    begin_stream,
    events,
    get,
    ids,
    path_of,
    post,
    request,
    turn_of,
    without_ids,
)
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from tests.support.stage import Stage


pytestmark = pytest.mark.usefixtures("both_stores")


async def test_a_keyed_request_is_executed_once_and_replayed(stage: Stage) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin)
    first = await gateway.ask(post(b'{"a": 1}', key="k1"))
    assert (first.status, first.body) == (200, b"ok")
    await gateway.in_state(turn_of(first.head), "done")
    again = await gateway.ask(post(b'{"a": 1}', key='"k1"'))
    assert (again.status, again.body) == (200, b"ok")
    assert again.get("Idempotency-Replayed") == "true"
    assert turn_of(again.head) == turn_of(first.head)
    assert len(origin.requests) == 1
    assert gateway.outcomes() == {"done": 1, "replayed": 1}


async def test_a_duplicate_joins_a_running_stream(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    await at_origin.send(events("one"))
    assert await first.read_chunk() == f"id: h1.{turn_of(head)}.1\ndata: one\n\n".encode()
    second = await gateway.client()
    await second.send(post(key="k"))
    joined = await second.read_head()
    assert turn_of(joined) == turn_of(head)
    assert joined.get("Idempotency-Replayed") is None
    assert without_ids(await second.read_chunk()) == b"data: one\n\n"
    await at_origin.send(events("two") + LAST_CHUNK)
    rest = await second.read_body(joined)
    assert (await first.read_body(head)) == rest
    assert without_ids(rest) == b"data: two\n\n"
    assert ids(rest) == [f"h1.{turn_of(head)}.2"]
    assert await origin.has_no_new_connection()


@pytest.mark.parametrize("by", ["key", "path"])
async def test_a_stream_is_resumed_behind_the_last_event(stage: Stage, by: str) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    turn = turn_of(head)
    assert head.get("X-Hermes-Resume") == path_of(turn)
    await at_origin.send(events("one", "two", "three"))
    assert len(ids(await first.read_chunk())) == 3
    first.abort()
    last = f"h1.{turn}.1"
    again = post(key="k", last=last) if by == "key" else get(path_of(turn), last=last)
    client = await gateway.client()
    await client.send(again)
    resumed = await client.read_head()
    assert resumed.status == 200
    assert without_ids(await client.read_chunk()) == b"data: two\n\ndata: three\n\n"
    await at_origin.send(events("four") + LAST_CHUNK)
    assert without_ids(await client.read_body(resumed)) == b"data: four\n\n"
    await gateway.in_state(turn, "done")
    assert gateway.outcomes() == {"done": 1, "resumed": 1}


async def test_an_event_source_resumes_by_repeating_its_url(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"session": "query:s"})
    first, at_origin, head = await begin_stream(gateway, origin, get("/v1/events?s=1"))
    turn = turn_of(head)
    assert head.get("Cache-Control") == "no-store"
    assert head.get("Vary") == "Authorization"
    assert await first.read_chunk() == f"id: h1.{turn}.0\n\n".encode()
    first.abort()
    client = await gateway.client()
    await client.send(get("/v1/events?s=1", last=f"h1.{turn}.0"))
    resumed = await client.read_head()
    await at_origin.send(events("one") + LAST_CHUNK)
    body = await client.read_body(resumed)
    assert body == f"id: h1.{turn}.0\n\nid: h1.{turn}.1\ndata: one\n\n".encode()
    await gateway.in_state(turn, "done")
    finished = await gateway.ask(get("/v1/events?s=1", last=f"h1.{turn}.1"))
    assert finished.status == 204
    for other in ("/v1/events?s=2", "/v1/other?s=1"):
        assert (await gateway.ask(get(other, last=f"h1.{turn}.0"))).status == 404
    assert await origin.has_no_new_connection()


async def test_a_turn_goes_on_without_its_client(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    turn = turn_of(head)
    first.abort()
    live = gateway.lb._context.live
    await eventually(lambda: live.detached, "the turn is detached")
    (row,) = await gateway.lb.sessions()
    assert (row["kind"], row["client"]) == ("detached", None)
    await at_origin.send(events("one") + LAST_CHUNK)
    await gateway.in_state(turn, "done")
    assert not live.detached
    # Its connection has returned to the pool, and serves the next one.
    client = await gateway.client()
    await client.send(post(b"[]", key="other"))
    await at_origin.read_request()
    await at_origin.respond(b"next")
    assert (await client.read_response()).body == b"next"


async def test_linger_bounds_a_turn_without_a_client(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"linger": "50ms"})
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    first.abort()
    await at_origin.read_until_cut()
    await gateway.in_state(turn_of(head), "lost")


async def test_delete_cancels_a_running_turn(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    turn = turn_of(head)
    await at_origin.send(events("one"))
    await first.read_chunk()
    answer = await gateway.ask(request("DELETE", path_of(turn)))
    assert answer.status == 202
    with pytest.raises(Ended):
        await first.read_body(head)
    await at_origin.read_until_cut()
    await gateway.in_state(turn, "cancelled")
    assert (await gateway.ask(request("DELETE", path_of(turn)))).status == 204
    duplicate = await gateway.ask(post(key="k"))
    assert duplicate.status == 409
    assert duplicate.get("x-should-retry") == "false"
    assert b'"code":"turn_cancelled"' in duplicate.body


async def test_a_lost_turn_is_not_executed_again(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    await at_origin.send(events("one"))
    await first.read_chunk()
    at_origin.abort()
    with pytest.raises(Ended):
        await first.read_body(head)
    turn = turn_of(head)
    await gateway.in_state(turn, "lost")
    duplicate = await gateway.ask(post(key="k"))
    assert (duplicate.status, duplicate.get("Retry-After")) == (409, None)
    assert b'"code":"outcome_unknown"' in duplicate.body
    assert turn.encode() in duplicate.body
    assert await origin.has_no_new_connection()


async def test_a_stream_without_a_key_can_be_resumed(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    first, at_origin, head = await begin_stream(gateway, origin, post())
    await at_origin.send(events("one"))
    assert len(ids(await first.read_chunk())) == 1
    client = await gateway.client()
    await client.send(get(path_of(turn_of(head))))
    resumed = await client.read_head()
    await at_origin.send(events("two") + LAST_CHUNK)
    body = await client.read_body(resumed)
    assert without_ids(body).endswith(b"data: one\n\ndata: two\n\n")
    assert without_ids(await first.read_body(head)) == b"data: two\n\n"


async def test_one_turn_at_a_time_per_session(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"session": "json:/session_id"})
    body = b'{"session_id": "s1"}'
    first = await gateway.client()
    await first.send(post(body))
    at_origin, request_one = await origin.accept_request()
    second = await gateway.client()
    await second.send(post(body))
    await turns(20)
    assert await origin.has_no_new_connection()
    await at_origin.respond(b"first")
    assert (await first.read_response()).body == b"first"
    request_two = await at_origin.read_request()
    await at_origin.respond(b"second")
    assert (await second.read_response()).body == b"second"
    fences = [int(one.get("X-Hermes-Fence") or 0) for one in (request_one, request_two)]
    assert 0 < fences[0] < fences[1]


async def test_nobody_gets_the_turn_of_another_principal(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    path = path_of(turn_of(head))
    foreign = await gateway.ask(get(path, user="mallory"))
    unknown = await gateway.ask(get(path[:-5] + "aaaaa", user="mallory"))
    assert foreign.status == unknown.status == 404
    assert foreign.body == unknown.body
    assert (await gateway.ask(request("DELETE", path, user="mallory"))).status == 404
    assert (await gateway.ask(get(path, user=None))).status == 400
    other = await gateway.client()
    await other.send(post(key="k", user="mallory"))
    await origin.accept_request()  # its own turn
    await at_origin.send(LAST_CHUNK)
    assert await first.read_body(head) == b""


async def test_a_stream_is_resumed_at_another_balancer(stage: Stage) -> None:
    origin = await stage.origin()
    one = await Gateway.before(stage, origin)
    other = await Gateway.before(stage, origin, shared=one.shared)
    first, at_origin, head = await begin_stream(one, origin, post(key="k"))
    turn = turn_of(head)
    await at_origin.send(events("one", "two"))
    await first.read_chunk()
    first.abort()
    client = await other.client()
    await client.send(post(key="k", last=f"h1.{turn}.1"))
    resumed = await client.read_head()
    assert without_ids(await client.read_chunk()) == b"data: two\n\n"
    await at_origin.send(events("three") + LAST_CHUNK)
    assert without_ids(await client.read_body(resumed)) == b"data: three\n\n"
    await other.in_state(turn, "done")
    assert await origin.has_no_new_connection()


async def test_delete_reaches_the_owner_at_another_balancer(stage: Stage) -> None:
    origin = await stage.origin()
    one = await Gateway.before(stage, origin)
    other = await Gateway.before(stage, origin, shared=one.shared)
    client, at_origin, head = await begin_stream(one, origin, post(key="k"))
    turn = turn_of(head)
    assert (await other.ask(request("DELETE", path_of(turn)))).status == 202
    with pytest.raises(Ended):
        await client.read_body(head)
    await at_origin.read_until_cut()
    await other.in_state(turn, "cancelled")


async def test_a_session_is_one_over_both_balancers(stage: Stage) -> None:
    origin = await stage.origin()
    options = {"session": "header:X-Session"}
    one = await Gateway.before(stage, origin, turns=options)
    other = await Gateway.before(stage, origin, turns=options, shared=one.shared)
    first, second = await one.client(), await other.client()
    await first.send(post(b"1", "X-Session: s"))
    at_origin, _ = await origin.accept_request()
    await second.send(post(b"2", "X-Session: s"))
    await turns(50)
    assert await origin.has_no_new_connection()
    await at_origin.respond(b"first")
    await first.read_response()
    at_other, asked = await origin.accept_request()
    assert asked.body == b"2"
    await at_other.respond(b"second")
    assert (await second.read_response()).body == b"second"


async def test_a_silent_stream_gets_comments_that_no_client_takes_for_an_event(
    stage: Stage,
) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, route={"sse_keep_alive": "40ms"})
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    await at_origin.send(events("one"))
    assert len(ids(await first.read_chunk())) == 1
    assert await first.read_chunk() == b": keep-alive\n"
    joined = await gateway.client()
    await joined.send(post(key="k"))
    of_joined = await joined.read_head()
    assert without_ids(await joined.read_chunk()) == b"data: one\n\n"
    assert await joined.read_chunk() == b": keep-alive\n"
    await at_origin.send(events("two") + LAST_CHUNK)
    for client, its_head in ((first, head), (joined, of_joined)):
        body = without_ids(await client.read_body(its_head)).replace(b": keep-alive\n", b"")
        assert body == b"data: two\n\n"
    await gateway.in_state(turn_of(head), "done")
    assert b"keep-alive" not in (await gateway.ask(post(key="k"))).body
