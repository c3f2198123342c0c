"""HTTP/2 to servers: requests and responses mean what they mean by HTTP/1.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.proxy import phases
from tests.http2.test_requests import running
from tests.support.http2_origin import http2_at, serving_http2
from tests.support.http2_peer import Http2Client, StreamWasReset
from tests.support.http_peer import CHUNKED_POST, Ended
from tests.support.loops import on_both_loops
from tests.support.stage import in_flight, server_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http2_origin import Asked, Http2AtOrigin
    from tests.support.http_peer import Client
    from tests.support.origin import Origin
    from tests.support.stage import Stage

H2 = {"protocol": "h2"}


async def line(
    stage: Stage, *, backend: dict[str, Any] | None = None, **options: Any
) -> tuple[LoadBalancer, Client, Origin]:
    """A client by HTTP/1.1, and an origin by HTTP/2 that the test plays."""
    return await stage.line(backend={**H2, **(backend or {})}, **options)


async def asked(
    stage: Stage, target: str = "/", *fields: str, **options: Any
) -> tuple[LoadBalancer, Client, Http2AtOrigin, Asked]:
    """The same, with a GET that has reached the origin."""
    lb, client, origin = await line(stage, **options)
    await client.get(target, *fields)
    at_origin = await http2_at(origin)
    return lb, client, at_origin, await at_origin.request()


async def between(stage: Stage, **options: Any) -> tuple[LoadBalancer, Http2Client, Origin]:
    """HTTP/2 on both sides."""
    lb, client, origin = await line(stage, frontend={"http2": True}, **options)
    return lb, Http2Client(client), origin


@on_both_loops
async def test_a_get(stage: Stage) -> None:
    lb, client, at_origin, request = await asked(
        stage, "/a?b=c", "X-One:  1 ", "Cookie: a=1; b=2", "Connection: x-two", "X-Two: 2"
    )
    assert request.fields[:4] == [
        (":method", "GET"), (":scheme", "http"), (":path", "/a?b=c"),
        (":authority", "balancer.test"),
    ]  # fmt: skip
    assert request.get("x-one") == "1"
    assert request.get("cookie") == "a=1; b=2"
    assert request.get("x-forwarded-for") == "127.0.0.1"
    assert str(request.get("via")).startswith("1.1 ")
    names = {name for name, _ in request.fields}
    assert not names & {"x-two", "connection", "host", "te", "transfer-encoding", "content-length"}
    await at_origin.respond(request, b"hello", ("x-two", "2"))
    answer = await client.read_response()
    assert (answer.status, answer.body, answer.get("X-Two")) == (200, b"hello", "2")
    assert answer.get("Content-Length") == "5"
    assert answer.get("Date")
    assert (await stage.log_line(lb)).termination[:2] == "--"


@pytest.mark.parametrize("size", [0, 1, 65_535, 300_000])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_reaches_the_server(stage: Stage, size: int, is_chunked: bool) -> None:
    _, client, origin = await line(stage)
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    if is_chunked:
        await client.send(CHUNKED_POST)
        for start in range(0, size, 50_000):
            part = body[start : start + 50_000]
            await client.send(b"%x\r\n%b\r\n" % (len(part), part))
        await client.send(b"0\r\n\r\n")
    else:
        await client.post(body)
    at_origin = await http2_at(origin)
    request = await at_origin.request()
    assert request.body == body
    assert request.get("content-length") == (None if is_chunked else str(size))
    await at_origin.respond(request, b"ok")
    assert (await client.read_response()).body == b"ok"


@pytest.mark.parametrize(
    ("method", "status", "fields", "length"),
    [
        ("HEAD", 200, [("content-length", "7")], "7"),
        ("HEAD", 200, [], None),
        ("GET", 204, [], None),
        ("GET", 304, [("content-length", "7")], "7"),
        ("GET", 304, [], None),
        ("GET", 200, [], "0"),
        ("GET", 200, [("content-length", "0")], "0"),
    ],
)
async def test_a_response_without_a_body(
    stage: Stage, method: str, status: int, fields: list[tuple[str, str]], length: str | None
) -> None:
    lb, client, origin = await line(stage)
    await client.send(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method.encode())
    at_origin = await http2_at(origin)
    request = await at_origin.request()
    await at_origin.head(request, *fields, status=status, ends=True)
    answer = await client.read_response(method=method)
    assert (answer.status, answer.get("Content-Length")) == (status, length)
    assert answer.get("Transfer-Encoding") is None
    await eventually(lambda: in_flight(lb) == [0])
    await client.get("/next")
    following = await at_origin.request()  # the same connection, and the client's is in step
    await at_origin.respond(following, b"fine")
    assert (await client.read_response()).body == b"fine"


@on_both_loops
async def test_events_arrive_as_they_are_sent(stage: Stage) -> None:
    _, client, at_origin, request = await asked(stage)
    await at_origin.head(request, ("content-type", "text/event-stream"))
    head = await client.read_head()
    assert head.get("Transfer-Encoding") == "chunked"
    for n in range(5):
        await at_origin.data(request, b"data: %d\n\n" % n)
        assert await client.read_chunk() == b"data: %d\n\n" % n
    await at_origin.data(request, b"", ends=True)
    assert await client.read_chunk() == b""


async def test_events_between_two_of_http2(stage: Stage) -> None:
    _, client, origin = await between(stage)
    number = await client.open()
    at_origin = await http2_at(origin)
    request = await at_origin.request()
    assert str(request.get("via")).startswith("2.0 ")
    await at_origin.head(request, ("content-type", "text/event-stream"))
    for n in range(1, 6):
        await at_origin.data(request, b"data: 0\n\n")
        assert len(await client.body(number, 9 * n)) == 9 * n
    await at_origin.trailers(request, ("x-sum", "1"), ("set-cookie", "a=b"))
    assert (await client.answer(number)).body == b"data: 0\n\n" * 5
    assert client.trailers[number] == [("x-sum", "1")]


@pytest.mark.parametrize("takes", [True, False])
async def test_trailers_for_a_client_of_http11(stage: Stage, takes: bool) -> None:
    field = ["TE: trailers"] if takes else []
    _, client, at_origin, request = await asked(stage, "/", *field)
    assert request.get("te") == ("trailers" if takes else None)
    await at_origin.head(request)
    await at_origin.data(request, b"abc")
    await at_origin.trailers(request, ("x-sum", "1"), ("content-length", "3"))
    await client.read_head()
    end = b"0\r\nx-sum: 1\r\n\r\n" if takes else b"0\r\n\r\n"
    expected = b"3\r\nabc\r\n" + end
    assert await client.read_exactly(len(expected)) == expected


async def test_trailers_of_a_request(stage: Stage) -> None:
    _, client, origin = await between(stage)
    number = await client.open("/", method="POST", ends=False)
    await client.send_body(number, b"abc")
    await client.send_trailers(number, ("x-sum", "1"), ("authorization", "x"))
    at_origin = await http2_at(origin)
    request = await at_origin.request()
    assert (request.body, request.trailers) == (b"abc", [("x-sum", "1")])
    await at_origin.respond(request, b"ok")
    assert (await client.answer(number)).body == b"ok"


async def test_an_early_hint_and_a_hundred(stage: Stage) -> None:
    _, client, origin = await line(stage)
    await client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    at_origin = await http2_at(origin)
    request = await at_origin.begun()
    assert request.get("expect") == "100-continue"
    await at_origin.head(request, status=100)
    assert (await client.read_head()).status == 100
    await client.send(b"ok")
    await at_origin.read_until(lambda: request.has_ended)
    await at_origin.head(request, ("link", "</a>"), status=103)
    assert (await client.read_head()).status == 103
    await at_origin.respond(request, b"done")
    assert (await client.read_response()).body == b"done"


async def test_an_early_answer_ends_the_upload(stage: Stage) -> None:
    lb, client, origin = await line(stage)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99000000\r\n\r\nbegin")
    at_origin = await http2_at(origin)
    request = await at_origin.begun()
    await at_origin.respond(request, b"too large")
    assert (await client.read_response()).body == b"too large"
    assert await at_origin.was_reset(request) == 8
    await eventually(lambda: in_flight(lb) == [0])


async def test_the_client_leaves(stage: Stage) -> None:
    lb, client, at_origin, request = await asked(stage)
    other = await stage.client(lb)
    await other.get("/other")
    its = await at_origin.request()
    client.abort()
    assert await at_origin.was_reset(request) == 8  # CANCEL
    assert in_flight(lb) == [1]
    await at_origin.respond(its, b"fine")
    assert (await other.read_response()).body == b"fine"


async def test_the_client_leaves_within_the_body(stage: Stage) -> None:
    lb, client, at_origin, request = await asked(stage)
    await at_origin.head(request)
    await at_origin.data(request, b"begin")
    await client.read_until(b"begin")
    client.abort()
    assert await at_origin.was_reset(request) == 8
    await eventually(lambda: in_flight(lb) == [0])
    assert server_of(lb).counters.http2_resets == 0  # it was not the server's


@pytest.mark.parametrize("how", ["connection", "reset", "goaway"])
async def test_a_server_that_is_lost_within_a_body(stage: Stage, how: str) -> None:
    lb, client, at_origin, request = await asked(stage)
    await at_origin.head(request, ("content-length", "100"))
    await at_origin.data(request, b"half")
    await client.read_until(b"half")
    if how == "connection":
        at_origin.peer.abort()
    elif how == "reset":
        await at_origin.reset(request, 2)
    else:
        await at_origin.go_away(request.number)
        at_origin.peer.close()
    with pytest.raises(Ended):
        await client.read_exactly(1)
    assert (await stage.log_line(lb)).termination[:2] == "SD"


@pytest.mark.parametrize("how", ["connection", "reset"])
async def test_a_client_of_http2_sees_that(stage: Stage, how: str) -> None:
    _, client, origin = await between(stage)
    number = await client.open()
    at_origin = await http2_at(origin)
    request = await at_origin.request()
    await at_origin.head(request)
    await at_origin.data(request, b"half")
    await client.body(number, 4)
    if how == "connection":
        at_origin.peer.abort()
    else:
        await at_origin.reset(request, 8)
    with pytest.raises(StreamWasReset) as reset:
        await client.answer(number)
    assert reset.value.code == 2  # INTERNAL_ERROR


async def fill(at_origin: Http2AtOrigin, request: Asked, *, most: int = 20_000_000) -> None:
    """Send until no more credit comes."""
    sent = 0
    while sent < most:
        room = min(at_origin.http2.local_flow_control_window(request.number), 16_384)
        if room:
            await at_origin.data(request, b"x" * room)
            sent += room
        elif await at_origin.peer.gets_nothing():
            return
        else:
            await at_origin.read()
    raise AssertionError(f"{sent} bytes were taken")


async def test_a_slow_client_holds_back_its_own_stream(stage: Stage) -> None:
    lb, client, at_origin, stuck = await asked(stage, client_buffer=4096)
    await at_origin.head(stuck)
    await fill(at_origin, stuck)
    [exchange] = running(lb)
    assert exchange.phase == phases.DATA_SLOW
    other = await stage.client(lb)
    for n in range(30):
        await other.get(f"/{n}")
        request = await at_origin.request()
        await at_origin.respond(request, b"y" * 30_000)
        assert len((await other.read_response()).body) == 30_000
    assert in_flight(lb) == [1]
    client.abort()
    assert await at_origin.was_reset(stuck) == 8


async def test_what_slow_clients_leave_unread_is_credited(stage: Stage) -> None:
    """120 windows of 64 KiB, which are more than the connection's."""
    _, client, origin = await between(stage)
    at_origin = None
    for _ in range(120):
        number = await client.open()
        client.stuck.add(number)
        at_origin = at_origin or await http2_at(origin)
        request = await at_origin.request()
        await at_origin.head(request)
        await at_origin.data(request, b"x" * 65_535)
        await client.body(number, 65_535)
        await fill(at_origin, request)
        await client.reset(number)
        assert await at_origin.was_reset(request) == 8
    assert at_origin is not None
    number = await client.open()
    await at_origin.respond(await at_origin.request(), b"y" * 60_000)
    assert len((await client.answer(number)).body) == 60_000


async def test_a_slow_client_gets_everything(stage: Stage) -> None:
    _, client, at_origin, request = await asked(stage, client_buffer=4096)
    body = bytes(range(256)) * 8000
    await at_origin.head(request, ("content-length", str(len(body))))
    sending = stage.tasks.spawn(at_origin.data(request, body, ends=True), name="respond")
    assert (await client.read_response()).body == body
    await sending


async def test_a_server_that_does_not_read_an_upload(stage: Stage) -> None:
    """Its window is the back-pressure; another upload on the connection goes on."""
    lb, client, origin = await line(stage)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n")
    at_origin = await http2_at(origin)
    request = await at_origin.begun()
    at_origin.stuck.add(request.number)
    sending = stage.tasks.spawn(client.send(b"x" * 20_000_000), name="upload")
    await at_origin.read_until(lambda: len(request.body) >= 65_535)
    [exchange] = running(lb)
    await eventually(lambda: exchange.phase == phases.BLOCKED)
    assert exchange.upstream.unsent <= 3 * 64 * 1024 + 256 * 1024
    other = await stage.client(lb)
    await other.post(b"y" * 50_000)
    its = await at_origin.request()
    await at_origin.respond(its, b"fine")
    assert (await other.read_response()).body == b"fine"
    at_origin.stuck.clear()
    at_origin.http2.increment_flow_control_window(2**24, request.number)
    at_origin.http2.increment_flow_control_window(2**24)
    await at_origin.flush()
    await at_origin.read_until(lambda: request.has_ended)
    await sending
    assert len(request.body) == 20_000_000
    await at_origin.respond(request, b"all")
    assert (await client.read_response()).body == b"all"


async def test_a_window_that_never_opens(stage: Stage) -> None:
    lb, client, origin = await line(stage, timeouts={"server": "300ms"})
    await client.post(b"x" * 200_000)
    at_origin = await http2_at(origin, initial_window_size=0)
    request = await at_origin.begun()
    assert (await client.read_response()).status == 504
    assert await at_origin.was_reset(request) == 8
    assert request.body == b""
    await eventually(lambda: in_flight(lb) == [0])


async def test_short_requests_between_two_of_http2(stage: Stage) -> None:
    async def echo(connection: Http2AtOrigin, one: Asked) -> None:
        await connection.respond(one, bytes(one.body) or b"nothing")

    lb = await stage.balancer(
        await serving_http2(stage, echo), backend=H2, frontend={"http2": True}
    )
    client = Http2Client(await stage.client(lb))
    for _ in range(10):
        assert (await client.ask()).body == b"nothing"
        assert (await client.post(b"z" * 16_384)).body == b"z" * 16_384
