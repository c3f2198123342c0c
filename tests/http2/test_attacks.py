"""What a client of HTTP/2 can do to hurt others: each costs a bounded amount, and is answered.

Requests that HTTP/1.1 can't say, or says in another way, are refused (RFC 9113 section 8).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.http2.test_requests import by_hand, with_client
from tests.support.http2_peer import PREFACE, SETTINGS, Http2Client, StreamWasReset
from tests.support.http_peer import Ended
from tests.support.stage import in_flight
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from tests.support.stage import Stage

GET = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]


def changed(name: str, value: str | None) -> list[tuple[str, str]]:
    """GET with another pseudo-header field, or without it."""
    return [
        (key, value if key == name else old)
        for key, old in GET
        if key != name or value is not None
    ]  # fmt: skip


MALFORMED = {
    "an upper-case name": [*GET, ("X-Upper", "1")],
    "Connection": [*GET, ("connection", "close")],
    "Transfer-Encoding": [*GET, ("transfer-encoding", "chunked")],
    "Keep-Alive": [*GET, ("keep-alive", "1")],
    "Upgrade": [*GET, ("upgrade", "h2c")],
    "Proxy-Connection": [*GET, ("proxy-connection", "keep-alive")],
    "TE that is not trailers": [*GET, ("te", "gzip")],
    "LF in a value": [*GET, ("x-a", "1\nx-b: 2")],
    "CR LF in a value": [*GET, ("x-a", "1\r\nx-b: 2")],
    "NUL in a value": [*GET, ("x-a", "1\0")],
    "a colon in a name": [*GET, ("x-a:", "1")],
    "a blank in a name": [*GET, ("x a", "1")],
    "CR LF in a name": [*GET, ("x-a: 1\r\nx-b", "1")],
    "an empty name": [*GET, ("", "1")],
    "a late pseudo-header field": [*GET[:3], ("x-a", "1"), GET[3]],
    "an unknown pseudo-header field": [*GET, (":status", "200")],
    ":path twice": [*GET, (":path", "/b")],
    "no :method": changed(":method", None),
    "no :path": changed(":path", None),
    "no :scheme": changed(":scheme", None),
    "an empty :path": changed(":path", ""),
    "a blank in :path": changed(":path", "/a b"),
    "a fragment": changed(":path", "/a#b"),
    "CR LF in :path": changed(":path", "/ HTTP/1.1\r\nx: y\r\n\r\nGET /b"),
    "LF in :method": changed(":method", "GET\nX"),
    "a blank in :method": changed(":method", "GET /b"),
    "bytes above ASCII in :path": changed(":path", "/\xff"),
    "CR LF in :authority": changed(":authority", "a\r\nx: y"),
    ":protocol on a GET": [*GET, (":protocol", "websocket")],
}
REFUSED = {
    "Host beside another authority": (400, [*GET, ("host", "b")]),
    "user information": (400, changed(":authority", "user@a")),
    "two Content-Lengths": (400, [*GET, ("content-length", "1"), ("content-length", "2")]),
    "an odd Content-Length": (400, [*GET, ("content-length", "+1")]),
    "an unknown method": (501, changed(":method", "BREW")),
    "an absolute path of another scheme": (400, changed(":path", "ftp://b/")),
    "a long path": (414, changed(":path", "/" + "a" * 20_000)),
    "CONNECT": (405, [(":method", "CONNECT"), (":authority", "a:443")]),
    "an unknown protocol": (
        501,
        [(":method", "CONNECT"), (":protocol", "connect-udp"), *GET[1:]],
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_request_reaches_no_server(stage: Stage, case: str) -> None:
    lb, client, origin = await by_hand(stage)
    client = Http2Client(client.client, checks=False)
    number = await client.send_fields(MALFORMED[case])
    await client.read_until(lambda: number in client.resets or number in client.ended)
    assert client.resets.get(number) in (1, None)  # PROTOCOL_ERROR
    if number in client.ended:
        assert client.fields[number][0] == (":status", "400")
    # The connection goes on.
    other = await client.send_fields(GET)
    at_origin, request = await origin.accept_request()
    assert request.head.target == "/"
    await at_origin.respond(b"fine")
    assert (await client.answer(other)).body == b"fine"
    refused = [line for line in await stage.logged(lb, 2) if line.request == "<BADREQ>"]
    assert [line.status for line in refused] in ([400], ["400"])


@pytest.mark.parametrize("case", REFUSED)
async def test_a_request_that_is_refused(stage: Stage, case: str) -> None:
    status, fields = REFUSED[case]
    client = Http2Client((await with_client(stage)).client, checks=False)
    number = await client.send_fields(fields)
    await client.read_until(lambda: number in client.ended or number in client.resets)
    if number in client.ended:
        assert (await client.answer(number)).status == status
    else:
        assert client.resets[number] == 1  # nghttp2 knows it already
    assert (await client.answer(await client.send_fields(GET))).status == 200


async def test_a_body_that_disagrees_with_its_length(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    client = Http2Client(client.client, checks=False)
    number = await client.open("/", ("content-length", "10"), method="POST", ends=False)
    at_origin = await origin.accept()
    await at_origin.read_head()
    await client.send_body(number, b"12345", ends=True)
    await client.read_until(lambda: number in client.resets)
    assert await at_origin.read_until_cut() in (b"", b"12345")  # cut, not completed
    await eventually(lambda: in_flight(lb) == [0])


async def test_a_rapid_reset_costs_no_server(stage: Stage) -> None:
    """CVE-2023-44487: a request and its reset in one write begin nothing."""
    lb, client, origin = await by_hand(stage)
    for _ in range(50):
        number = client.http2.get_next_available_stream_id()
        client.http2.send_headers(number, GET, end_stream=True)
        client.http2.reset_stream(number)
    await client.flush()
    number = await client.open("/last")
    at_origin, request = await origin.accept_request()
    assert request.head.target == "/last"
    await at_origin.respond(b"fine")
    assert (await client.answer(number)).body == b"fine"
    assert len(await stage.logged(lb, 1)) == 1


async def test_a_client_that_resets_without_end_is_disconnected(stage: Stage) -> None:
    lb, client, _ = await by_hand(stage)
    with suppress(OSError):
        for _ in range(2000):
            number = client.http2.get_next_available_stream_id()
            client.http2.send_headers(number, GET, end_stream=True)
            client.http2.reset_stream(number)
            await client.flush()
            await turns(1)
    await client.read_to_end()
    assert client.goaways
    await eventually(lambda: in_flight(lb) == [0])


FLOODS = {
    "PING": bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + bytes(8),
    "SETTINGS": SETTINGS,
    "empty DATA on no stream": bytes((0, 0, 0, 0, 0, 0, 0, 0, 1)),
    "PRIORITY": bytes((0, 0, 5, 2, 0, 0, 0, 0, 1)) + bytes((0, 0, 0, 3, 7)),
    "unknown frames": bytes((0, 0, 0, 77, 0, 0, 0, 0, 0)),
    "WINDOW_UPDATE": bytes((0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1)),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_small_frames_delays_nobody(stage: Stage, kind: str) -> None:
    """A slice at a time: others are served between."""
    origin = await stage.serving()
    lb = await stage.balancer(origin, frontend={"http2": True})
    flood = await stage.client(lb)
    await flood.send(PREFACE + SETTINGS)
    other = await stage.client(lb)
    wave = FLOODS[kind] * (128 * 1024 // len(FLOODS[kind]))
    for _ in range(4):
        try:
            flood.sock.send(wave)
        except (BlockingIOError, ConnectionError):
            break
        assert (await other.ask()).status == 200
    flood.abort()


async def test_a_client_that_does_not_read_its_acknowledgements_is_cut(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving(), frontend={"http2": True})
    flood = await stage.client(lb, receive_buffer=4096)
    await flood.send(PREFACE + SETTINGS)
    sent = 0
    with suppress(OSError):
        sent = await flood.send_until_stuck(FLOODS["PING"] * 1000, 64_000_000)
    assert sent < 20_000_000  # the kernel's buffers: the balancer reads no more
    flood.abort()


async def test_continuations_without_end(stage: Stage) -> None:
    """CVE-2024-27316."""
    client = (await with_client(stage)).client
    headers = bytes((0, 0, 1, 1, 0, 0, 0, 0, 1)) + b"\x82"
    more = bytes((0, 0, 1, 9, 0, 0, 0, 0, 1)) + b"\x84"
    await client.send(PREFACE + SETTINGS + headers)

    async def send_without_end() -> None:
        for _ in range(10_000):
            await client.send(more * 100)
            await client.read_some()

    with pytest.raises((Ended, OSError)):
        await send_without_end()


async def test_a_head_that_unpacks_to_much(stage: Stage) -> None:
    """An HPACK bomb: one byte each for fields of 4,000."""
    client = Http2Client((await with_client(stage)).client, checks=False)
    fields = [*GET, *[("x-long", "v" * 4000)] * 400]
    number = await client.send_fields(fields)
    try:
        answer = await client.answer(number)
        assert answer.status in (400, 431)
    except (StreamWasReset, Ended):
        pass
    others = Http2Client((await with_client(stage)).client)
    assert (await others.ask()).status == 200


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n" * 3, b"\xff" * 100, bytes(9) * 50])
async def test_garbage_behind_the_preface(stage: Stage, data: bytes) -> None:
    client = (await with_client(stage)).client
    await client.send(PREFACE + data)
    await client.read_until_cut()


async def test_more_streams_than_allowed(stage: Stage) -> None:
    lb, client, _ = await by_hand(stage, timeouts={"connect": "1s"})
    client.http2.remote_settings[3] = 1000
    numbers = []
    for _ in range(150):
        number = client.http2.get_next_available_stream_id()
        client.http2.send_headers(number, GET, end_stream=True)
        numbers.append(number)
    await client.flush()
    await client.read_until(lambda: len(client.resets) >= 50 or bool(client.goaways))
    assert sum(in_flight(lb)) <= 100


async def test_streams_count_as_connections_of_their_client(stage: Stage) -> None:
    """100 of them in each connection would evade `connections_per_client`."""
    lb, client, origin = await by_hand(stage, limits={"connections_per_client": 4})
    assert lb._context is not None
    counter = lb._context.client_limits.connections
    held = [await client.open("/held") for _ in range(3)]
    servers = [(await origin.accept_request())[0] for _ in held]
    assert (await client.ask("/refused")).status == 429
    await servers[0].respond(b"1")
    assert (await client.answer(held[0])).body == b"1"
    number = await client.open("/next")
    await servers[0].read_request()
    await client.reset(held[1])
    await eventually(lambda: counter._open == {"127.0.0.1": 3}, "it is closed")
    await servers[0].respond(b"2")
    assert (await client.answer(number)).body == b"2"
    client.client.abort()
    await eventually(lambda: counter._open == {}, "all have ended")


async def test_a_response_that_is_not_read_counts(stage: Stage) -> None:
    limits = {"connections_per_client": 2}
    lb = await stage.balancer(await stage.serving(), limits=limits, frontend={"http2": True})
    client = Http2Client(await stage.client(lb))
    client.http2.update_settings({4: 0})  # INITIAL_WINDOW_SIZE
    unread = await client.open("/")
    await client.head(unread)
    number = await client.open("/")
    assert (await client.head(number))[0] == (":status", "429")
    await client.reset(unread)
    number = await client.open("/")
    assert (await client.head(number))[0] == (":status", "200")


async def test_a_client_that_announces_its_end_gets_its_responses(stage: Stage) -> None:
    _, client, origin = await by_hand(stage)
    number = await client.open("/")
    server, _ = await origin.accept_request()
    await client.client.send(bytes((0, 0, 8, 7, 0, 0, 0, 0, 0)) + bytes(8))  # GOAWAY
    await server.respond(b"fine")
    assert (await client.answer(number)).body == b"fine"
