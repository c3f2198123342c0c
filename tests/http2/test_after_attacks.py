"""The state after each attack: neighbours are served, nothing is left, and it is counted."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.http2.test_counters import counted
from tests.http2.test_requests import HTTP2
from tests.support.http2_peer import PREFACE, SETTINGS, Http2Client, frame, head_frame
from tests.support.http_peer import Ended
from tests.support.stage import in_flight
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from tests.support.http_peer import AtOrigin, Client, Message
    from tests.support.stage import Stage

Fields = list[tuple[bytes, bytes]]
GET: Fields = [
    (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a"),
]  # fmt: skip
POST: Fields = [(b":method", b"POST"), *GET[1:]]
HOLD: Fields = [*GET[:2], (b":path", b"/hold"), GET[3]]
ACK = frame(4, 1, 0)
# Bytes of Python that the balancer and the test may hold more of than before.
MOST_GROWTH = 3_000_000


def batched(frames: list[bytes], size: int) -> list[list[bytes]]:
    return [frames[i : i + size] for i in range(0, len(frames), size)]


class Attack(NamedTuple):
    """`ends`: the cause that is counted when the connection ends; empty: it goes on."""

    frames: list[bytes]
    ends: str


def resets(*, behind: int) -> list[bytes]:
    """Of streams that are open at once, or `behind` others."""
    cancel = (8).to_bytes(4)
    return [
        head_frame(n, HOLD, ends=True)
        + (frame(3, 0, n - 2 * behind, cancel) if n > 2 * behind else b"")
        for n in range(1, 2001, 2)
    ]


def made_resets() -> list[bytes]:
    fields = [*POST, (b"content-length", b"1")]
    return [
        head_frame(n, fields, ends=False) + frame(0, 0, n, b"xx") for n in range(1, 6001, 2)
    ]  # fmt: skip


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
OPEN = head_frame(1, POST, ends=False)
BOMB = head_frame(1, GET, ends=True)[9:] + b"\x40\x01x\x7e" + b"v" * 126 + b"\xbe" * 4000

ATTACKS = {
    "rapid resets (CVE-2023-44487)": Attack(resets(behind=0), "rapid_reset"),
    "resets of requests at a server": Attack(resets(behind=30), "rapid_reset"),
    "made you reset (CVE-2025-8671)": Attack(made_resets(), "glitches"),
    "malformed requests": Attack(
        [head_frame(n, [*GET, (b"connection", b"x")], ends=True) for n in range(1, 6001, 2)],
        "glitches",
    ),
    "CONTINUATION (CVE-2024-27316)": Attack(
        [frame(1, 1, 1, b"\x82") + frame(9, 0, 1, b"\x84") * 20], "continuations"
    ),
    "an HPACK bomb": Attack([frame(1, 5, 1, BOMB)], "header_list"),
    "PING (CVE-2019-9512)": Attack([frame(6, 0, 0, bytes(8))] * 5000, ""),
    "SETTINGS (CVE-2019-9515)": Attack([SETTINGS] * 5000, ""),
    "empty DATA (CVE-2019-9518)": Attack([OPEN, frame(0, 0, 1) * 3000], "glitches"),
    "PRIORITY": Attack([OPEN, frame(2, 0, 1, b"\0\0\0\3\7") * 3000], "glitches"),
    "PRIORITY_UPDATE": Attack([OPEN, frame(16, 0, 0, b"\0\0\0\1u=1") * 3000], "glitches"),
    "unknown frames": Attack([frame(77, 0, 0) * 3000], "glitches"),
    "WINDOW_UPDATE (CVE-2019-9511)": Attack(
        [OPEN, frame(8, 0, 1, (1).to_bytes(4)) * 500, *[frame(8, 0, 0, (1).to_bytes(4)) * 500] * 9],
        "",
    ),
    "windows of zero": Attack([OPEN, frame(8, 0, 1, bytes(4))], "protocol"),
}


async def stays(connection: AtOrigin, message: Message) -> None:
    """An event stream that waits for its test, and silence; any other request is answered."""
    if message.head.target == "/":
        await connection.respond(b"ok")
    elif message.head.target == "/stream":
        await connection.send(EVENTS + b"b\r\ndata: one\n\n\r\n")


async def attacked(client: Client, attack: Attack) -> None:
    with suppress(OSError, Ended):
        await client.send(PREFACE + SETTINGS + ACK)
        for part in batched(attack.frames, 50):
            await client.send(b"".join(part))
            await turns(1)
        if attack.ends:
            await client.read_until_cut()


@pytest.mark.parametrize("name", ATTACKS)
async def test_neighbours_are_served_and_nothing_is_left(stage: Stage, name: str) -> None:
    attack = ATTACKS[name]
    origin = await stage.serving(stays)
    lb = await stage.balancer(origin, **HTTP2)
    plain, neighbour = await stage.client(lb), Http2Client(await stage.client(lb))
    stream = await neighbour.open("/stream")
    assert await neighbour.body(stream, 11) == b"data: one\n\n"
    at_origin = origin.connections[-1]
    tracemalloc.start()
    try:
        attacker = await stage.client(lb)
        before, _ = tracemalloc.get_traced_memory()
        await attacked(attacker, attack)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < MOST_GROWTH
    # On other connections, by either version, begun before or behind it.
    assert (await plain.ask()).body == b"ok"
    assert (await neighbour.ask()).body == b"ok"
    await at_origin.send(b"b\r\ndata: two\n\n\r\n0\r\n\r\n")
    assert (await neighbour.answer(stream)).body == b"data: one\n\ndata: two\n\n"
    goaways = counted(lb).get("goaways", {})
    assert goaways == ({attack.ends: 1} if attack.ends else {})
    if not attack.ends:  # other streams of the same connection
        await attacker.send(head_frame(101, GET, ends=True))
        while b"ok" not in attacker.received:
            await attacker.read_some()
    attacker.abort()
    await eventually(lambda: in_flight(lb) == [0])
    await eventually(lambda: counted(lb)["connections"] == 1)
    assert "streams" not in counted(lb)
