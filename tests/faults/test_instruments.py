"""What the scenarios look with: would they see a response that is another's, or that is cut?"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from bench.chaos.arena import Arena
from bench.chaos.asks import CHUNKED, EVENTS, LENGTH, NONE, WEBSOCKET, Ask, Orders, chunk
from bench.chaos.balancer import LogLine
from bench.chaos.caller import Caller, Cut, NotHttp
from bench.chaos.control import Control
from bench.chaos.holders import connections_of, listens, state_of
from bench.chaos.report import Lag, Report
from bench.chaos.scenarios.mix_up import what_is_wrong
from bench.chaos.worker import take_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ASK = Ask("GET-1", blocks=2)
BODY = b"GET-1 00000000\nGET-1 00000001\n"
OWN = b"HTTP/1.1 200 OK\r\nX-Id: GET-1\r\nX-Sum: 0\r\n"
SIZED = OWN + b"Content-Length: %d\r\n\r\n" % len(BODY)
IN_CHUNKS = OWN + b"Transfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def answered(wire: bytes) -> AsyncIterator[Caller]:
    """A client of a server that says this, and closes."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server, await Caller.connect(server.sockets[0].getsockname()) as caller:
        yield caller


@pytest.mark.parametrize(
    "wire", [SIZED + BODY, IN_CHUNKS + chunk(BODY[:3]) + chunk(BODY[3:]) + b"0\r\n\r\n"]
)
async def test_the_right_answer_is_right(wire: bytes) -> None:
    async with answered(wire) as caller:
        assert what_is_wrong(ASK, await caller.read_response()) == ""


@pytest.mark.parametrize(
    "wire",
    [
        SIZED.replace(b"Id: GET-1", b"Id: GET-2") + BODY,
        SIZED.replace(b"Sum: 0", b"Sum: 1") + BODY,
        SIZED + BODY.replace(b"GET-1 00000001", b"GET-2 00000001"),
        IN_CHUNKS + chunk(BODY[:-1]) + b"0\r\n\r\n",
        IN_CHUNKS + chunk(BODY + b"!") + b"0\r\n\r\n",
    ],
    ids=["id", "checksum of the request", "a block", "too short", "too long"],
)
async def test_anothers_answer_is_wrong(wire: bytes) -> None:
    async with answered(wire) as caller:
        assert what_is_wrong(ASK, await caller.read_response()) != ""


@pytest.mark.parametrize(
    ("wire", "came"),
    [
        (b"", b""),
        (OWN, b""),
        (SIZED + BODY[:-1], BODY[:-1]),
        (IN_CHUNKS + chunk(BODY), BODY),
        (IN_CHUNKS + chunk(BODY) + b"0\r\n", BODY),
    ],
    ids=["nothing", "in the head", "short of its length", "no last chunk", "half a last chunk"],
)
async def test_a_cut_answer_is_cut(wire: bytes, came: bytes) -> None:
    async with answered(wire) as caller:
        with pytest.raises(Cut) as cut:
            await caller.read_response()
    assert cut.value.body == came


@pytest.mark.parametrize(
    "wire",
    [
        b"GET-1 00000000\n\r\n\r\n",
        SIZED.replace(b"X-Id:", b"X Id:") + BODY,
        SIZED[:-2] + b"Content-Length: 2\r\n\r\n" + BODY,
        SIZED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + BODY,
        OWN + b"\r\n" + BODY,
    ],
    ids=["no status line", "no field", "two lengths", "two framings", "no framing"],
)
async def test_what_is_not_http_is_not_taken_for_it(wire: bytes) -> None:
    async with answered(wire) as caller:
        with pytest.raises(NotHttp):
            await caller.read_response()


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED, EVENTS, NONE])
def test_the_worker_reads_what_the_client_wrote(framing: str) -> None:
    first = Ask("POST-1", "POST", framing=framing, blocks=3, wait=4, sends=5, is_chunked=True)
    second = Ask("PUT-2", "PUT", sends=2)
    received = bytearray(first.wire() + second.wire() + b"GET / HT")
    for ask in (first, second):
        request = take_request(received)
        assert request is not None
        assert (request.method, request.body) == (ask.method, ask.sent_body)
        assert Orders.parse(request.target) == ask.orders
    assert take_request(received) is None
    assert received == b"GET / HT"


def test_a_body_is_the_same_in_pieces_and_whole() -> None:
    orders = Ask("GET-3", blocks=10_000).orders
    assert b"".join(orders.pieces()) == orders.body()
    assert len(orders.body()) == orders.length


@pytest.mark.parametrize(
    "reason", ["", "{no whole head in time} "], ids=["no reason", "with a reason"]
)
def test_a_line_of_the_access_log_is_understood(reason: str) -> None:
    line = LogLine.parse(
        "127.0.0.1:57290 [24/Nov/2026:14:06:53.563] public agents/agent2 0/2005/0/140/2145 504 388 "
        f'- - sHDI 1/1/0/0/+3 0/0 {reason}"POST /length/1/0/0/-/id-1 HTTP/1.1"'
    )
    assert (line.server, line.took, line.status) == ("agent2", 2145, 504)
    assert (line.termination, line.retries, line.target) == ("sH", "+3", "/length/1/0/0/-/id-1")


@pytest.mark.parametrize(
    ("late", "control", "waited", "stopped", "is_blocked"),
    [
        (0.049, 0.0, 0.0, 0.0, False),
        (0.051, 0.0, 0.0, 0.0, True),
        (0.090, 0.045, 0.0, 0.0, False),
        (0.090, 0.0, 0.045, 0.0, False),
        (0.090, 0.0, 0.0, 0.045, False),
        (0.200, 0.045, 0.045, 0.045, True),
    ],
)
def test_a_loop_is_blocked_if_the_machine_is_no_excuse(
    late: float, control: float, waited: float, stopped: float, is_blocked: bool
) -> None:
    assert Lag(late, control, waited, stopped).is_blocked is is_blocked


def test_the_machines_share_is_what_was_waited_within_a_window() -> None:
    output = "0.004\n10.0 0.0\n10.1 0.05\n10.2 0.05\n10.3 0.06\n10.4 0.1\n"
    control = Control.parse(output)
    assert control.late == 0.004
    assert control.most_waited(0.15) == pytest.approx(0.05)
    assert control.most_waited(0.35) == pytest.approx(0.06)
    assert control.most_waited(1.0) == pytest.approx(0.1)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_who_has_accepted_a_connection_is_known(
    tmp_path: Path, family: socket.AddressFamily
) -> None:
    with socket.socket(family) as listener:
        listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "sock"))
        listener.listen()
        async with await Caller.connect(listener.getsockname()) as caller:
            assert caller.name not in connections_of(os.getpid())
            accepted, _ = listener.accept()
            with accepted:
                assert caller.name in connections_of(os.getpid())
            assert caller.name not in connections_of(os.getpid())


_LISTENS = """
import socket, time
sock = socket.create_server(("127.0.0.1", 0))
print("listens", flush=True)
time.sleep(60)
"""


def test_who_listens_is_known() -> None:
    with subprocess.Popen([sys.executable, "-c", _LISTENS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        seen = listens(process.pid), connections_of(process.pid)
        process.kill()
        process.wait()
        assert seen == (True, set())
        assert not listens(process.pid)
        assert state_of(process.pid) == ""


async def test_a_tunnel_echoes(tmp_path: Path) -> None:
    async with Arena(tmp_path, Report()) as arena:
        worker = await arena.worker("agent1")
        async with await Caller.connect(worker.address) as caller:
            await caller.send(Ask("GET-1", fields=WEBSOCKET).wire())
            head = await caller.read_head()
            assert (head.status, head.fields["x-id"]) == (101, "GET-1")
            await caller.send(b"hello")
            assert await caller.read_some() == b"hello"
