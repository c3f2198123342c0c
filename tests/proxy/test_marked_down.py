"""What becomes of the requests of a server that its checks mark down: `on_marked_down`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.proxy.test_moving import CHECKS
from tests.proxy.test_relay import GET, stuck_on_the_last_bytes
from tests.proxy.test_resume import LAST, Talk, balancer, chunk, event, outcomes
from tests.proxy.test_resume_bounds import opened
from tests.proxy.test_tunnel import HANDSHAKE
from tests.support.http_peer import Ended
from tests.support.loops import on_both_loops
from tests.support.stage import in_flight, server_of
from tests.support.waiting import eventually, turns
from tests.support.websocket import accepting, switch

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client, Message
    from tests.support.origin import Origin
    from tests.support.stage import Stage

# Their first results come long after.
SHUTS_DOWN = {"on_marked_down": "shutdown_sessions", "health": {"interval": "1h"}}
PLAIN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def marked_down(lb: LoadBalancer, number: int = 1, *, stands_still: bool = False) -> None:
    pool = lb.pools["agents"]
    server = pool.servers[number - 1]
    server.set_up(False, "refused")
    assert pool.on_marked_down is not None
    pool.on_marked_down(server, stands_still)


async def two(stage: Stage, **options: Any) -> tuple[LoadBalancer, list[Origin]]:
    """The second server is a backup: the first has what runs."""
    origins = [await stage.origin() for _ in range(2)]
    each = [{}, {"backup": True}]
    return await balancer(stage, *origins, each=each, **options), origins


async def tunnel(stage: Stage, lb: LoadBalancer, origin: Origin) -> tuple[Client, AtOrigin]:
    client = await stage.client(lb)
    await client.send(HANDSHAKE)
    at_origin, _ = await origin.accept_request()
    await switch(client, at_origin)
    return client, at_origin


async def download(stage: Stage, lb: LoadBalancer, origin: Origin) -> tuple[Client, AtOrigin]:
    client, at_origin, _ = await opened(stage, lb, origin, PLAIN + chunk(b"part"))
    assert await client.read_chunk() == b"part"
    return client, at_origin


async def detached(stage: Stage, lb: LoadBalancer, origin: Origin) -> tuple[Client, AtOrigin]:
    client, at_origin = await download(stage, lb, origin)
    client.close()
    await stage.log_line(lb)
    assert in_flight(lb) == [1, 0]
    return client, at_origin


@on_both_loops
@pytest.mark.parametrize("stands_still", [True, False])
@pytest.mark.parametrize("kind", [tunnel, download])
async def test_what_can_not_move_is_cut_and_logged(
    stage: Stage, kind: Any, stands_still: bool
) -> None:
    lb, origins = await two(stage, backend=SHUTS_DOWN)
    client, at_origin = await kind(stage, lb, origins[0])
    marked_down(lb, stands_still=stands_still)
    with pytest.raises(Ended):
        await client.read_exactly(1)
    with pytest.raises(Ended):
        await at_origin.read_exactly(1)
    line = await stage.log_line(lb)
    assert (line.termination[:2], line.reason) == ("DD", "agent1 is down")
    assert in_flight(lb) == [0, 0]


async def test_the_client_of_a_websocket_connects_again_and_gets_another_server(
    stage: Stage,
) -> None:
    lb, origins = await two(stage, backend=SHUTS_DOWN)
    client, _ = await tunnel(stage, lb, origins[0])
    marked_down(lb, stands_still=True)
    with pytest.raises(Ended):
        await client.read_exactly(1)
    again, at_second = await tunnel(stage, lb, origins[1])
    await at_second.send(b"\x81\x02hi")
    assert await again.read_exactly(4) == b"\x81\x02hi"


async def test_by_the_checks_themselves(stage: Stage) -> None:
    """A stopped process: its checks time out, and the tunnel through it is silent."""
    origins = [await stage.origin() for _ in range(2)]

    async def still(connection: AtOrigin, message: Message) -> None:
        if message.head.target == "/chat":
            await connection.send(accepting(connection))

    async def well(connection: AtOrigin, message: Message) -> None:
        await connection.respond(b"ok")

    origins[0].serve(still)
    origins[1].serve(well)
    backend = {**SHUTS_DOWN, "health": CHECKS}
    lb = await balancer(stage, *origins, backend=backend, each=[{}, {"backup": True}])
    client = await stage.client(lb)
    await client.send(HANDSHAKE)
    assert (await client.read_head()).status == 101
    with pytest.raises(Ended):
        await client.read_exactly(1)
    assert (await stage.log_line(lb)).termination[:2] == "DD"
    assert any("agent1 is DOWN: timeout" in problem for problem in stage.problems)
    stage.problems.clear()


@pytest.mark.parametrize("stands_still", [True, False])
async def test_by_default_tunnels_and_downloads_stay(stage: Stage, stands_still: bool) -> None:
    lb, origins = await two(stage)
    socket, at_socket = await tunnel(stage, lb, origins[0])
    client, at_origin = await download(stage, lb, origins[0])
    marked_down(lb, stands_still=stands_still)
    await turns()
    await at_socket.send(b"\x81\x02hi")
    assert await socket.read_exactly(4) == b"\x81\x02hi"
    await at_origin.send(chunk(b"rest") + b"0\r\n\r\n")
    assert await client.read_chunk() == b"rest"
    assert await client.read_chunk() == b""


@pytest.mark.parametrize("stands_still", [True, False])
async def test_a_stream_that_can_be_resumed_moves(stage: Stage, stands_still: bool) -> None:
    talk = await Talk.begin(stage, backend=SHUTS_DOWN)
    marked_down(talk.lb, stands_still=stands_still)
    second, asked = await talk.taken_up()
    assert asked.get("Last-Event-ID") == "17-1"
    await talk.finish(second)
    assert outcomes(server_of(talk.lb, 2)) == {"moved": 1}


async def test_by_default_streams_stay_with_a_server_that_answers_its_checks(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    marked_down(talk.lb)
    await turns()
    await talk.first.send(chunk(event(2, "done")) + LAST)
    assert await talk.client.read_chunk() == event(2, "done")
    assert await talk.client.read_chunk() == b""


@pytest.mark.parametrize("backend", [SHUTS_DOWN, {}], ids=["option", "default"])
async def test_a_search_does_not_wait_for_a_server_that_stands_still(
    stage: Stage, backend: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.proxy.resume._MOST_FOR_ATTEMPT", 3600.0)
    talk = await Talk.begin(stage, 3, backend=backend)
    talk.first.close()
    await talk.taken_up(1)  # and hears nothing
    marked_down(talk.lb, 2, stands_still=True)
    third, asked = await talk.taken_up(2)
    assert asked.get("Last-Event-ID") == "17-1"
    await talk.finish(third)


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 502)])
async def test_a_request_that_waits_for_its_response_follows_the_retry_table(
    stage: Stage, method: str, status: int
) -> None:
    lb, origins = await two(stage, backend=SHUTS_DOWN)
    client = await stage.client(lb)
    await (client.get("/") if method == "GET" else client.post(b"x"))
    await origins[0].accept_request()
    marked_down(lb)
    if status == 200:
        second, _ = await origins[1].accept_request()
        await second.respond(b"ok")
    assert (await client.read_response()).head.status == status
    line = await stage.log_line(lb)
    assert line.termination[:2] == ("--" if status == 200 else "DH")


async def test_what_runs_on_behalf_of_a_client_that_has_left_ends(stage: Stage) -> None:
    lb, origins = await two(stage, backend=SHUTS_DOWN, route={"on_disconnect": "detach"})
    _, at_origin = await detached(stage, lb, origins[0])
    marked_down(lb)
    with pytest.raises(Ended):
        await at_origin.read_exactly(1)
    await eventually(lambda: in_flight(lb) == [0, 0])


# Afterwards.


async def test_a_server_that_comes_up_again_is_used_and_its_tunnels_live(stage: Stage) -> None:
    lb, origins = await two(stage, backend=SHUTS_DOWN)
    await tunnel(stage, lb, origins[0])
    marked_down(lb)
    await eventually(lambda: in_flight(lb) == [0, 0])
    server = server_of(lb, 1)
    server.set_up(True, "200 in 1 ms")
    assert (server.fails, server.state) == (0, "up")
    client, at_origin = await tunnel(stage, lb, origins[0])
    await turns()
    await at_origin.send(b"\x81\x02hi")
    assert await client.read_exactly(4) == b"\x81\x02hi"
    # And again: each time that it goes down costs what it has then.
    marked_down(lb)
    with pytest.raises(Ended):
        await client.read_exactly(1)


async def test_what_is_left_stays_if_the_server_is_up_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only some are cut in one iteration of the loop."""
    monkeypatch.setattr("hermes_lb.proxy.moving.AT_ONCE", 1)
    lb, origins = await two(stage, backend=SHUTS_DOWN)
    pairs = [await tunnel(stage, lb, origins[0]) for _ in range(2)]
    marked_down(lb)
    await eventually(lambda: in_flight(lb) == [1, 0])
    server_of(lb, 1).set_up(True, "200 in 1 ms")
    await eventually(lambda: not any("leave" in task.get_name() for task in asyncio.all_tasks()))
    assert in_flight(lb) == [1, 0]
    lines = await stage.logged(lb, 1)
    assert [line.termination[:2] for line in lines] == ["DD"]
    assert len(pairs) == 2


async def test_other_servers_keep_what_they_have(stage: Stage) -> None:
    origins = [await stage.origin() for _ in range(2)]
    lb = await balancer(stage, *origins, backend=SHUTS_DOWN)
    _, _ = await tunnel(stage, lb, origins[0])
    other, at_other = await tunnel(stage, lb, origins[1])
    marked_down(lb)
    await eventually(lambda: in_flight(lb) == [0, 1])
    await at_other.send(b"\x81\x02hi")
    assert await other.read_exactly(4) == b"\x81\x02hi"


@pytest.mark.http1_only("the kernel is filled, which windows prevent: tests/http2")
async def test_a_response_that_the_server_has_finished_reaches_its_client(stage: Stage) -> None:
    """Phase L: only the client is waited for."""
    lb, origins = await two(stage, backend=SHUTS_DOWN)
    client = await stuck_on_the_last_bytes(stage, lb, origins[0], GET)
    marked_down(lb)
    await turns()
    assert len((await client.read_response()).body) > 100_000
