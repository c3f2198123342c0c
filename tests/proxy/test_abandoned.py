"""What runs without its client any more is seen, and can be ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import Ended
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin

BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
FIELDS = ("frontend", "backend", "server", "method", "target", "bytes_in")


async def leave(stage: Stage, *, has_begun: bool) -> tuple[LoadBalancer, AtOrigin]:
    """A client has left, and its server finishes what it has begun, or is about to begin."""
    origin = await stage.origin()
    route = {"path_prefix": "/", "backend": "agents", "on_disconnect": "detach"}
    lb = await stage.balancer(origin, frontend={"routes": [route]})
    client = await stage.client(lb)
    await client.post(b"hi", target="/chat?key=secret")
    at_origin, _ = await origin.accept_request()
    if has_begun:
        await at_origin.send(BEGUN)
        await client.read_head()
    client.close()
    await stage.log_line(lb)
    return lb, at_origin


@pytest.mark.parametrize("has_begun", [True, False])
async def test_it_is_among_the_sessions_without_a_client(stage: Stage, has_begun: bool) -> None:
    lb, at_origin = await leave(stage, has_begun=has_begun)
    assert in_flight(lb) == [1]
    [row] = await lb.sessions()
    assert (row["kind"], row["client"]) == ("detached", None)
    assert row["phase"] == ("D" if has_begun else "H")
    assert [row[name] for name in FIELDS] == ["public", "agents", "agent1", "POST", "/chat", 2]
    [again] = await lb.sessions()
    assert again["seconds"] >= row["seconds"] >= 0
    await at_origin.send(b"0\r\n\r\n" if has_begun else BEGUN + b"0\r\n\r\n")
    await eventually(lambda: in_flight(lb) == [0])
    assert await lb.sessions() == []


@on_both_loops
@pytest.mark.parametrize("has_begun", [True, False])
async def test_it_is_ended_with_what_runs_on_its_server(stage: Stage, has_begun: bool) -> None:
    lb, at_origin = await leave(stage, has_begun=has_begun)
    assert await lb.end_sessions("agents", "agent1") == 1
    assert in_flight(lb) == [0]
    assert await lb.sessions() == []
    with pytest.raises(Ended):
        await at_origin.read_exactly(1)
    assert await lb.end_sessions("agents", "agent1") == 0
