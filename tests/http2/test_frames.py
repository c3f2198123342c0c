"""Frame by frame, what RFC 9113 demands of a server.

The rows re-express the cases of h2spec, of h2's `test_invalid_frame_sequences.py` and of nghttp2's
`nghttp2_session_test.c`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import hpack
import pytest

from tests.support.http2_peer import PREFACE, SETTINGS
from tests.support.http2_wire import (
    ACK,
    CODES,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH,
    RST_STREAM,
    SETTING,
    WINDOW,
    WITH_PRIORITY,
    block,
    frame,
    frames,
    get,
    headers,
    reset,
    setting,
    upload,
    window,
)
from tests.support.http_peer import Ended
from tests.support.stage import in_flight
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.http_peer import Client
    from tests.support.stage import Stage

MARK = b"are you?"
HALF = len(block(*GET)) // 2
LAST = 2**31 - 1

# By section and case: the bytes behind the preface, and what is demanded. A stream error names the
# code; "connection" before it: of the connection. "200": it is a request like any other. "ignored".
ROWS: dict[str, tuple[bytes, str]] = {
    "4.1 an unknown type": (frame(0x77, 0, 0, b"?"), "ignored"),
    "4.1 an unknown type on a stream": (upload() + frame(0x77, 0, 1) + frame(DATA, 1, 1), "200"),
    "4.1 flags without a meaning": (frame(PING, 0xFE, 0, bytes(8)), "ignored"),
    "4.1 the reserved bit of the stream": (frame(PING, 0, 1 << 31, bytes(8)), "ignored"),
    "4.2 DATA above the largest frame": (
        upload() + frame(DATA, 0, 1, bytes(16_385)), "connection FRAME_SIZE_ERROR",
    ),
    "4.2 HEADERS above the largest frame": (
        frame(HEADERS, 5, 1, bytes(16_385)), "connection FRAME_SIZE_ERROR",
    ),
    "4.2 an unknown type above the largest frame": (
        frame(0x77, 0, 0, bytes(16_385)), "connection FRAME_SIZE_ERROR",
    ),
    "4.2 DATA of the largest frame": (upload() + frame(DATA, 1, 1, bytes(16_384)), "200"),
    "4.3 a block that can't be decoded": (
        frame(HEADERS, 5, 1, b"\x00\x85\xf2\xb2\x4a\x84\xff"), "connection COMPRESSION_ERROR",
    ),
    "4.3 an index above the table": (frame(HEADERS, 5, 1, b"\xfe"), "connection COMPRESSION_ERROR"),
    "4.3 the index 0": (frame(HEADERS, 5, 1, b"\x80"), "connection COMPRESSION_ERROR"),
    "4.3 a table larger than announced": (
        frame(HEADERS, 5, 1, b"\x3f\xe2\x1f" + block(*GET)), "connection COMPRESSION_ERROR",
    ),
    "4.3 a table size behind a field": (
        frame(HEADERS, 5, 1, block(*GET) + b"\x20"), "connection COMPRESSION_ERROR",
    ),
    "4.3 padding of a string that is no EOS": (
        frame(HEADERS, 5, 1, block(*GET) + b"\x00\x01x\x81\x1c"), "connection COMPRESSION_ERROR",
    ),
    "4.3 padding of a string above 7 bits": (
        frame(HEADERS, 5, 1, block(*GET) + b"\x00\x01x\x82\x1f\xff"),
        "connection COMPRESSION_ERROR",
    ),
    "4.3 EOS within a string": (
        frame(HEADERS, 5, 1, block(*GET) + b"\x00\x01x\x84\xff\xff\xff\xff"),
        "connection COMPRESSION_ERROR",
    ),
    "4.3 an integer without an end": (
        frame(HEADERS, 5, 1, b"\x7f" + b"\xff" * 20), "connection COMPRESSION_ERROR",
    ),
    "4.3 PRIORITY within a block": (
        frame(HEADERS, 1, 1, block(*GET)[:HALF]) + frame(PRIORITY, 0, 1, bytes((0, 0, 0, 3, 1))),
        "connection PROTOCOL_ERROR",
    ),
    "4.3 HEADERS of another stream within a block": (
        frame(HEADERS, 1, 1, block(*GET)[:HALF]) + get(stream=3), "connection PROTOCOL_ERROR",
    ),
    "5.1 DATA on an idle stream": (frame(DATA, 1, 1, b"x"), "connection PROTOCOL_ERROR"),
    "5.1 RST_STREAM on an idle stream": (reset(1), "connection PROTOCOL_ERROR"),
    "5.1 WINDOW_UPDATE on an idle stream": (window(1, 100), "connection PROTOCOL_ERROR"),
    "5.1 CONTINUATION on an idle stream": (
        frame(CONTINUATION, END_HEADERS, 1, block(*GET)), "connection PROTOCOL_ERROR",
    ),
    "5.1 DATA behind the end": (get() + frame(DATA, 1, 1, b"x"), "STREAM_CLOSED"),
    "5.1 HEADERS behind the end": (get() + get(), "STREAM_CLOSED"),
    "5.1 CONTINUATION behind the end": (
        get() + frame(CONTINUATION, END_HEADERS, 1), "connection PROTOCOL_ERROR",
    ),
    "5.1 PRIORITY behind the end": (get() + frame(PRIORITY, 0, 1, bytes((0, 0, 0, 3, 1))), "200"),
    "5.1 WINDOW_UPDATE behind the end": (get() + window(1, 9), "200"),
    "5.1 DATA behind a reset": (upload() + reset(1) + frame(DATA, 1, 1, b"x"), "STREAM_CLOSED"),
    "5.1 HEADERS behind a reset": (upload() + reset(1) + get(), "STREAM_CLOSED"),
    "5.1 CONTINUATION behind a reset": (
        upload() + reset(1) + frame(CONTINUATION, END_HEADERS, 1), "connection PROTOCOL_ERROR",
    ),
    "5.1 WINDOW_UPDATE behind a reset": (upload() + reset(1) + window(1, 9), "ignored"),
    "5.1.1 an even stream": (get(stream=2), "connection PROTOCOL_ERROR"),
    "5.1.1 a stream below the last": (get(stream=5) + get(stream=3), "connection PROTOCOL_ERROR"),
    "5.1.1 a stream far above the last": (get(stream=2**30 + 1), "200"),
    "5.3.1 HEADERS that depend on themselves": (
        frame(HEADERS, 0x25, 1, bytes((0, 0, 0, 1, 7)) + block(*GET)), "PROTOCOL_ERROR",
    ),
    "5.3.1 PRIORITY of a stream on itself": (
        frame(PRIORITY, 0, 1, bytes((0, 0, 0, 1, 7))), "PROTOCOL_ERROR",
    ),
    "5.4.1 a frame behind an error": (
        frame(DATA, 1, 1) + frame(PING, 0, 0, b"no reply"), "connection PROTOCOL_ERROR",
    ),
    "6.1 DATA on the connection": (frame(DATA, 0, 0, b"x"), "connection PROTOCOL_ERROR"),
    "6.1 padding": (upload() + frame(DATA, PADDED | END_STREAM, 1, b"\x02xx\0\0"), "200"),
    "6.1 padding of all": (upload() + frame(DATA, PADDED | END_STREAM, 1, b"\x02\0\0"), "200"),
    "6.1 padding longer than the frame": (
        upload() + frame(DATA, PADDED, 1, b"\x06Test"), "connection PROTOCOL_ERROR",
    ),
    "6.1 padding without its length": (
        upload() + frame(DATA, PADDED, 1), "connection PROTOCOL_ERROR",
    ),
    "6.2 HEADERS on the connection": (get(stream=0), "connection PROTOCOL_ERROR"),
    "6.2 padding": (
        frame(HEADERS, 5 | PADDED, 1, b"\x02" + block(*GET) + bytes(2)), "200",
    ),
    "6.2 padding longer than the frame": (
        frame(HEADERS, 5 | PADDED, 1, b"\xff" + block(*GET)), "connection PROTOCOL_ERROR",
    ),
    "6.2 a priority": (
        frame(HEADERS, 5 | WITH_PRIORITY, 1, bytes((0, 0, 0, 3, 7)) + block(*GET)), "200",
    ),
    "6.2 a priority without its bytes": (
        frame(HEADERS, 5 | WITH_PRIORITY, 1, b"\0\0"),
        "connection FRAME_SIZE_ERROR",
    ),
    "6.3 PRIORITY on the connection": (
        frame(PRIORITY, 0, 0, bytes((0, 0, 0, 3, 7))), "connection PROTOCOL_ERROR",
    ),
    "6.3 PRIORITY of 4 bytes": (
        upload() + frame(PRIORITY, 0, 1, bytes(4)), "FRAME_SIZE_ERROR",
    ),
    "6.3 PRIORITY of an idle stream": (frame(PRIORITY, 0, 9, bytes((0, 0, 0, 3, 7))), "ignored"),
    "6.4 RST_STREAM on the connection": (reset(0), "connection PROTOCOL_ERROR"),
    "6.4 RST_STREAM of 3 bytes": (
        upload() + frame(RST_STREAM, 0, 1, bytes(3)), "connection FRAME_SIZE_ERROR",
    ),
    "6.4 RST_STREAM with an unknown code": (upload() + reset(1, 0xFF), "ignored"),
    "6.4 RST_STREAM twice": (upload() + reset(1) + reset(1), "ignored"),
    "6.5 SETTINGS on a stream": (
        frame(SETTING, 0, 1, bytes((0, 3, 0, 0, 0, 100))), "connection PROTOCOL_ERROR",
    ),
    "6.5 an acknowledgement with a setting": (
        frame(SETTING, ACK, 0, bytes((0, 3, 0, 0, 0, 100))), "connection FRAME_SIZE_ERROR",
    ),
    "6.5 SETTINGS of 5 bytes": (frame(SETTING, 0, 0, bytes(5)), "connection FRAME_SIZE_ERROR"),
    "6.5.2 push above 1": (setting(2, 2), "connection PROTOCOL_ERROR"),
    "6.5.2 push by a client": (setting(2, 1), "ignored"),
    "6.5.2 a window above the largest": (setting(4, 2**31), "connection FLOW_CONTROL_ERROR"),
    "6.5.2 the largest window": (setting(4, 2**31 - 1), "ignored"),
    "6.5.2 a frame size below the smallest": (setting(5, 16_383), "connection PROTOCOL_ERROR"),
    "6.5.2 a frame size above the largest": (setting(5, 2**24), "connection PROTOCOL_ERROR"),
    "6.5.2 an unknown setting": (setting(0xFF, 1), "ignored"),
    "6.5.3 a setting twice in one frame": (
        frame(SETTING, 0, 0, bytes((0, 4, 0, 0, 0, 1)) * 2) + setting(4, 100) + get(), "200",
    ),
    "6.5.3 an acknowledgement of nothing": (frame(SETTING, ACK, 0) * 3, "ignored"),
    "6.6 PUSH_PROMISE by a client": (
        get() + frame(PUSH, END_HEADERS, 1, bytes((0, 0, 0, 2)) + block(*GET)),
        "connection PROTOCOL_ERROR",
    ),
    "6.7 PING on a stream": (frame(PING, 0, 1, bytes(8)), "connection PROTOCOL_ERROR"),
    "6.7 PING of 6 bytes": (frame(PING, 0, 0, bytes(6)), "connection FRAME_SIZE_ERROR"),
    "6.7 an acknowledgement of no PING": (frame(PING, ACK, 0, bytes(8)), "ignored"),
    "6.8 GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), "connection PROTOCOL_ERROR"),
    "6.8 GOAWAY of 7 bytes": (frame(GOAWAY, 0, 0, bytes(7)), "connection FRAME_SIZE_ERROR"),
    "6.9 a zero increment of the connection": (window(0, 0), "connection PROTOCOL_ERROR"),
    "6.9 a zero increment of a stream": (upload() + window(1, 0), "PROTOCOL_ERROR"),
    "6.9 WINDOW_UPDATE of 3 bytes": (
        frame(WINDOW, 0, 0, bytes(3)), "connection FRAME_SIZE_ERROR",
    ),
    "6.9.1 the connection's window above the largest": (
        window(0, 2**31 - 1) * 2, "connection FLOW_CONTROL_ERROR",
    ),
    "6.9.1 a stream's window above the largest": (
        upload() + window(1, 2**31 - 1) * 2, "FLOW_CONTROL_ERROR",
    ),
    "6.9.2 a setting that makes a window too large": (
        upload() + window(1, 2**31 - 1 - 65_535) + setting(4, 65_536),
        "connection FLOW_CONTROL_ERROR",
    ),
    "6.9.2 a window that becomes negative": (setting(4, 0) + get() + setting(4, 90), "200"),
    "6.10 CONTINUATIONs": (
        frame(HEADERS, 1, 1, block(*GET)[:9]) + frame(CONTINUATION, 0, 1, block(*GET)[9:20])
        + frame(CONTINUATION, 4, 1, block(*GET)[20:]), "200",
    ),
    "6.10 CONTINUATION on the connection": (
        frame(HEADERS, 1, 1, block(*GET)[:9]) + frame(CONTINUATION, 4, 0, block(*GET)[9:]),
        "connection PROTOCOL_ERROR",
    ),
    "6.10 CONTINUATION of another stream": (
        frame(HEADERS, 1, 1, block(*GET)[:9]) + frame(CONTINUATION, 4, 3, block(*GET)[9:]),
        "connection PROTOCOL_ERROR",
    ),
    "6.10 CONTINUATION behind the whole block": (
        get() + frame(CONTINUATION, 4, 1, block(*GET)), "connection PROTOCOL_ERROR",
    ),
    "6.10 CONTINUATION behind DATA": (
        upload() + frame(DATA, 0, 1, b"x") + frame(CONTINUATION, 4, 1),
        "connection PROTOCOL_ERROR",
    ),
    "8.1 a second head without an end": (
        upload() + headers(*POST, flags=END_HEADERS), "PROTOCOL_ERROR",
    ),
    "8.1 trailers with a pseudo-header field": (
        upload() + headers((":path", "/")), "PROTOCOL_ERROR",
    ),
    "8.1 trailers": (upload() + headers(), "200"),
    "8.1.1 less DATA than Content-Length": (
        upload(("content-length", "2")) + frame(DATA, 1, 1, b"x"), "PROTOCOL_ERROR",
    ),
    "8.1.1 more DATA than Content-Length": (
        upload(("content-length", "1")) + frame(DATA, 1, 1, b"xy"), "PROTOCOL_ERROR",
    ),
    "8.1.1 several DATA above Content-Length": (
        upload(("content-length", "1")) + frame(DATA, 0, 1, b"x") + frame(DATA, 1, 1, b"y"),
        "PROTOCOL_ERROR",
    ),
    "8.1.1 Content-Length without DATA": (
        headers(*POST, ("content-length", "1")), "PROTOCOL_ERROR",
    ),
    "8.1.1 an empty Content-Length": (headers(*POST, ("content-length", "")), "PROTOCOL_ERROR"),
    "8.2.1 an upper-case name": (get(("X-A", "1")), "PROTOCOL_ERROR"),
    "8.2.1 an empty name": (get(("", "1")), "PROTOCOL_ERROR"),
    "8.2.1 a blank before a value": (get(("x-a", " 1")), "PROTOCOL_ERROR"),
    "8.2.1 NUL in a value": (get(("x-a", "\0")), "PROTOCOL_ERROR"),
    "8.2.2 Connection": (get(("connection", "keep-alive")), "PROTOCOL_ERROR"),
    "8.2.2 TE": (get(("te", "trailers, deflate")), "PROTOCOL_ERROR"),
    "8.2.2 TE: trailers": (get(("te", "trailers")), "200"),
    "8.3 an unknown pseudo-header field": (get((":test", "1")), "PROTOCOL_ERROR"),
    "8.3 one of responses": (get((":status", "200")), "PROTOCOL_ERROR"),
    "8.3 one behind a field": (headers(*GET[:2], ("x-a", "1"), *GET[2:]), "PROTOCOL_ERROR"),
    "8.3.1 an empty :path": (headers(GET[0], (":path", ""), *GET[2:]), "PROTOCOL_ERROR"),
    "8.3.1 no :method": (headers(*GET[1:]), "PROTOCOL_ERROR"),
    "8.3.1 no :scheme": (headers(*GET[:2], GET[3]), "PROTOCOL_ERROR"),
    "8.3.1 no :path": (headers(GET[0], *GET[2:]), "PROTOCOL_ERROR"),
    "8.3.1 :method twice": (headers(GET[0], *GET), "PROTOCOL_ERROR"),
    "8.3.1 :scheme twice": (headers(GET[2], *GET), "PROTOCOL_ERROR"),
    "8.3.1 :path twice": (headers(GET[1], *GET), "PROTOCOL_ERROR"),
    "8.5 CONNECT with a :path": (
        headers((":method", "CONNECT"), *GET[1:]), "PROTOCOL_ERROR",
    ),
    "8.5 CONNECT without an authority": (headers((":method", "CONNECT")), "PROTOCOL_ERROR"),
    "RFC 8441 :protocol without CONNECT": (get((":protocol", "websocket")), "PROTOCOL_ERROR"),
    "RFC 9218 PRIORITY_UPDATE": (
        get() + frame(PRIORITY_UPDATE, 0, 0, bytes((0, 0, 0, 1)) + b"u=1"), "200",
    ),
    "RFC 9218 PRIORITY_UPDATE on a stream": (
        get() + frame(PRIORITY_UPDATE, 0, 1, bytes((0, 0, 0, 1)) + b"u=1"),
        "connection PROTOCOL_ERROR",
    ),
}  # fmt: skip


# Of the case, if not 1.
STREAMS = {"5.1.1 a stream far above the last": 2**30 + 1, "5.1.1 a stream below the last": 3}

# Where libnghttp2 differs. A stream error may be one of the connection (section 5.4.2).
STRICTER = {
    "5.1 DATA behind the end",
    "5.1 HEADERS behind the end",
    "5.3.1 HEADERS that depend on themselves",
    "6.3 PRIORITY of 4 bytes",
    "6.9 a zero increment of a stream",
    "6.9.1 a stream's window above the largest",
}
WEAKER = {
    # Priorities by RFC 7540 are not read at all (RFC 9113 section 5.3.2).
    "5.3.1 PRIORITY of a stream on itself": "ignored",
    "6.3 PRIORITY on the connection": "ignored",
    # They may have crossed a reset by the other side.
    "5.1 DATA behind a reset": "ignored",
    "5.1 HEADERS behind a reset": "ignored",
    "5.1.1 a stream below the last": "ignored",
    # Not forbidden, and without effect.
    "6.5.3 an acknowledgement of nothing": "connection PROTOCOL_ERROR",
}


class Seen:
    """What a client got."""

    def __init__(self, received: bytes | bytearray) -> None:
        self.resets: dict[int, str] = {}
        self.goaway = ""
        self.statuses: dict[int, str] = {}
        self.is_alive = False
        decoder = hpack.Decoder()
        for kind, flags, stream, payload in frames(bytes(received)):
            if kind == RST_STREAM:
                self.resets[stream] = CODES[int.from_bytes(payload)]
            elif kind == GOAWAY:
                self.goaway = CODES[int.from_bytes(payload[4:8])]
            elif kind == HEADERS:
                self.statuses[stream] = str(dict(decoder.decode(payload))[":status"])
            elif kind == PING and flags & ACK and payload == MARK:
                self.is_alive = True

    def of(self, stream: int) -> str:
        """In the words of the table."""
        if self.goaway:
            return f"connection {self.goaway}"
        return self.resets.get(stream) or self.statuses.get(stream) or "ignored"


async def say(client: Client, data: bytes) -> Seen:
    """Send it, with a PING and one more request behind it -> what came until that is answered, or
    the connection has ended."""
    with suppress(OSError):
        await client.send(PREFACE + SETTINGS + data + frame(PING, 0, 0, MARK))
    with suppress(Ended, OSError):
        while not Seen(client.received).is_alive:
            await client.read_some()
        await client.send(get(stream=LAST))
        while LAST not in (seen := Seen(client.received)).statuses and LAST not in seen.resets:
            await client.read_some()
    return Seen(client.received)


@pytest.mark.parametrize("case", ROWS)
async def test_what_a_frame_leads_to(stage: Stage, case: str) -> None:
    data, demanded = ROWS[case]
    if case in STRICTER:
        demanded = f"connection {demanded}"
    demanded = WEAKER.get(case, demanded)
    lb = await stage.balancer(await stage.serving(), frontend={"http2": True})
    client = await stage.client(lb)
    seen = await say(client, data)
    assert seen.of(STREAMS.get(case, 1)) == demanded
    # A stream error ends its stream alone; one of the connection ends it, with nothing behind.
    assert seen.is_alive != demanded.startswith("connection ")
    if seen.is_alive:
        assert seen.statuses[LAST] == "200"
    else:
        await client.read_to_end()
    await eventually(lambda: in_flight(lb) == [0])


async def test_data_above_the_window_of_its_stream(stage: Stage) -> None:
    """What the server has not taken is not credited."""
    lb = await stage.balancer(stage.black_hole(), frontend={"http2": True})
    client = await stage.client(lb)
    data = upload() + frame(DATA, 0, 1, bytes(16_384)) * 20
    with suppress(OSError):
        await client.send(PREFACE + SETTINGS + data)
    with suppress(Ended):
        while not (seen := Seen(client.received)).resets and not seen.goaway:
            await client.read_some()
    assert Seen(client.received).of(1) in ("FLOW_CONTROL_ERROR", "connection FLOW_CONTROL_ERROR")
    await eventually(lambda: in_flight(lb) == [0])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        PREFACE[:18] + b"XX" + PREFACE[20:],
        PREFACE + frame(PING, 0, 0, bytes(8)),
        PREFACE + get(),
    ],
    ids=["HTTP/1", "another preface", "PING before SETTINGS", "HEADERS before SETTINGS"],
)
async def test_a_wrong_preface(stage: Stage, data: bytes) -> None:
    """Section 3.4."""
    lb = await stage.balancer(await stage.serving(), frontend={"http2": True})
    client = await stage.client(lb)
    with suppress(OSError):
        await client.send(data)
    await client.read_until_cut()
    if data.startswith(PREFACE[:18]):
        assert Seen(client.received).goaway == "PROTOCOL_ERROR"
    else:
        assert client.received.startswith(b"HTTP/1.1 400")
