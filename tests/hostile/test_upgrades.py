"""Rows 24 and 25: connections that shall become something else, and clients of another time."""

from __future__ import annotations

import pytest

from tests.support.hostile import (
    BEHIND,
    Way,
    asking,
    deliver,
    echo,
    in_two_ways,
    is_passed,
    is_turned_away,
    row,
)
from tests.support.http_peer import Client, Ended, request
from tests.support.stage import Stage, unsent
from tests.support.waiting import turns
from tests.support.websocket import SWITCH, accepting

pytestmark = pytest.mark.http1_only("Upgrade and pipelining: tests/http2/test_connections.py")

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
GET = b"GET /chat HTTP/1.1\r\nHost: a\r\n"
HANDSHAKE = GET + UPGRADE + KEY + VERSION + b"\r\n"
NO_UPGRADE = {"Upgrade": None, "Connection": None, "HTTP2-Settings": None}

# No handshakes: what arrives; the first line, the fields and the body that the origin sees.
PLAIN = [
    row(24, "h2c",
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMA\r\n\r\n",
        "GET /chat HTTP/1.1", NO_UPGRADE, b""),
    row(24, "h2c-without-its-options", GET + b"Upgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
        "GET /chat HTTP/1.1", NO_UPGRADE, b""),
    row(24, "h2c-or-websocket",
        GET + b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n" + KEY + VERSION + b"\r\n",
        "GET /chat HTTP/1.1", NO_UPGRADE, b""),
    row(24, "tls",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1", NO_UPGRADE, b""),
    row(24, "not-nominated", GET + b"Upgrade: websocket\r\n" + KEY + VERSION + b"\r\n",
        "GET /chat HTTP/1.1", NO_UPGRADE, b""),
    row(24, "post", b"POST /chat HTTP/1.1\r\nHost: a\r\n" + UPGRADE + KEY + VERSION + b"\r\n",
        "POST /chat HTTP/1.1", NO_UPGRADE, b""),
    row(24, "with-a-body",
        GET + UPGRADE + KEY + VERSION + b"Content-Length: %d\r\n\r\n" % len(BEHIND) + BEHIND,
        "GET /chat HTTP/1.1", {**NO_UPGRADE, "Content-Length": str(len(BEHIND))}, BEHIND),
    row(24, "no-key", GET + UPGRADE + VERSION + b"\r\n", "GET /chat HTTP/1.1", NO_UPGRADE, b""),
    row(24, "short-key", GET + UPGRADE + b"Sec-WebSocket-Key: eA==\r\n" + VERSION + b"\r\n",
        "GET /chat HTTP/1.1", NO_UPGRADE, b""),
    row(24, "two-keys", GET + UPGRADE + KEY + KEY + VERSION + b"\r\n", "GET /chat HTTP/1.1",
        NO_UPGRADE, b""),
    row(24, "no-version", GET + UPGRADE + KEY + b"\r\n", "GET /chat HTTP/1.1", NO_UPGRADE, b""),
    row(24, "bad-version", GET + UPGRADE + KEY + b"Sec-WebSocket-Version: 777\r\n\r\n",
        "GET /chat HTTP/1.1", {**NO_UPGRADE, "Sec-WebSocket-Version": "777"}, b""),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "start", "fields", "body"), PLAIN)
async def test_what_is_no_handshake_is_a_plain_request(
    stage: Stage, way: Way, wire: bytes, start: str, fields: dict[str, str | None], body: bytes
) -> None:
    """... and what comes behind it is the next one, never the bytes of a tunnel."""
    await is_passed(stage, way, wire, start, fields, body)


@pytest.mark.row(24)
@pytest.mark.parametrize("methods", ["GET HEAD", "HEAD GET"])
async def test_the_same_fields_are_a_handshake_of_a_get_only(stage: Stage, methods: str) -> None:
    """Fields with the same bytes are cached; but the method decides here."""
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    seen = {}
    for method in methods.split():
        client = await stage.client(lb)
        await client.send(HANDSHAKE.replace(b"GET", method.encode()))
        at_origin, message = await origin.accept_request()
        seen[method] = message.get("Upgrade"), message.get("Connection")
        at_origin.abort()
        client.close()
    assert seen == {"GET": ("websocket", "Upgrade"), "HEAD": (None, None)}


UNSOLICITED = [
    row(24, "of-a-plain-request", GET + b"\r\n", SWITCH),
    row(24, "of-no-handshake", GET + UPGRADE + KEY + b"Sec-WebSocket-Version: 777\r\n\r\n", SWITCH),
    row(24, "of-h2c", GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        SWITCH.replace(b"websocket", b"h2c")),
    row(24, "to-another-protocol", HANDSHAKE, SWITCH.replace(b"websocket", b"h2c")),
    row(24, "to-none", HANDSHAKE, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "switch"), UNSOLICITED)
@in_two_ways
async def test_a_101_that_nobody_asked_for_is_502(
    stage: Stage, way: Way, wire: bytes, switch: bytes
) -> None:
    origin, lb, client, at_origin = await asking(stage, wire + BEHIND)
    await deliver(at_origin, switch, way)
    assert (await client.read_response()).status == 502
    assert await at_origin.read_until_cut() == b""  # with nothing of what came behind the request
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (502, "PH")
    assert line.reason
    at_origin, seen = await origin.accept_request()
    assert seen.head.target == "/smuggled"  # on another connection, and a request of its own
    await echo(at_origin, seen)
    assert (await client.read_response()).body == b"GET /smuggled"


@pytest.mark.row(24)
@in_two_ways
async def test_a_tunnel_opens_with_the_101_and_not_before(stage: Stage, way: Way) -> None:
    """What looks like a request behind a handshake is neither answered nor lost."""
    lb, client, origin = await stage.line()
    await deliver(client, HANDSHAKE + BEHIND, way)
    at_origin, seen = await origin.accept_request()
    assert (seen.get("Upgrade"), seen.get("Connection")) == ("websocket", "Upgrade")
    assert seen.get("Sec-WebSocket-Key") == "dGhlIHNhbXBsZSBub25jZQ=="
    assert await at_origin.gets_nothing()
    await deliver(at_origin, accepting(at_origin), way)
    assert await at_origin.read_exactly(len(BEHIND)) == BEHIND
    assert (await client.read_head()).status == 101
    await at_origin.send(b"\x81\x02hi")
    assert await client.read_exactly(4) == b"\x81\x02hi"
    client.half_close()
    assert await at_origin.read_to_end() == b""
    at_origin.close()
    assert await client.read_to_end() == b""
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (101, "--")


@pytest.mark.row(24)
@in_two_ways
@pytest.mark.parametrize("status", [200, 400, 426])
async def test_without_a_101_the_next_request_is_one(stage: Stage, way: Way, status: int) -> None:
    _, _, client, at_origin = await asking(stage, HANDSHAKE + BEHIND, way)
    assert await at_origin.gets_nothing()
    await at_origin.respond(b"no", status=status)
    answer = await client.read_response()
    assert (answer.status, answer.body, answer.get("Connection")) == (status, b"no", None)
    assert (await at_origin.read_request()).head.target == "/smuggled"
    await at_origin.serves(client, b"plain")


@pytest.mark.row(24)
async def test_what_comes_before_the_101_is_bounded_and_none_is_lost(stage: Stage) -> None:
    _, lb, client, at_origin = await asking(stage, HANDSHAKE)
    frames = b"0123456789" * 6000
    sent = await client.send_until_stuck(frames, most=64_000_000)
    held = len(next(iter(lb._context.live.clients))._held) if lb._context else -1
    assert 0 < held < 512 * 1024  # the rest is in the kernel, and the client waits
    await at_origin.send(accepting(at_origin))
    assert await at_origin.read_exactly(sent) == (frames * (sent // len(frames) + 1))[:sent]
    assert unsent(lb) < 512 * 1024


# 25: HTTP/1.0, and many requests at once.


@pytest.mark.row(25)
@in_two_ways
@pytest.mark.parametrize(("field", "connection"), [
    ("", "close"), ("Connection: keep-alive\r\n", "keep-alive"),
    ("Connection: keep-alive, close\r\n", "close"), ("Proxy-Connection: keep-alive\r\n", "close"),
])  # fmt: skip
async def test_http_1_0_is_kept_only_if_it_asks_for_it(
    stage: Stage, way: Way, field: str, connection: str
) -> None:
    _, client, origin = await stage.served(echo)
    wire = f"GET /old HTTP/1.0\r\nHost: a\r\n{field}\r\n".encode()
    await deliver(client, wire, way)
    answer = await client.read_response()
    assert (answer.body, answer.get("Connection")) == (b"GET /old", connection)
    assert origin.requests[0].head.start == "GET /old HTTP/1.1"
    if connection == "close":
        assert await client.read_to_end() == b""
    else:
        await deliver(client, wire, way)
        assert (await client.read_response()).body == b"GET /old"


@pytest.mark.row(25)
@in_two_ways
async def test_http_1_0_gets_nothing_that_it_does_not_know(stage: Stage, way: Way) -> None:
    """No informational response, and no chunks: only the end of the connection ends the body."""
    lb, client, origin = await stage.line()
    await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    at_origin, seen = await origin.accept_request()
    assert seen.get("Host") == "agents"  # HTTP/1.1 needs one
    await deliver(
        at_origin,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n",
        way,
    )
    head = await client.read_head()
    assert head.status == 200
    assert (head.get("Transfer-Encoding"), head.get("Content-Length")) == (None, None)
    assert head.get("Connection") == "close"
    assert await client.read_to_end() == b"abcde"
    assert (await stage.log_line(lb)).termination == "--"


@pytest.mark.row(25)
async def test_http_1_0_sees_that_chunks_are_missing(stage: Stage) -> None:
    _, lb, client, at_origin = await asking(stage, b"GET / HTTP/1.0\r\n\r\n")
    await at_origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await client.read_until(b"abc")
    at_origin.close()
    with pytest.raises(Ended, match="reset"):
        await client.read_to_end()
    assert (await stage.log_line(lb)).termination == "SD"


@pytest.mark.row(25)
async def test_http_1_0_cannot_switch_protocols(stage: Stage) -> None:
    _, client, origin = await stage.line()
    await client.send(HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"))
    at_origin, seen = await origin.accept_request()
    assert (seen.get("Upgrade"), seen.get("Connection")) == (None, None)
    await at_origin.send(accepting(at_origin))
    assert (await client.read_response()).status == 502


TEN = [
    request("GET", "/0"),
    request("POST", "/1", body=BEHIND),
    b"\r\n" + request("GET", "/2"),
    b"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x\r\nhello\r\n0\r\nA: b\r\n\r\n",
    request("HEAD", "/4"),
    request("PUT", "/5", body=b""),
    b"GET http://a/6 HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nhi",
    request("DELETE", "/7"),
    b"GET /8 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    request("OPTIONS", "/9", "Connection: close"),
]


async def reads_ten(client: Client) -> None:
    for n, wire in enumerate(TEN):
        method = wire.lstrip().partition(b" ")[0].decode()
        answer = await client.read_response(method=method)
        body = b"" if method == "HEAD" else b"%b /%d" % (method.encode(), n)
        assert (answer.status, answer.body) == (200, body)
    assert await client.read_to_end() == b""


@pytest.mark.row(25)
@in_two_ways
async def test_ten_pipelined_requests_are_answered_in_order(stage: Stage, way: Way) -> None:
    lb, client, origin = await stage.served(echo)
    await deliver(client, b"".join(TEN), way)
    await reads_ten(client)
    assert [message.head.target for message in origin.requests] == [f"/{n}" for n in range(10)]
    bodies = {n: message.body for n, message in enumerate(origin.requests) if message.body}
    assert bodies == {1: BEHIND, 3: b"hello", 6: b"hi"}
    assert {line.status for line in await stage.logged(lb, 10)} == {200}


@pytest.mark.row(25)
async def test_each_pipelined_request_waits_for_the_response_before_it(stage: Stage) -> None:
    _, client, origin = await stage.line()
    await client.send(b"".join(request("GET", f"/{n}") for n in range(10)))
    at_origin = await origin.accept()
    for n in range(10):
        seen = await at_origin.read_request()
        assert seen.head.target == f"/{n}"
        await turns()
        assert await at_origin.gets_nothing()
        await echo(at_origin, seen)
    for n in range(10):
        assert (await client.read_response()).body == b"GET /%d" % n
    assert await origin.has_no_new_connection()


@pytest.mark.row(25)
async def test_a_refused_request_ends_what_is_pipelined_behind_it(stage: Stage, way: Way) -> None:
    _, client, origin = await stage.served(echo)
    await deliver(
        client, request("GET", "/first") + b"GET /bad\r\n\r\n" + request("GET", "/3"), way
    )
    assert (await client.read_response()).body == b"GET /first"
    await is_turned_away(client, 400)
    assert [message.head.target for message in origin.requests] == ["/first"]
