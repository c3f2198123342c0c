"""Requests that are no turns, responses that are not stored, and places that are given back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

import pytest

from hermes_lb.proxy.turns import place
from hermes_lb.turns.ports import Reading, Trimmed
from tests.support.http_peer import Ended
from tests.support.turn_store import MemoryTurnStore
from tests.support.turns import (
    LAST_CHUNK,
    STREAM_HEAD,
    Gateway,
    begin_stream,
    events,
    get,
    path_of,
    post,
    request,
    turn_of,
    without_ids,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb.turns.ports import Begun, Claim
    from tests.support.stage import Stage


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_methods_that_are_no_turns(stage: Stage, method: str) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin, turns={"idempotency": "required"})
    client = await gateway.client()
    await client.send(request(method, "/v1/a", key="k"))
    head = await client.read_head()
    assert (head.status, head.get("X-Hermes-Turn")) == (200, None)
    assert not gateway.shared.turns


@pytest.mark.http1_only("the server accepts without a key, which HTTP/2's clients never see")
async def test_an_upgrade_is_no_turn(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(get("/v1/ws", *UPGRADE, key="k"))
    at_origin, _ = await origin.accept_request()
    await at_origin.send(
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert (await client.read_head()).status == 101
    assert not gateway.shared.turns
    client.close()


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_a_body_that_is_cut_short_is_lost(stage: Stage, framing: str) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    await at_origin.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n3\r\nab".encode())
    head = await client.read_head()
    at_origin.close()
    with pytest.raises(Ended):
        await client.read_body(head)
    await gateway.in_state(turn_of(head), "lost")
    assert b"outcome_unknown" in (await gateway.ask(post(key="k"))).body


async def test_an_unknown_outcome_is_repeated_once_if_the_route_says_so(stage: Stage) -> None:
    origin = await stage.origin()
    options = {"on_unknown": "retry", "settle": "20ms"}
    gateway = await Gateway.before(stage, origin, turns=options)
    turns = []
    for _ in range(2):
        client, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
        at_origin.abort()
        await client.read_until_cut()
        turns.append(turn_of(head))
        await gateway.in_state(turns[-1], "lost")
    assert turns[0] != turns[1]
    assert (await gateway.ask(post(key="k"))).status == 409
    await gateway.in_state(turns[0], "lost")  # the old one stays as it is
    assert await origin.has_no_new_connection()


async def test_one_principal_for_all_has_to_be_said(stage: Stage) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin, turns={"principal": "none"})
    first = await gateway.ask(post(key="k", user=None))
    await gateway.in_state(turn_of(first.head), "done")
    again = await gateway.ask(post(key="k", user="mallory"))
    assert again.get("Idempotency-Replayed") == "true"
    assert len(origin.requests) == 1


async def test_a_replay_has_the_affinity_cookie_of_the_turns_server(stage: Stage) -> None:
    origins = [await stage.serving(), await stage.serving()]
    gateway = await Gateway.before(stage, *origins, backend={"affinity": {"cookie": "SRV"}})
    first = await gateway.ask(post(key="k"))
    await gateway.in_state(turn_of(first.head), "done")
    cookie = first.get("Set-Cookie")
    assert cookie is not None
    for _ in range(3):
        assert (await gateway.ask(post(key="k"))).get("Set-Cookie") == cookie


async def test_a_turn_that_gets_no_server_frees_its_session(stage: Stage) -> None:
    """The wait for a server begins again after the session's grant."""
    origin = await stage.origin()
    gateway = await Gateway.before(
        stage, origin, turns={"session": "header:X-Session"}, each=[{"max_connections": 1}],
        timeouts={"queue": "100ms"},
    )  # fmt: skip
    other = await gateway.client()
    await other.send(post(b"other", "X-Session: other"))
    at_origin, _ = await origin.accept_request()
    assert (await gateway.ask(post(b"{}", "X-Session: s"))).status == 503  # the server is full
    await at_origin.respond(b"ok")
    await other.read_response()
    third = await gateway.client()
    await third.send(post(b"third", "X-Session: s"))
    assert (await at_origin.read_request()).body == b"third"
    await at_origin.respond(b"ok")
    assert (await third.read_response()).body == b"ok"


async def test_a_stream_without_a_key_does_not_wait_for_a_slow_store(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    may_begin = asyncio.Event()
    begin = MemoryTurnStore.begin

    async def slow(store: MemoryTurnStore, claim: Claim) -> Begun:
        await may_begin.wait()
        return await begin(store, claim)

    monkeypatch.setattr(MemoryTurnStore, "begin", slow)
    client, at_origin, head = await begin_stream(gateway, origin, post())
    assert (head.get("X-Hermes-Turn"), head.get("X-Hermes-Degraded")) == (None, "store")
    may_begin.set()
    await at_origin.send(events("one") + LAST_CHUNK)
    assert await client.read_body(head) == b"data: one\n\n"
    await eventually(lambda: bool(gateway.shared.turns), "it has begun after all")
    [turn] = gateway.shared.turns.values()
    await eventually(lambda: turn.ended_at > 0, "and is released")


@pytest.mark.pure_only("a method of the store in memory is patched")
async def test_events_that_are_gone_are_missed_late(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is slow says so behind the moment for which the head waits."""
    gateway = await Gateway.before(stage, await stage.serving())
    turn = turn_of((await gateway.ask(post(key="k"))).head)
    await gateway.in_state(turn, "done")

    class Late(Reading):
        async def next(self) -> NoReturn:
            await asyncio.sleep(2 * place._FIRST)
            raise Trimmed

        def close(self) -> None:
            pass

    monkeypatch.setattr(MemoryTurnStore, "follow", lambda *_: Late())
    for data in (post(key="k"), get(path_of(turn))):
        answer = await gateway.ask(data)
        assert answer.status == 410
        assert b"result_not_kept" in answer.body


async def test_informational_responses_and_trailers_are_not_replayed(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    await at_origin.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert (await client.read_head()).status == 103
    await at_origin.send(STREAM_HEAD + events("one") + b"0\r\nX-Checksum: 1\r\n\r\n")
    head = await client.read_head()
    assert without_ids(await client.read_chunk()) == b"data: one\n\n"
    await gateway.in_state(turn_of(head), "done")
    replayed = await gateway.ask(post(key="k"))
    assert (replayed.status, without_ids(replayed.body)) == (200, b"data: one\n\n")
    assert b"X-Checksum" not in replayed.head.raw
    client.close()
