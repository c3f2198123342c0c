"""What the codec takes of a client before it ends the connection: frames in, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hermes_lb.http.frames import (
    STREAM_WINDOW,
    BrokenConnection,
    DataReceived,
    RequestReceived,
)
from hermes_lb.proxy.http2.codec import Codec
from tests.support.http2_peer import PREFACE, SETTINGS, frame, head_frame

if TYPE_CHECKING:
    from collections.abc import Callable

POST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
WITH_LENGTH = [*POST, (b"content-length", b"1")]


def codec() -> Codec:
    made = Codec(most_in_head=16_384, most_fields=100)
    made.receive(PREFACE + SETTINGS)
    made.take()
    made.receive(frame(4, 1, 0))  # the client knows our settings
    made.events()
    return made


def accepted(frames: Callable[[int], bytes], first: bytes = b"", most: int = 5000) -> int:
    """How many of these a connection takes before it is over; it reads what it is sent."""
    one = codec()
    one.receive(first)
    for number in range(most):
        try:
            one.receive(frames(number))
        except BrokenConnection:
            return number
        one.events()
        one.take()
        one.events()
        if one.is_over:
            return number
    return most


def opened(number: int, fields: list[tuple[bytes, bytes]] = POST, *, ends: bool = False) -> bytes:
    return head_frame(2 * number + 1, fields, ends=ends)


BOUNDED: dict[str, tuple[int, Callable[[int], bytes], bytes]] = {
    "rapid reset (CVE-2023-44487)": (
        200, lambda n: opened(n, ends=True) + frame(3, 0, 2 * n + 1, bytes(4)), b"",
    ),
    "streams above the limit": (100, lambda n: opened(n), b""),
    "made you reset: DATA above the length (CVE-2025-8671)": (
        1000, lambda n: opened(n, WITH_LENGTH) + frame(0, 0, 2 * n + 1, b"xx"), b"",
    ),
    "made you reset: DATA below the length": (
        1000, lambda n: opened(n, WITH_LENGTH) + frame(0, 1, 2 * n + 1), b"",
    ),
    "made you reset: malformed trailers": (
        1000, lambda n: opened(n) + head_frame(2 * n + 1, [(b"X", b"y")], ends=True), b"",
    ),
    "made you reset: a window of zero": (0, lambda n: frame(8, 0, 1, bytes(4)), opened(0)),
    "made you reset: a window above its limit": (
        0, lambda n: frame(8, 0, 1, b"\x7f\xff\xff\xff"), opened(0),
    ),
    "made you reset: DATA behind the end": (
        0, lambda n: frame(0, 0, 1, b"x"), opened(0, ends=True),
    ),
    "made you reset: a head behind the end": (
        0, lambda n: head_frame(1, POST, ends=True), opened(0, ends=True),
    ),
    "made you reset: a short PRIORITY": (0, lambda n: frame(2, 0, 1, b"\0"), opened(0)),
    "malformed requests": (1000, lambda n: opened(n, [(b":method", b"GET")], ends=True), b""),
    "empty DATA (CVE-2019-9518)": (1000, lambda n: frame(0, 0, 1), opened(0)),
    "PRIORITY": (1000, lambda n: frame(2, 0, 1, b"\0\0\0\3\7"), opened(0)),
    "PRIORITY of idle streams": (1000, lambda n: frame(2, 0, 2 * n + 3, bytes(5)), opened(0)),
    "PRIORITY_UPDATE": (
        1000, lambda n: frame(16, 0, 0, (2 * n + 3).to_bytes(4) + b"u=1"), opened(0),
    ),
    "unknown frames": (1000, lambda n: frame(77, 0, 0), b""),
    "CONTINUATION (CVE-2024-27316)": (
        9, lambda n: frame(9, 0, 1, b"\x84"), frame(1, 1, 1, b"\x82"),
    ),
    "empty CONTINUATION": (9, lambda n: frame(9, 0, 1), frame(1, 1, 1, b"\x82")),
    "many SETTINGS in a frame": (0, lambda n: frame(4, 0, 0, b"\0\4\0\0\xff\xff" * 40), b""),
    "an acknowledgement of nothing": (1, lambda n: frame(4, 1, 0), b""),
    "a push": (0, lambda n: frame(5, 4, 1, (2).to_bytes(4)), b""),
}  # fmt: skip


@pytest.mark.parametrize("attack", BOUNDED)
def test_a_connection_ends_at_the_bound(attack: str) -> None:
    most, frames, first = BOUNDED[attack]
    # What a second gives back may come on top.
    assert accepted(frames, first) <= most + max(20, most // 5)


# Not counted: each is answered with less than it costs, and parsed a slice at a time.
UNBOUNDED: dict[str, Callable[[int], bytes]] = {
    "PING": lambda n: frame(6, 0, 0, bytes(8)),
    "SETTINGS": lambda n: SETTINGS,
    "a new initial window": lambda n: frame(4, 0, 0, b"\0\4" + (65_535 + n % 2).to_bytes(4)),
    "WINDOW_UPDATE of the connection": lambda n: frame(8, 0, 0, (1).to_bytes(4)),
    "WINDOW_UPDATE of a stream": lambda n: frame(8, 0, 1, (1).to_bytes(4)),
}


@pytest.mark.parametrize("frames", UNBOUNDED)
def test_what_a_client_may_send_without_end(frames: str) -> None:
    assert accepted(UNBOUNDED[frames], opened(0)) == 5000


@pytest.mark.parametrize("flood", ["PING", "SETTINGS"])
def test_acknowledgements_that_are_not_read_are_bounded(flood: str) -> None:
    """Where the connection can't be written, `take` is not called (CVE-2019-9512, 9515)."""
    one = codec()
    with pytest.raises(BrokenConnection):
        one.receive(b"".join(UNBOUNDED[flood](number) for number in range(1100)))
    assert len(one.take()) < 64 * 1024


LEGITIMATE: dict[str, Callable[[int], bytes]] = {
    "a request": lambda n: opened(n, ends=True),
    "a body that an empty DATA ends": lambda n: (
        opened(n) + frame(0, 0, 2 * n + 1, b"x") + frame(0, 1, 2 * n + 1)
    ),
    "trailers": lambda n: opened(n) + head_frame(2 * n + 1, [(b"x-t", b"v")], ends=True),
    "a priority in the head": lambda n: frame(
        1, 37, 2 * n + 1, b"\0\0\0\0\7" + opened(n, ends=True)[9:]
    ),
    "a window for a stream that has ended": lambda n: (
        opened(n, ends=True) + (frame(8, 0, 2 * n - 1, (1).to_bytes(4)) if n else b"")
    ),
    "a reset of a stream that has ended": lambda n: (
        opened(n, ends=True) + (frame(3, 0, 2 * n - 1, (8).to_bytes(4)) if n < 150 and n else b"")
    ),
}


@pytest.mark.parametrize("kind", LEGITIMATE)
def test_no_end_for_a_client_that_behaves(kind: str) -> None:
    one = codec()
    for number in range(3000):
        one.receive(LEGITIMATE[kind](number))
        received = [each for each in one.events() if isinstance(each, RequestReceived)]
        assert [each.stream_id for each in received] == [2 * number + 1]
        one.respond(2 * number + 1, [(b":status", b"200")], ends=True)
        one.take()
        one.events()
        assert not one.is_over


def test_a_head_that_unpacks_to_much_ends_the_connection() -> None:
    """An HPACK bomb: a field of 4,000 bytes enters the table once, and then takes a byte each."""
    one = codec()
    long = b"\x40" + _string(b"x-bomb") + _string(b"v" * 3900)  # becomes entry 62 of the table
    block = head_frame(1, POST, ends=True)[9:] + long
    one.receive(frame(1, 5, 1, block + b"\xbe" * 3))
    assert len(one.events()) == 1
    with pytest.raises(BrokenConnection, match="header list exceeds"):
        one.receive(frame(1, 5, 3, block + b"\xbe" * 2000))
    assert one.is_over


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, size = len(text) - 127, b"\x7f"
    while rest >= 128:
        size += bytes((rest % 128 + 128,))
        rest //= 128
    return size + bytes((rest,)) + text


def test_data_is_not_credited_by_itself() -> None:
    """A stream's window, and no more, until the balancer has passed it on."""
    one = codec()
    one.receive(opened(0))
    for _ in range(4):
        one.receive(frame(0, 0, 1, b"x" * 16_384))
    came = [each for each in one.events() if isinstance(each, DataReceived)]
    assert sum(len(each.data) for each in came) == STREAM_WINDOW
    assert one.take() == b""
    one.receive(frame(0, 0, 1, b"x"))
    one.take()
    assert one.is_over


def test_credit_is_given_for_what_is_passed_on() -> None:
    one = codec()
    one.receive(opened(0) + frame(0, 0, 1, b"x" * 16_384) * 3)
    one.events()
    one.credit(1, 40_000)
    assert one.take() == frame(8, 0, 1, (40_000).to_bytes(4))
