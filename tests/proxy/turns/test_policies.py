"""Turns on routes that rewrite: whose they are, what is replayed, and which pages may come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.origin import answers
from tests.support.turns import (
    Gateway,
    begin_stream,
    get,
    path_of,
    post,
    request,
    turn_of,
)

if TYPE_CHECKING:
    from tests.support.stage import Stage

PAGE = "https://app.example"
ROUTE: dict[str, Any] = {
    "strip_prefix": "/v1",
    "request_headers": {"set": {"Authorization": "Bearer ours"}, "add": {"X-Tag": "1"}},
    "response_headers": {"set": {"X-Id": "{request_id}"}, "add": {"X-Tag": "1"}},
    "cors": {"origins": [PAGE, "https://other.example"], "credentials": True},
}


async def test_clients_are_distinguished_by_what_they_have_sent(stage: Stage) -> None:
    """The servers get one credential for all, and no client gets another one's response."""
    origin = await stage.serving(answers(b"ok"))
    gateway = await Gateway.before(stage, origin, route=ROUTE)
    for user in ("alice", "bob", "alice"):
        assert (await gateway.ask(post(key="k", user=user))).status == 200
    assert [one.head.target for one in origin.requests] == ["/run"] * 2
    assert {one.get("Authorization") for one in origin.requests} == {"Bearer ours"}
    assert gateway.outcomes() == {"done": 2, "replayed": 1}


async def test_a_replay_has_the_fields_of_its_own_request(stage: Stage) -> None:
    origin = await stage.serving(answers(b"ok", "X-Tag: 2"))
    gateway = await Gateway.before(stage, origin, route=ROUTE)
    first, second = [
        await gateway.ask(post(b"{}", f"X-Request-ID: r{n}", f"Origin: {page}", key="k"))
        for n, page in ((1, PAGE), (2, "https://other.example"))
    ]
    assert (first.get("X-Id"), second.get("X-Id")) == ("r1", "r2")
    assert first.head.all("X-Tag") == second.head.all("X-Tag") == ["2", "1"]
    assert first.get("Access-Control-Allow-Origin") == PAGE
    assert second.get("Access-Control-Allow-Origin") == "https://other.example"
    assert second.get("Idempotency-Replayed") == "true"


async def test_the_page_of_a_turn_may_come_back_and_no_other(stage: Stage) -> None:
    """The route's CORS is what the resume path goes by."""
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, route=ROUTE)
    client, at_origin, head = await begin_stream(
        gateway, origin, post(b"{}", f"Origin: {PAGE}", key="k")
    )
    assert head.get("Access-Control-Allow-Origin") == PAGE
    turn = turn_of(head)
    asked = "Access-Control-Request-Method: GET"
    for page, status in ((PAGE, 204), ("https://other.example", 404)):
        answer = await gateway.ask(
            request("OPTIONS", path_of(turn), f"Origin: {page}", asked, user=None)
        )
        assert answer.status == status
    await at_origin.send(b"0\r\n\r\n")
    assert await client.read_chunk() == b""
    back = await gateway.ask(get(path_of(turn), f"Origin: {PAGE}"))
    assert back.get("Access-Control-Allow-Origin") == PAGE


async def test_the_backends_of_a_route_share_its_turns(stage: Stage) -> None:
    """Another weight moves a client, and its key still finds the turn."""
    stable, canary = await stage.agents(2)
    servers = [{"name": "c", "address": canary.address}]
    gateway = await Gateway.before(
        stage,
        stable,
        route={"backend": None, "backends": {"agents": 1, "canary": 0}},
        backends={"canary": {"servers": servers}},
    )
    first = await gateway.ask(post(key="k"))
    tables = gateway.lb.config.model_dump()
    tables["frontends"][0]["routes"][0]["backends"] = {"agents": 0, "canary": 1}
    await gateway.lb.reconfigure(tables)
    second = await gateway.ask(post(key="k"))
    assert (first.body, second.body) == (b"agent1", b"agent1")
    assert second.get("Idempotency-Replayed") == "true"
    assert (await gateway.ask(post(key="other"))).body == b"agent2"
