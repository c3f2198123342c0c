"""Servers that drain or are in maintenance, while clients come, wait and stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.origin import answers
from tests.support.stage import Stage, pool_of, server_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer

COOKIE = {"affinity": {"cookie": "SERVERID"}}
FIRST = "Cookie: SERVERID=agent1"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"


async def two(stage: Stage, **more: Any) -> LoadBalancer:
    return await stage.balancer(*await stage.agents(2), **more)


@pytest.mark.parametrize("how", ["operator", "announced"])
async def test_a_drained_server_keeps_its_sessions_and_gets_no_new_ones(
    stage: Stage, how: str
) -> None:
    lb = await two(stage, backend=COOKIE)
    if how == "operator":
        server_of(lb, 1).set_admin("drain")
    else:
        server_of(lb, 1).announce_drain("503, it announces its drain")
    for _ in range(3):
        answer = await stage.ask(lb)
        assert (answer.body, answer.get("Set-Cookie")) == (b"agent2", "SERVERID=agent2; path=/")
        answer = await stage.ask(lb, FIRST)
        assert (answer.body, answer.get("Set-Cookie")) == (b"agent1", None)
    assert {line.cookies for line in await stage.logged(lb, 6)} == {"NI", "VN"}


async def test_in_maintenance_its_sessions_go_elsewhere(stage: Stage) -> None:
    lb = await two(stage, backend=COOKIE)
    server_of(lb, 1).set_admin("maint")
    answer = await stage.ask(lb, FIRST)
    assert (answer.body, answer.get("Set-Cookie")) == (b"agent2", "SERVERID=agent2; path=/")
    line = await stage.log_line(lb)
    assert line.cookies == "DI"
    server_of(lb, 1).set_admin("ready")
    assert (await stage.ask(lb, FIRST)).body == b"agent1"


@pytest.mark.parametrize("admin", ["drain", "maint"])
async def test_what_runs_goes_on_and_its_end_is_seen(stage: Stage, admin: Any) -> None:
    lb, client, at_origin = await stage.asked("/stream")
    await at_origin.send(STREAM)
    await client.read_until(b"x\r\n")
    server = server_of(lb, 1)
    server.set_admin(admin)
    assert server.load == 1
    await at_origin.send(b"1\r\ny\r\n0\r\n\r\n")
    assert await client.read_until(b"0\r\n\r\n") == b"1\r\ny\r\n0\r\n\r\n"
    await eventually(lambda: server.load == 0)


@pytest.mark.parametrize("admin", ["drain", "maint"])
async def test_when_all_are_taken_out_a_new_request_is_503_at_once(
    stage: Stage, admin: Any
) -> None:
    lb = await two(stage)
    for server in pool_of(lb).servers:
        server.set_admin(admin)
    assert (await stage.ask(lb)).status == 503
    line = await stage.log_line(lb)
    assert (line.termination, line.server) == ("SC", "<NOSRV>")
    server_of(lb, 2).set_admin("ready")
    assert (await stage.ask(lb)).body == b"agent2"


@pytest.mark.parametrize(("admin", "served_by"), [("drain", b"agent1"), ("maint", b"agent2")])
async def test_who_waits_for_its_server_waits_on_in_a_drain_only(
    stage: Stage, admin: Any, served_by: bytes
) -> None:
    first, second = await stage.origin(), await stage.serving(answers(b"agent2"))
    lb = await stage.balancer(first, second, backend=COOKIE, server={"max_connections": 1})
    streaming, waiting = await stage.client(lb), await stage.client(lb)
    await streaming.get("/stream", FIRST)
    at_first, _ = await first.accept_request()
    await at_first.send(STREAM)
    await streaming.read_until(b"x\r\n")
    await waiting.get("/", FIRST)
    await eventually(lambda: server_of(lb, 1).queued == 1)
    server_of(lb, 1).set_admin(admin)
    if admin == "drain":
        assert await waiting.gets_nothing()
        assert server_of(lb, 1).load == 2
        await at_first.send(b"0\r\n\r\n")
        await at_first.read_request()
        await at_first.respond(b"agent1")
    assert (await waiting.read_response()).body == served_by
