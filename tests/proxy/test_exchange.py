"""One exchange from its head to a response: the retry table, the deadlines, the one end."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.http1 import connection_pool
from tests.proxy.fake_line import Line
from tests.support.http_peer import CHUNKED_POST, ENDLESS_POST, AtOrigin, Client, request, response
from tests.support.loops import on_both_loops
from tests.support.origin import Origin
from tests.support.stage import FIRST_THEN_SECOND, Stage, in_flight, server_of
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.origin import Origin

KEY = "Idempotency-Key: 1"
EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"


async def with_a_used_connection(
    stage: Stage, *others: Origin | int, **options: object
) -> tuple[LoadBalancer, Client, Origin, AtOrigin]:
    """A balancer whose connection to its first server has served a request a moment ago."""
    origin = await stage.origin()
    each = [{}] + [{"backup": True} for _ in others]
    lb = await stage.balancer(origin, *others, each=each, **options)  # type: ignore[arg-type]
    client = await stage.client(lb)
    await client.get("/before")
    at_origin, _ = await origin.accept_request()
    await at_origin.serves(client, b"before")
    return lb, client, origin, at_origin


# Nothing was sent: the next server, whatever the method.


@on_both_loops
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_refused_connection_goes_to_the_next_server(stage: Stage, method: str) -> None:
    second = await stage.serving()
    lb = await stage.balancer(stage.nobody(), second, each=FIRST_THEN_SECOND)
    client = await stage.client(lb)
    assert (await client.answer_to(request(method, "/", body=b"x"))).body == b"ok"
    assert second.requests[0].body == b"x"
    line = await stage.log_line(lb)
    assert (line.server, line.retries, line.termination) == ("agent2", "+1", "--")
    assert server_of(lb).counters.connect_errors == 1
    assert server_of(lb).fails == 1


async def test_refused_everywhere_is_503(stage: Stage) -> None:
    lb = await stage.balancer(stage.nobody(), stage.nobody())
    client = await stage.client(lb)
    await client.post(b"x")
    answer = await client.read_response()
    assert (answer.status, answer.get("Retry-After")) == (503, "5")
    line = await stage.log_line(lb)
    assert (line.termination, line.retries, line.status) == ("SC", "+1", 503)
    assert line.reached == "TR Tw"
    assert (await client.ask()).status == 503


async def test_there_are_so_many_retries_and_no_more(stage: Stage) -> None:
    last = await stage.serving()
    dead = [stage.nobody() for _ in range(3)]
    lb = await stage.balancer(*dead, last, each=[{}, {}, {}, {"backup": True}])
    lb_of_two = await stage.balancer(
        *dead, last, each=[{}, {}, {}, {"backup": True}], backend={"retries": 2}
    )
    client = await stage.client(lb)
    assert (await client.ask()).status == 200
    assert (await stage.log_line(lb)).retries == "+3"
    client = await stage.client(lb_of_two)
    assert (await client.ask()).status == 503
    assert (await stage.log_line(lb_of_two)).retries == "+2"
    assert len(last.requests) == 1


@on_both_loops
async def test_connect_timeout_without_another_server_is_503(stage: Stage) -> None:
    lb = await stage.balancer(stage.black_hole(), timeouts={"connect": 0.1})
    client = await stage.client(lb)
    assert (await client.ask()).status == 503
    line = await stage.log_line(lb)
    assert (line.termination, line.server, line.reached) == ("sC", "agent1", "TR Tw")


async def test_connect_timeout_comes_while_the_client_uploads(stage: Stage) -> None:
    """A body that arrives in the meantime says nothing of the server."""
    lb = await stage.balancer(stage.black_hole(), timeouts={"connect": 0.2})
    client = await stage.client(lb)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(20):
        await client.send(b"x")
        await turns()
    assert (await client.read_response()).status == 503
    assert (await stage.log_line(lb)).termination == "sC"


async def test_a_client_that_leaves_stops_the_dialing(stage: Stage) -> None:
    lb = await stage.balancer(stage.black_hole())
    client = await stage.client(lb)
    await client.get()
    await eventually(lambda: in_flight(lb) == [1])
    client.close()
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("CC", -1)
    assert in_flight(lb) == [0]


# A reused connection that closes before any byte of a response.


@on_both_loops
@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_reused_and_closed_get_is_sent_again_on_a_fresh_connection(
    stage: Stage, ending: str
) -> None:
    lb, client, origin, at_origin = await with_a_used_connection(stage)
    await client.get("/again")
    await at_origin.read_request()
    getattr(at_origin, ending)()
    at_origin, message = await origin.accept_request()
    assert message.head.target == "/again"
    await at_origin.serves(client, b"answer")
    assert server_of(lb).fails == 0  # that a kept connection was closed is no failure
    assert (await stage.logged(lb, 2))[1].retries == "1"


async def test_a_retry_does_not_trust_another_idle_connection(stage: Stage) -> None:
    """If one was closed, the others of that server probably were too."""
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    clients = await stage.clients(lb, 2)
    for client in clients:
        await client.get()
    first, second = [(await origin.accept_request())[0] for _ in clients]
    for client, at_origin in zip(clients, (first, second), strict=True):
        await at_origin.respond(b"x")
        await client.read_response()
    await clients[0].get("/again")
    assert (await second.read_request()).head.target == "/again"  # it was used last
    second.close()
    fresh, message = await origin.accept_request()
    assert message.head.target == "/again"
    assert await first.gets_nothing()
    await fresh.serves(clients[0], b"answer")


@on_both_loops
async def test_reused_and_closed_post_is_never_sent_again(stage: Stage) -> None:
    second = await stage.serving()
    lb, client, origin, at_origin = await with_a_used_connection(stage, second)
    await client.post(b"pay")
    assert (await at_origin.read_request()).body == b"pay"
    at_origin.close()
    assert (await client.read_response()).status == 502
    assert await origin.has_no_new_connection()
    assert second.requests == []
    line = (await stage.logged(lb, 2))[1]
    assert (line.termination, line.retries, line.status) == ("SH", "0", 502)
    assert server_of(lb).fails == 0  # that a kept connection was closed is no failure
    await client.get("/after")  # the client's connection goes on
    at_origin, _ = await origin.accept_request()
    await at_origin.serves(client, b"fine")


@pytest.mark.parametrize("body", [b"pay", b"x" * 60_000], ids=["small", "60 kB"])
async def test_reused_and_closed_post_with_a_key_is_sent_again_whole(
    stage: Stage, body: bytes
) -> None:
    lb, client, origin, at_origin = await with_a_used_connection(stage)
    await client.post(body, KEY)
    assert (await at_origin.read_request()).body == body
    at_origin.close()
    at_origin, message = await origin.accept_request()
    assert message.body == body
    assert message.get("Idempotency-Key") == "1"
    await at_origin.serves(client, b"paid")
    assert (await stage.logged(lb, 2))[1].retries == "1"


@pytest.fixture
def each_was_idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection of the pool counts as fresh."""
    monkeypatch.setattr(connection_pool, "FRESH", -1.0)


@pytest.mark.usefixtures("each_was_idle_for_long")
async def test_a_post_does_not_use_a_connection_that_was_idle_for_long(stage: Stage) -> None:
    """The server may be closing it right now, and the request may not be sent twice."""
    _, client, origin, at_origin = await with_a_used_connection(stage)
    await client.post(b"pay")
    fresh, message = await origin.accept_request()
    assert message.body == b"pay"
    await fresh.serves(client, b"paid")
    assert await at_origin.gets_nothing()
    at_origin.close()
    fresh.close()
    await turns()
    await client.get()  # nor is one used that is known to be closed
    at_origin, _ = await origin.accept_request()
    await at_origin.serves(client, b"got")


@pytest.mark.usefixtures("each_was_idle_for_long")
async def test_a_get_uses_a_connection_that_was_idle_for_long(stage: Stage) -> None:
    _, client, _, at_origin = await with_a_used_connection(stage)
    await at_origin.serves_the_next_of(client)


# A fresh connection that closes before any byte of a response.


async def test_no_other_server_is_502(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked()
    at_origin.close()
    assert (await client.read_response()).status == 502
    assert (await stage.log_line(lb)).termination == "SH"


async def test_closed_in_the_middle_of_an_upload_is_retried_with_the_whole_body(
    stage: Stage,
) -> None:
    lb, client, first, second = await stage.with_backup()
    await client.send(f"PUT / HTTP/1.1\r\nHost: a\r\n{KEY}\r\nContent-Length: 9\r\n\r\n".encode())
    await client.send(b"abc")
    at_first = await first.accept()
    await at_first.read_until(b"\r\n\r\nabc")
    at_first.close()
    await eventually(lambda: in_flight(lb) == [0, 1])
    await client.send(b"def")
    await turns()
    assert (await client.answer_to(b"ghi")).status == 200
    assert second.requests[0].body == b"abcdefghi"


async def test_a_chunked_upload_is_retried_with_the_whole_body(stage: Stage) -> None:
    lb, client, first, second = await stage.with_backup()
    await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.send(b"3;ext\r\nabc\r\n")
    at_first = await first.accept()
    await at_first.read_until(b"\r\n\r\n3\r\nabc\r\n")
    at_first.close()
    await eventually(lambda: in_flight(lb) == [0, 1])
    assert (await client.answer_to(b"3\r\ndef\r\n0\r\n\r\n")).status == 200
    assert second.requests[0].body == b"abcdef"


async def test_a_body_over_the_retry_buffer_is_not_sent_again(stage: Stage) -> None:
    _, client, first, second = await stage.with_backup(limits={"retry_buffer": 1000})
    await client.send(request("PUT", "/", body=b"x" * 1001))
    at_first, _ = await first.accept_request()
    at_first.close()
    assert (await client.read_response()).status == 502
    assert second.requests == []


async def test_a_body_over_the_retry_buffer_is_sent_to_the_next_server_if_none_was_reached(
    stage: Stage,
) -> None:
    second = await stage.serving()
    lb = await stage.balancer(
        stage.nobody(), second, each=FIRST_THEN_SECOND, limits={"retry_buffer": 1000}
    )
    client = await stage.client(lb)
    body = b"x" * 3_000_000
    sending = stage.tasks.spawn(client.send(request("POST", "/", body=body)), name="upload")
    assert (await client.read_response()).status == 200
    await sending
    assert second.requests[0].body == body


@on_both_loops
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_after_the_head_the_client_sees_the_cut(stage: Stage, method: str) -> None:
    lb, client, first, second = await stage.with_backup()
    await client.send(request(method, "/", body=b""))
    at_first, _ = await first.accept_request()
    await at_first.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await client.read_head()
    assert await client.read_chunk() == b"abc"
    at_first.close()
    assert await client.read_until_cut() == b""
    assert second.requests == []
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("SD", 200)
    assert line.reached == "TR Tw Tc Tr"


async def test_a_server_that_was_tried_is_not_tried_again(stage: Stage) -> None:
    first, second = await stage.origin(), await stage.origin()
    lb = await stage.balancer(first, second)
    client = await stage.client(lb)
    await client.get()
    for origin in (first, second):
        at_origin, _ = await origin.accept_request()
        at_origin.close()
    assert (await client.read_response()).status in (502, 503)
    assert await first.has_no_new_connection()
    assert await second.has_no_new_connection()


async def test_a_server_that_failed_too_often_is_left_out(stage: Stage) -> None:
    second = await stage.serving()
    lb = await stage.balancer(stage.nobody(), second, server={"max_fails": 2})
    client = await stage.client(lb)
    for _ in range(10):
        assert (await client.ask()).status == 200
    assert server_of(lb).counters.connect_errors == 2
    assert server_of(lb, 2).counters.responses[2] == 10


async def test_an_answer_clears_the_failures_of_a_lone_server(stage: Stage) -> None:
    lb, client, origin = await stage.line()
    await client.get()
    at_origin, _ = await origin.accept_request()
    at_origin.close()
    assert (await client.read_response()).status == 502
    assert server_of(lb).fails == 1
    await client.get()
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"ok")
    assert (await client.read_response()).status == 200
    assert server_of(lb).fails == 0


# Deadlines.


@pytest.mark.parametrize("how", ["with its head", "behind its head", "bytewise", "chunked"])
@pytest.mark.parametrize("connection", ["fresh", "reused"])
async def test_a_server_silent_after_a_body_is_504(stage: Stage, how: str, connection: str) -> None:
    timeouts = {"server": 0.2}
    if connection == "reused":
        lb, client, _, at_origin = await with_a_used_connection(stage, timeouts=timeouts)
    else:
        lb, client, origin = await stage.line(timeouts=timeouts)
    whole = request("POST", "/", body=b"payload")
    if how == "chunked":
        await client.send(CHUNKED_POST + b"7\r\npayload\r\n0\r\n\r\n")
    elif how == "with its head":
        await client.send(whole)
    elif how == "bytewise":
        await client.send_bytewise(whole)
    else:
        await client.send(whole.removesuffix(b"payload"))
        await turns()
        await client.send(b"payload")
    if connection == "fresh":
        at_origin = await origin.accept()
    assert (await at_origin.read_request()).body == b"payload"
    assert (await client.read_response()).status == 504
    assert (await stage.logged(lb, 1 + (connection == "reused")))[-1].termination == "sH"


@on_both_loops
async def test_an_upload_that_stalls_is_408(stage: Stage) -> None:
    lb, client, origin = await stage.line(timeouts={"client": 0.1})
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    at_origin = await origin.accept()
    await at_origin.read_until(b"\r\n\r\nabc")
    assert (await client.read_response()).status == 408
    assert await at_origin.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("cH", 408)
    assert server_of(lb).fails == 0


@pytest.mark.slow
async def test_a_server_that_does_not_read_an_upload_is_504(stage: Stage) -> None:
    """The client would send, but we hold it back: the server is the one that is late."""
    timeouts = {"client": 30, "server": 2}
    lb, client, _ = await stage.begun(ENDLESS_POST, origin_buffer=16_384, timeouts=timeouts)
    await client.send_until_stuck(b"x" * 65_536, most=64_000_000)
    assert (await client.read_response()).status == 504
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("sH", 504)
    assert server_of(lb).fails == 1


async def test_a_lone_server_that_refuses_is_tried_again(stage: Stage) -> None:
    """There is no other, and it may be restarting (HAProxy)."""
    lb = await stage.balancer(stage.nobody(), timeouts={"connect": 0.5})
    client = await stage.client(lb)
    assert (await client.ask()).status == 503
    line = await stage.log_line(lb)
    assert (line.termination, line.retries, line.status) == ("SC", "3", 503)


async def test_a_lone_server_whose_dial_timed_out_is_tried_again_without_a_pause(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = Mock()
    monkeypatch.setattr(Exchange, "_turned_around", pauses)
    lb = await stage.balancer(stage.black_hole(), backend={"retries": 2}, timeouts={"connect": 0.1})
    client = await stage.client(lb)
    assert (await client.ask()).status == 503
    line = await stage.log_line(lb)
    assert (line.termination, line.retries, line.reached) == ("sC", "2", "TR Tw")
    pauses.assert_not_called()


async def test_an_upload_that_moves_is_not_408() -> None:
    """Longer in all than `timeouts.client`, but never silent for that long."""
    async with Line(timeouts={"client": 100}) as line:
        await line.client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n")
        for _ in range(12):
            await line.passes(60)
            await line.client.sends(b"x")
        assert line.server.got.endswith(b"\r\n\r\n" + b"x" * 12)
        await line.server.sends(response(b"ok"))
        assert line.client.got.endswith(b"\r\n\r\nok")
        assert line.ends == []


@on_both_loops
async def test_a_stream_that_falls_silent_is_cut(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked(timeouts={"server": 0.1})
    await at_origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await client.read_head()
    assert await client.read_chunk() == b"abc"
    assert await client.read_until_cut() == b""
    assert await at_origin.read_until_cut() == b""
    assert (await stage.log_line(lb)).termination == "sD"


async def test_a_stream_that_moves_is_not_cut() -> None:
    async with Line(timeouts={"server": 100, "client": 40}) as line:
        await line.client.sends(request("GET", "/"))
        await line.server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await line.passes(60)
            await line.server.sends(b"x")
        assert line.client.got.endswith(b"\r\n\r\n" + b"x" * 10)
        assert line.ends == []


# Leaving.


@on_both_loops
@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_a_client_that_leaves_before_the_response_ends_the_work_for_it(
    stage: Stage, ending: str
) -> None:
    lb, client, at_origin = await stage.asked()
    getattr(client, ending)()
    assert await at_origin.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.termination, line.status, line.reached) == ("CH", -1, "TR Tw Tc")
    assert in_flight(lb) == [0]
    assert server_of(lb).fails == 0


async def test_a_client_that_leaves_during_a_retry_is_let_go(stage: Stage) -> None:
    first = await stage.origin()
    lb = await stage.balancer(first, stage.black_hole(), each=FIRST_THEN_SECOND)
    client = await stage.client(lb)
    await client.get()
    at_first, _ = await first.accept_request()
    at_first.close()
    await eventually(lambda: in_flight(lb) == [0, 1])
    client.abort()
    await eventually(lambda: in_flight(lb) == [0, 0])
    assert (await stage.log_line(lb)).termination == "CC"


# The client's own body breaks its framing.


@pytest.mark.http1_only("chunks")
async def test_a_broken_body_is_refused_while_a_server_is_dialed(stage: Stage) -> None:
    lb = await stage.balancer(stage.black_hole())
    client = await stage.client(lb)
    await client.send(CHUNKED_POST)
    await eventually(lambda: in_flight(lb) == [1])
    assert (await client.answer_to(b"nonsense\r\n")).status == 400
    assert in_flight(lb) == [0]


# Expect: 100-continue.


async def test_a_client_that_stalls_after_100_is_the_one_that_is_late(stage: Stage) -> None:
    lb, client, at_origin = await stage.begun(EXPECTING, timeouts={"client": 0.1})
    await at_origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (await client.read_response()).status == 100
    assert (await client.read_response()).status == 408
    assert (await stage.log_line(lb)).termination == "cH"


@pytest.mark.http1_only("HTTP/1.0")
async def test_http_1_0_gets_no_100(stage: Stage) -> None:
    _, client, origin = await stage.line()
    await client.send(
        b"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"
    )
    at_origin, message = await origin.accept_request()
    assert message.get("Expect") is None
    await at_origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await at_origin.serves(client, b"done")


async def test_a_server_that_never_says_100_is_the_one_that_is_late(stage: Stage) -> None:
    """The client waits rightly (RFC 9110 section 10.1.1); 408 would blame it."""
    lb, client, origin = await stage.line(timeouts={"server": 0.1, "client": 0.3})
    await client.send(EXPECTING)
    await (await origin.accept()).read_head()
    assert (await client.read_response()).status == 504
    assert (await stage.log_line(lb)).termination == "sH"


async def test_many_clients_leave_at_every_point_of_dialing(stage: Stage) -> None:
    """The connection that was being made for each of them must not be lost sight of."""
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    for wait in range(40):
        client = await stage.client(lb)
        await client.get()
        await turns(wait % 10)
        client.abort()
        await turns(wait // 10)
    await eventually(lambda: in_flight(lb) == [0])
    context = lb._context
    assert context is not None
    await eventually(lambda: not context.live.clients and not context.live.upstreams)
