"""Requests by HTTP/2: they mean what the same request by HTTP/1.1 means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.proxy import phases
from tests.support.http2_peer import Http2Client, StreamWasReset
from tests.support.loops import on_both_loops
from tests.support.stage import in_flight, unsent
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Message
    from tests.support.origin import Origin
    from tests.support.stage import Stage

HTTP2 = {"frontend": {"http2": True}}


async def echo(connection: AtOrigin, message: Message) -> None:
    await connection.respond(message.head.raw + message.body)


async def with_client(stage: Stage, handler: Any = None, **options: Any) -> Http2Client:
    """A client by HTTP/2, of an origin that answers by itself."""
    lb = await stage.balancer(await stage.serving(handler), **HTTP2, **options)
    return Http2Client(await stage.client(lb))


async def by_hand(stage: Stage, **options: Any) -> tuple[LoadBalancer, Http2Client, Origin]:
    """The same, of an origin that the test plays."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, **HTTP2, **options)
    return lb, Http2Client(await stage.client(lb)), origin


def running(lb: LoadBalancer) -> list[Any]:
    """The exchanges."""
    return [each for client in lb._plane.context.live.clients for each in client.exchanges()]


@on_both_loops
async def test_a_get(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    number = await client.open("/a?b=c", ("x-one", "1"), ("cookie", "a=1"), ("cookie", "b=2"))
    at_origin, request = await origin.accept_request()
    head = request.head
    assert (head.method, head.target) == ("GET", "/a?b=c")
    assert head.get("Host") == "balancer.test"
    assert head.get("x-one") == "1"
    assert head.get("Cookie") == "a=1; b=2"
    assert str(head.get("Via")).startswith("2.0 ")
    assert head.get("Transfer-Encoding") is None
    await at_origin.respond(b"hello", "X-Two: 2", "Keep-Alive: timeout=5", "Connection: keep-alive")
    answer = await client.answer(number)
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.get("x-two") == "2"
    assert answer.get("content-length") == "5"
    assert answer.get("date")
    assert answer.get("keep-alive") is None
    assert answer.get("connection") is None
    line = await stage.log_line(lb)
    assert line.request == "GET /a?b=c HTTP/2.0"
    assert line.termination[:2] == "--"


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_535])
@pytest.mark.parametrize("has_length", [True, False])
async def test_a_body_reaches_the_server(stage: Stage, size: int, has_length: bool) -> None:
    client = await with_client(stage, echo)
    body = b"x" * size
    fields = [("content-length", str(size))] if has_length else []
    number = await client.open("/", *fields, method="POST", ends=False)
    for start in range(0, size, 16_000):
        await client.send_body(number, body[start : start + 16_000])
    await client.send_body(number, b"", ends=True)
    answer = await client.answer(number)
    head, _, received = answer.body.partition(b"\r\n\r\n")
    assert received == body
    assert (b"Transfer-Encoding: chunked" in head) is (not has_length)


@pytest.mark.parametrize("size", [0, 5])
@pytest.mark.parametrize("trailers", [True, False])
async def test_a_body_is_whole_before_its_stream_ends(
    stage: Stage, size: int, trailers: bool
) -> None:
    """By its length; trailers, or an empty DATA with END_STREAM, come in a later read."""
    lb, client, origin = await by_hand(stage)
    fields = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "a")]
    number = client.http2.get_next_available_stream_id()
    client.http2.send_headers(number, [*fields, ("content-length", str(size))])
    if size:
        client.http2.send_data(number, b"x" * size)
    await client.flush()
    at_origin, request = await origin.accept_request()
    assert request.body == b"x" * size
    if trailers:
        client.http2.send_headers(number, [("x-t", "v")], end_stream=True)
    else:
        client.http2.end_stream(number)
    await client.flush()
    other = await client.open("/next")
    other_at_origin, _ = await origin.accept_request()
    await other_at_origin.respond(b"fine")
    assert (await client.answer(other)).body == b"fine"
    await at_origin.respond(b"got it")
    assert (await client.answer(number)).body == b"got it"
    assert [line.termination[:2] for line in await stage.logged(lb, 2)] == ["--", "--"]


async def test_a_long_upload_waits_for_the_server_and_not_in_memory(stage: Stage) -> None:
    origin = await stage.origin(receive_buffer=4096)
    lb = await stage.balancer(origin, **HTTP2)
    client = Http2Client(await stage.client(lb))
    number = await client.open("/", method="POST", ends=False)
    at_origin = await origin.accept()
    sent = 0

    async def send_all() -> None:
        nonlocal sent
        while sent < 20_000_000:
            room = min(client.http2.local_flow_control_window(number), 16_000)
            if room:
                sent += room
                await client.send_body(number, b"x" * room)
            else:
                client.take(await client.client.read_some())
        await client.send_body(number, b"", ends=True)

    sending = stage.tasks.spawn(send_all(), name="upload")
    [exchange] = running(lb)
    await eventually(lambda: exchange.phase == phases.BLOCKED, "the server reads nothing")

    async def is_stuck() -> bool:
        """It has no credit, and none was on its way."""
        await eventually(lambda: not client.http2.local_flow_control_window(number))
        before = sent, client.pongs
        await client.ping()
        await eventually(lambda: client.pongs > before[1])
        return sent == before[0] and not client.http2.local_flow_control_window(number)

    while not await is_stuck():
        pass
    assert unsent(lb) <= 3 * 64 * 1024
    request = await at_origin.read_request()
    await sending
    assert len(request.body) == sent
    await at_origin.respond(b"got it")
    assert (await client.answer(number)).body == b"got it"


async def test_streams_are_served_beside_each_other(stage: Stage) -> None:
    _, client, origin = await by_hand(stage)
    numbers = [await client.open(f"/{n}") for n in range(20)]
    asked = {}
    for _ in numbers:
        at_origin, request = await origin.accept_request()
        asked[request.head.target] = at_origin
    for n, number in reversed(list(enumerate(numbers))):
        await asked[f"/{n}"].respond(b"%d" % n)
        assert (await client.answer(number)).body == b"%d" % n


@pytest.mark.parametrize(
    ("method", "status", "length"), [("HEAD", 200, "7"), ("GET", 204, None), ("GET", 304, "7")]
)
async def test_a_response_without_a_body(
    stage: Stage, method: str, status: int, length: str | None
) -> None:
    _, client, origin = await by_hand(stage)
    number = await client.open(method=method)
    at_origin, _ = await origin.accept_request()
    line = b"" if length is None else b"Content-Length: 7\r\n"
    await at_origin.send(b"HTTP/1.1 %d Fine\r\n%b\r\n" % (status, line))
    answer = await client.answer(number)
    assert (answer.status, answer.body, answer.get("content-length")) == (status, b"", length)


async def test_events_arrive_as_they_are_sent(stage: Stage) -> None:
    _, client, origin = await by_hand(stage)
    number = await client.open()
    at_origin, _ = await origin.accept_request()
    await at_origin.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    expected = b""
    for n in range(5):
        event = b"data: %d\n\n" % n
        await at_origin.send(b"%x\r\n%b\r\n" % (len(event), event))
        expected += event
        assert await client.body(number, len(expected)) == expected
    await at_origin.send(b"0\r\n\r\n")
    assert (await client.answer(number)).body == expected


async def test_an_expectation_is_passed_on(stage: Stage) -> None:
    _, client, origin = await by_hand(stage)
    number = await client.open(
        "/", ("expect", "100-continue"), ("content-length", "2"), method="POST", ends=False
    )
    at_origin = await origin.accept()
    head = await at_origin.read_head()
    assert head.get("Expect") == "100-continue"
    await at_origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await client.read_until(lambda: bool(client.informational))
    assert client.informational[0][0] == (":status", "100")
    await client.send_body(number, b"ok", ends=True)
    assert await at_origin.read_exactly(2) == b"ok"
    await at_origin.respond(b"done")
    assert (await client.answer(number)).body == b"done"


async def test_an_early_answer_ends_the_upload(stage: Stage) -> None:
    _, client, origin = await by_hand(stage)
    number = await client.open("/", ("content-length", "500000"), method="POST", ends=False)
    await client.send_body(number, b"x" * 10_000)
    at_origin = await origin.accept()
    await at_origin.read_head()
    await at_origin.respond(b"too large", "Connection: close", status=413)
    answer = await client.answer(number)
    assert (answer.status, answer.body) == (413, b"too large")
    await client.read_until(lambda: number in client.resets)
    assert client.resets[number] == 0  # RFC 9113 section 8.1: the response is complete
    other = await client.open("/next")
    next_at_origin, _ = await origin.accept_request()
    await next_at_origin.respond(b"fine")
    assert (await client.answer(other)).body == b"fine"


async def test_an_upload_stops_with_the_head_of_an_early_refusal(stage: Stage) -> None:
    """... and what comes then is discarded, a window at most."""
    _, client, origin = await by_hand(stage)
    number = await client.open("/", ("content-length", "500000"), method="POST", ends=False)
    await client.send_body(number, b"hello")
    at_origin = await origin.accept()
    await at_origin.read_head()
    assert await at_origin.read_exactly(5) == b"hello"
    await at_origin.send(b"HTTP/1.1 507 No\r\nContent-Length: 7\r\n\r\nno ")
    assert await client.body(number, 3) == b"no "
    while room := min(client.http2.local_flow_control_window(number), 16_384):
        await client.send_body(number, b"x" * room)
    other = await client.open("/other")  # behind all of these
    there, _ = await origin.accept_request()
    await there.respond(b"fine")
    assert (await client.answer(other)).body == b"fine"
    assert await at_origin.gets_nothing()
    await at_origin.send(b"room")
    assert (await client.answer(number)).body == b"no room"


async def test_a_head_within_the_limits_of_http1_passes(stage: Stage) -> None:
    """The codec's own bound counts 32 bytes for each field, and the crumbs of a cookie."""
    client = await with_client(stage, limits={"head_size": 2048, "header_count": 10})
    fields = [(f"x-{n}", "y" * 100) for n in range(7)]
    crumbs = [("cookie", "a=b")] * 8
    assert (await client.ask("/" + "p" * 900, *fields, *crumbs)).status == 200
    assert (await client.ask("/", *[(f"x-{n}", "y") for n in range(10)])).status == 431


async def test_a_stream_that_is_reset_frees_its_server(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    number = await client.open()
    at_origin, _ = await origin.accept_request()
    await client.reset(number)
    await eventually(lambda: in_flight(lb) == [0])
    assert await at_origin.read_until_cut() == b""
    assert (await stage.log_line(lb)).termination.startswith("C")


async def test_a_server_that_is_lost_resets_the_stream(stage: Stage) -> None:
    _, client, origin = await by_hand(stage)
    number = await client.open()
    at_origin, _ = await origin.accept_request()
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await client.body(number, 4)
    at_origin.abort()
    with pytest.raises(StreamWasReset) as reset:
        await client.answer(number)
    assert reset.value.code == 2  # INTERNAL_ERROR


async def test_a_stuck_stream_holds_back_only_itself(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage, backend={"keep_alive": 100})
    stuck = await client.open("/stuck")
    client.stuck.add(stuck)
    at_origin, _ = await origin.accept_request()
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
    sent = await at_origin.send_until_stuck(b"x" * 65_536, 50_000_000)
    assert sent < 20_000_000  # what the kernel's buffers take
    for n in range(50):
        number = await client.open(f"/{n}")
        other, _ = await origin.accept_request()
        await other.respond(b"y" * 30_000)
        assert len((await client.answer(number)).body) == 30_000
        other.close()
    assert in_flight(lb) == [1]
    client.http2.reset_stream(stuck)
    await client.flush()
    await eventually(lambda: in_flight(lb) == [0])


async def test_a_slow_stream_goes_on_when_it_is_read(stage: Stage) -> None:
    _, client, origin = await by_hand(stage)
    number = await client.open()
    client.stuck.add(number)
    at_origin, _ = await origin.accept_request()
    body = bytes(range(256)) * 4000
    sending = stage.tasks.spawn(at_origin.respond(body), name="respond")
    await client.body(number, 65_000)
    client.stuck.clear()
    client.http2.increment_flow_control_window(2_000_000, number)
    await client.flush()
    assert (await client.answer(number)).body == body
    await sending


async def test_a_response_whose_server_is_done_ends_when_it_is_read(stage: Stage) -> None:
    """The last write takes all that was queued, and closes the stream."""
    lb, client, origin = await by_hand(stage)
    number = await client.open()
    client.stuck.add(number)
    at_origin, _ = await origin.accept_request()
    # Parsed a thousand chunks at a time: the others are behind when the server is paused.
    await at_origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    [exchange] = running(lb)
    await at_origin.send(b"8\r\nxxxxxxxx\r\n" * 19_000 + b"0\r\n\r\n")
    await eventually(lambda: exchange.phase == phases.FLUSH, "the server is done")
    client.http2.increment_flow_control_window(1_000_000, number)
    await client.flush()
    assert len((await client.answer(number)).body) == 152_000
    await eventually(lambda: in_flight(lb) == [0])
    assert (await stage.log_line(lb)).termination[:2] == "--"


async def test_local_replies(stage: Stage) -> None:
    lb = await stage.balancer(stage.nobody(), backend={"retries": 0}, **HTTP2)
    client = Http2Client(await stage.client(lb))
    answer = await client.ask()
    assert answer.status == 503
    assert answer.get("retry-after")
    assert answer.get("content-length") == str(len(answer.body))
    assert (await client.ask(method="HEAD")).body == b""


async def test_it_is_off_without_the_option(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    client = await stage.client(lb)
    await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (await client.read_head()).status == 505


async def test_priorities_are_passed_on(stage: Stage) -> None:
    """RFC 9218, as the field that it is; its frame has no effect."""
    _, client, origin = await by_hand(stage)
    number = await client.open("/", ("priority", "u=1, i"))
    at_origin, request = await origin.accept_request()
    assert request.head.get("Priority") == "u=1, i"
    await at_origin.respond(b"fine", "Priority: u=5")
    assert (await client.answer(number)).get("priority") == "u=5"
