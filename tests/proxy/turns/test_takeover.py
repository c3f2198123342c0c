"""A backend that can continue its streams: another server, or another balancer, goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http_peer import Ended
from tests.support.turns import (
    LAST_CHUNK,
    Gateway,
    get,
    path_of,
    post,
    request,
    turn_of,
)
from tests.support.waiting import eventually, turns, until

if TYPE_CHECKING:
    from tests.support.http_peer import AtOrigin, Client, Head, Message
    from tests.support.origin import Origin
    from tests.support.stage import Stage

pytestmark = pytest.mark.usefixtures("both_stores")

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Hermes-Resume: /resume/1?a=b\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def numbered(*numbers: int) -> bytes:
    """Events as the backend numbers them."""
    return b"".join(b"id: b-%d\ndata: %d\n\n" % (number, number) for number in numbers)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def two(stage: Stage, origin: Origin, **options: Any) -> tuple[Gateway, Gateway]:
    options["route"] = {"resume": True, **options.get("route", {})}
    one = await Gateway.before(stage, origin, **options)
    return one, await Gateway.before(stage, origin, shared=one.shared, **options)


async def begin(
    gateway: Gateway, origin: Origin, data: bytes
) -> tuple[Client, AtOrigin, Head, Message]:
    client = await gateway.client()
    await client.send(data)
    at_origin, asked = await origin.accept_request()
    await at_origin.send(HEAD)
    return client, at_origin, await client.read_head(), asked


async def answer_resume(origin: Origin, last: str | None) -> tuple[AtOrigin, Message]:
    """The backend's answer to a balancer that wants the rest."""
    at_origin, asked = await origin.accept_request()
    assert (asked.head.method, asked.head.target) == ("GET", "/resume/1?a=b")
    assert asked.get("Last-Event-ID") == last
    assert asked.get("Authorization") == "Bearer alice"
    assert asked.get("X-Hermes-Handover") == "accept"
    await at_origin.send(HEAD)
    return at_origin, asked


async def reads(client: Client, number: int) -> bytes:
    """To the end of the chunk that ends with this event."""
    return await client.read_until(numbered(number) + b"\r\n")


async def stop(gateway: Gateway, turn: str) -> None:
    """The balancer ends, once the store has the response's head."""
    context = gateway.lb._context
    assert context.turns is not None
    store = context.turns.store

    async def is_stored() -> bool:
        record = await store.find_of_any(turn)
        return record is not None and bool(record.resume_path)

    await until(is_stored)
    await gateway.lb.stop()


@pytest.mark.parametrize("by", ["key", "path", "url"])
async def test_another_balancer_goes_on_for_a_client_that_comes_back(stage: Stage, by: str) -> None:
    origin = await stage.origin()
    one, other = await two(stage, origin)
    how = get("/v1/run") if by == "url" else post(b'{"a": 1}', key="k")
    client, at_origin, head, _ = await begin(one, origin, how)
    turn = turn_of(head)
    assert head.get("X-Hermes-Resume") == path_of(turn)  # and not the backend's
    await at_origin.send(chunk(numbered(1, 2)))
    assert numbered(1, 2) in await reads(client, 2)
    await stop(one, turn_of(head))
    await client.read_until_cut()
    again = {
        "key": post(b'{"a": 1}', key="k", last="b-1"),
        "path": get(path_of(turn), last="b-1"),
        "url": get("/v1/run", last=f"h1.{turn}.0"),
    }[by]
    back = await other.client()
    await back.send(again)
    at_other, _ = await answer_resume(origin, "b-2")
    resumed = await back.read_head()
    assert (resumed.status, turn_of(resumed)) == (200, turn)
    await at_other.send(chunk(numbered(3, 4)) + LAST_CHUNK)
    body = await back.read_body(resumed)
    assert body.endswith(numbered(1, 2, 3, 4) if by == "url" else numbered(2, 3, 4))
    await other.in_state(turn, "done")
    assert other.outcomes()["taken_over"] == other.outcomes()["done"] == 1
    if by != "url":
        replayed = await other.ask(post(b'{"a": 1}', key="k"))
        assert replayed.body == numbered(1, 2, 3, 4)
    assert await origin.has_no_new_connection()


async def test_nobody_notices_who_follows_at_another_balancer(stage: Stage) -> None:
    """Two requests follow there: one of them takes it over, and neither is cut. A request of
    another principal, which came first, is not asked."""
    origin = await stage.origin()
    one, other = await two(stage, origin)
    await begin(other, origin, post(key="k", user="mallory"))
    _, at_origin, head, _ = await begin(one, origin, post(key="k"))
    turn = turn_of(head)
    await at_origin.send(chunk(numbered(1)))
    followers = [await other.client() for _ in range(2)]
    await followers[0].send(post(key="k"))
    await followers[1].send(get(path_of(turn)))
    heads = [await follower.read_head() for follower in followers]
    for follower in followers:
        assert numbered(1) in await reads(follower, 1)
    await stop(one, turn_of(head))
    at_other, _ = await answer_resume(origin, "b-1")
    await at_other.send(chunk(numbered(2)) + LAST_CHUNK)
    for follower, its_head in zip(followers, heads, strict=True):
        assert (await follower.read_body(its_head)).endswith(numbered(2))
    await other.in_state(turn, "done")
    assert other.outcomes()["taken_over"] == 1


@pytest.mark.parametrize("follows", ["before", "after"])
async def test_a_request_whose_own_response_has_begun_takes_over_nothing(
    stage: Stage, follows: str
) -> None:
    """Its fields are gone. One that follows takes over, whichever is there first."""
    origin = await stage.origin()
    one, other = await two(stage, origin)
    first, at_origin, head, _ = await begin(one, origin, post(key="k"))
    turn = turn_of(head)
    await at_origin.send(chunk(numbered(1)))
    await reads(first, 1)
    if follows == "after":
        await begin(other, origin, post(key="another"))
    follower = await other.client()
    await follower.send(get(path_of(turn)))
    its_head = await follower.read_head()
    assert numbered(1) in await reads(follower, 1)
    if follows == "before":
        await begin(other, origin, post(key="another"))
    await stop(one, turn)
    at_other, _ = await answer_resume(origin, "b-1")
    await at_other.send(chunk(numbered(2)) + LAST_CHUNK)
    assert (await follower.read_body(its_head)).endswith(numbered(2))
    await other.in_state(turn, "done")
    assert other.outcomes()["taken_over"] == 1


@pytest.mark.slow
async def test_one_that_waits_for_the_session_takes_over_the_turn_before(stage: Stage) -> None:
    origin = await stage.origin()
    one, other = await two(stage, origin, turns={"session": "header:X-Session"})
    first, at_origin, head, asked = await begin(one, origin, post(b"1", "X-Session: s"))
    await at_origin.send(chunk(numbered(1)))
    await reads(first, 1)
    waiter = await other.client()
    await waiter.send(post(b"2", "X-Session: s"))
    await turns(20)
    await stop(one, turn_of(head))
    at_other, resumed = await answer_resume(origin, "b-1")
    assert resumed.get("X-Hermes-Fence") == asked.get("X-Hermes-Fence")
    await at_other.send(chunk(numbered(2)) + LAST_CHUNK)
    await other.in_state(turn_of(head), "done")
    its_turn = await at_other.read_request()
    assert its_turn.body == b"2"
    assert int(its_turn.get("X-Hermes-Fence")) > int(asked.get("X-Hermes-Fence"))
    await at_other.respond(b"second")
    assert (await waiter.read_response()).body == b"second"


async def test_without_a_client_nothing_is_taken_over(stage: Stage) -> None:
    """And not by a client of another principal."""
    origin = await stage.origin()
    one, other = await two(stage, origin)
    _, at_origin, head, _ = await begin(one, origin, post(key="k"))
    await at_origin.send(chunk(numbered(1)))
    await stop(one, turn_of(head))
    foreign = await other.ask(get(path_of(turn_of(head)), user="mallory"))
    assert foreign.status == 404
    await other.in_state(turn_of(head), "running")
    assert await origin.has_no_new_connection()
    assert "taken_over" not in other.outcomes()


async def test_a_client_that_is_ahead_of_the_journal_waits_for_its_event(stage: Stage) -> None:
    """Its balancer died before the event was stored; the backend sends it again."""
    origin = await stage.origin()
    one, other = await two(stage, origin)
    client, at_origin, head, _ = await begin(one, origin, post(key="k"))
    await at_origin.send(chunk(numbered(1)))
    await reads(client, 1)
    await stop(one, turn_of(head))
    back = await other.client()
    await back.send(post(key="k", last="b-2"))
    at_other, _ = await answer_resume(origin, "b-1")
    await at_other.send(chunk(numbered(2, 3)) + LAST_CHUNK)
    resumed = await back.read_head()
    assert await back.read_body(resumed) == numbered(3)


@pytest.mark.parametrize("status", [404, 500])
async def test_a_turn_that_no_server_continues_is_lost(stage: Stage, status: int) -> None:
    origin = await stage.origin()
    route = {"resume_attempts": 1}
    one, other = await two(stage, origin, route=route)
    client, at_origin, head, _ = await begin(one, origin, post(key="k"))
    await at_origin.send(chunk(numbered(1)))
    await reads(client, 1)
    await stop(one, turn_of(head))
    back = await other.client()
    await back.send(post(key="k"))
    resumed = await back.read_head()
    at_other, _ = await origin.accept_request()
    await at_other.respond(b"no", status=status)
    with pytest.raises(Ended):
        await back.read_body(resumed)
    await other.in_state(turn_of(head), "lost")
    assert b"outcome_unknown" in (await other.ask(post(key="k"))).body


@pytest.mark.parametrize("how", ["dies", "hands over"])
async def test_another_server_goes_on_at_the_same_balancer(stage: Stage, how: str) -> None:
    origins = [await stage.origin(), await stage.origin()]
    gateway = await Gateway.before(
        stage, *origins, each=[{}, {"backup": True}], route={"resume": True}
    )
    client, at_origin, head, _ = await begin(gateway, origins[0], post(key="k"))
    turn = turn_of(head)
    await at_origin.send(chunk(numbered(1)))
    await reads(client, 1)
    if how == "dies":
        await at_origin.send(chunk(b"id: b-2\ndata: hal"))
        at_origin.close()
    else:
        await at_origin.send(chunk(b'event: handover\ndata: {"turn": "1"}\n\n'))
    at_other, _ = await origins[1].accept_request()
    await at_other.send(HEAD + chunk(numbered(2)) + LAST_CHUNK)
    assert (await client.read_body(head)).endswith(numbered(2))
    await gateway.in_state(turn, "done")
    assert (await gateway.ask(post(key="k"))).body == numbered(1, 2)


async def test_comments_of_a_search_are_no_events(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, route={"resume": True})
    client, at_origin, head, _ = await begin(gateway, origin, post(key="k"))
    await at_origin.send(chunk(numbered(1)))
    await reads(client, 1)
    at_origin.abort()
    at_other, _ = await origin.accept_request()
    assert (await client.read_until(b"resuming\n\r\n")).endswith(b"\r\n: resuming\n\r\n")
    await at_other.send(HEAD + chunk(numbered(2)) + LAST_CHUNK)
    assert await client.read_body(head) == numbered(2)
    assert (await gateway.ask(post(key="k"))).body == numbered(1, 2)


async def test_events_of_one_connection_get_no_id_of_ours(stage: Stage) -> None:
    """They would stand for other events at the next balancer."""
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, route={"resume": True})
    client, at_origin, head, _ = await begin(gateway, origin, post(key="k"))
    sent = b"event: hello\ndata: s1\n\n" + numbered(1)
    await at_origin.send(chunk(sent) + LAST_CHUNK)
    assert await client.read_body(head) == sent
    await gateway.in_state(turn_of(head), "done")
    assert (await gateway.ask(post(key="k", last="b-1"))).body == b""


async def test_one_that_was_taken_over_can_be_cancelled(stage: Stage) -> None:
    origin = await stage.origin()
    one, other = await two(stage, origin)
    client, at_origin, head, _ = await begin(one, origin, post(key="k"))
    turn = turn_of(head)
    await at_origin.send(chunk(numbered(1)))
    await reads(client, 1)
    await stop(one, turn_of(head))
    back = await other.client()
    await back.send(get(path_of(turn)))
    await back.read_head()
    at_other, _ = await answer_resume(origin, "b-1")
    await eventually(lambda: other.lb._context.live.detached, "it has been taken over")
    assert (await other.ask(request("DELETE", path_of(turn)))).status == 202
    await at_other.read_until_cut()
    await back.read_until_cut()
    await other.in_state(turn, "cancelled")
    assert not other.lb._context.live.detached


async def test_without_a_turn_the_backends_path_is_the_clients(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, route={"resume": True})
    gateway.shared.is_away = True
    client, at_origin, head, _ = await begin(gateway, origin, post(user=None))
    assert head.get("X-Hermes-Resume") == "/resume/1?a=b"
    await at_origin.send(chunk(numbered(1)) + LAST_CHUNK)
    assert await client.read_body(head) == numbered(1)
    gateway.shared.is_away = False


async def test_ids_of_ours_count_on_after_a_takeover(stage: Stage) -> None:
    """An event too long to be kept makes the window begin behind its number."""
    origin = await stage.origin()
    one, other = await two(stage, origin, turns={"max_event": "1KiB", "journal_size": "8KiB"})
    client, at_origin, head, _ = await begin(one, origin, post(key="k"))
    await at_origin.send(chunk(numbered(1)))
    await reads(client, 1)
    await stop(one, turn_of(head))
    back = await other.client()
    await back.send(post(key="k", last="b-1"))
    at_other, _ = await answer_resume(origin, "b-1")
    await at_other.send(chunk(b"id: b-2\ndata: %b\n\n" % (b"x" * 2000) + numbered(3)) + LAST_CHUNK)
    await other.in_state(turn_of(head), "done")
    back.abort()
    record = other.lb._context.turns
    assert record is not None
    found = await record.store.find_of_any(turn_of(head))
    assert found is not None
    assert (found.first, found.last) == (3, 3)


@pytest.mark.parametrize(
    "where", ["takeover._last_id", "takeover.RequestHead", "takeover.Successor._goes_on_alone"]
)
async def test_an_unexpected_error_ends_the_turn(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It must not be owned for ever, by a process in which nothing executes it."""
    origin = await stage.origin()
    options = {"session": "header:X-Session", "settle": "1ms"}
    one, other = await two(stage, origin, turns=options)
    client, at_origin, head, _ = await begin(one, origin, post(b"1", "X-Session: s"))
    await at_origin.send(chunk(numbered(1)))
    await reads(client, 1)
    follower = await other.client()
    await follower.send(get(path_of(turn_of(head))))
    its_head = await follower.read_head()
    await reads(follower, 1)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(f"hermes_lb.proxy.turns.{where}", fail)
    await stop(one, turn_of(head))
    with pytest.raises(Ended):
        await follower.read_body(its_head)
    await other.in_state(turn_of(head), "lost")
    [problem] = stage.problems
    assert "while taking over the turn" in problem
    stage.problems.clear()
    next_one = await other.client()
    await next_one.send(post(b"2", "X-Session: s"))
    at_other, asked = await origin.accept_request()
    assert asked.body == b"2"
    await at_other.respond(b"second")
    assert (await next_one.read_response()).body == b"second"
