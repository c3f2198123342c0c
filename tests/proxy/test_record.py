"""The access log's line and the counters; each termination code is tested where it comes about."""

from __future__ import annotations

import pytest

from tests.support.http_peer import request, response
from tests.support.loops import on_both_loops
from tests.support.origin import answers
from tests.support.stage import FIRST_THEN_SECOND, Stage, in_flight, pool_of, server_of
from tests.support.waiting import eventually


async def test_a_line_of_the_log(stage: Stage) -> None:
    lb, client, _ = await stage.served(answers(b"hello"))
    answer = await client.ask("/path?q=1")
    line = await stage.log_line(lb)
    assert line.request == f"GET /path?q=1 {stage.protocol}"
    assert (line.address, line.backend, line.server) == ("127.0.0.1", "agents", "agent1")
    assert (line.status, line.termination, line.cookies) == (200, "--", "--")
    assert line.bytes > 5 if stage.http == "2" else line.bytes == len(answer.head.raw) + 5
    assert line.reached == "TR Tw Tc Tr"
    assert line.connections == (1, 1, 0, 0)  # its own is over already, as HAProxy has it
    assert line.retries == "0"


async def test_bytes_are_counted_both_ways(stage: Stage) -> None:
    lb, client, origin = await stage.line()
    await client.post(b"12345")
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"1234567890")
    answer = await client.read_response()
    counters = server_of(lb).counters
    await eventually(lambda: counters.responses[2] == 1)
    assert counters.bytes_in >= 5
    if stage.http == "1.1":  # HTTP/2 counts the fields before they are packed
        assert counters.bytes_out == len(answer.head.raw) + 10
    assert counters.aborted_by_client == counters.aborted_by_server == 0


@pytest.mark.http1_only("bytes are counted in another framing")
async def test_an_own_answer_is_counted_in_bytes_too(stage: Stage) -> None:
    lb, client, _ = await stage.line(server={"down": True})
    answer = await client.ask()
    assert (await stage.log_line(lb)).bytes == len(answer.head.raw) + len(answer.body)


async def test_a_connection_of_an_earlier_attempt_is_none_of_the_last(stage: Stage) -> None:
    """Else the time for connecting would be negative: it began when the first one stood."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, stage.nobody(), each=FIRST_THEN_SECOND)
    client = await stage.client(lb)
    await client.get()
    at_origin, _ = await origin.accept_request()
    at_origin.close()
    assert (await client.read_response()).status == 503
    line = await stage.log_line(lb)
    assert (line.termination, line.server, line.retries) == ("SC", "agent2", "+1")
    assert line.reached == "TR Tw"


async def test_an_answer_of_our_own_sets_no_cookie(stage: Stage) -> None:
    lb = await stage.balancer(stage.nobody(), backend={"affinity": {"cookie": "C"}, "retries": 0})
    client = await stage.client(lb)
    assert (await client.ask()).status == 503
    line = await stage.log_line(lb)
    assert (line.termination, line.cookies) == ("SC", "NN")


async def test_times_start_with_the_first_byte_of_each_request(stage: Stage) -> None:
    """Not with the one before: a kept connection's silence is no part of a request."""
    lb, client, _ = await stage.served()
    await client.ask()
    await client.send(request("GET", "/") + request("GET", "/"))
    for _ in range(2):
        await client.read_response()
    assert [line.reached for line in await stage.logged(lb, 3)] == ["TR Tw Tc Tr"] * 3


async def test_a_stream_that_the_client_leaves_counts_against_it(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked()
    await at_origin.send(response(b"x" * 100)[:-1])
    await client.read_until(b"xxx")
    client.close()
    assert (await stage.log_line(lb)).termination == "CD"
    assert server_of(lb).counters.aborted_by_client == 1
    assert server_of(lb).fails == 0


@on_both_loops
async def test_connections_are_counted(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    clients = await stage.clients(lb, 3)
    for client in clients:
        await client.get()
    accepted = [await origin.accept_request() for _ in clients]
    assert in_flight(lb) == [3]
    for (at_origin, _), client in zip(accepted, clients, strict=True):
        await at_origin.respond(b"x")
        await client.read_response()
    lines = await stage.logged(lb, 3)
    # The numbers of a running HAProxy 2.6.12 for the same three requests.
    assert [line.connections for line in lines] == [(3, 3, 2, 2), (3, 3, 1, 1), (3, 3, 0, 0)]
    assert pool_of(lb).in_flight == 0
