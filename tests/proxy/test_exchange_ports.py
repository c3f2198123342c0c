"""An exchange between two fakes: its phases, what it asks of each side, and its one end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hermes_lb.errors import BadResponse, ClosedBeforeResponse
from hermes_lb.http.body import LAST_CHUNK
from hermes_lb.http.sse import chunk
from hermes_lb.proxy import phases
from hermes_lb.proxy.stream_rules import StreamRules
from tests.proxy.fakes import Scene, turns
from tests.support.http_peer import request
from tests.support.websocket import WEBSOCKET

if TYPE_CHECKING:
    from hermes_lb.proxy.exchange import Exchange

pytestmark = pytest.mark.pure_only("fakes can't be subclasses of a compiled trait")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Hermes-Resume: /r\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(length: int, *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (length, lines)


def phase(exchange: Exchange) -> str:
    return phases.NAMES[exchange.phase]


async def test_a_whole_response() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(GET)
        assert (phase(exchange), exchange.deadline) == (
            "AWAIT",
            scene.now + scene.context.settings.timeouts.server,
        )
        scene.answer(OK, b"hello")
        assert scene.client.got == b"hello"
        assert scene.client.calls == [("head", 200, 5, True), ("done", True)]
        assert scene.server.calls == [("give_back", True)]
        assert (phase(exchange), scene.ends) == ("END", ["--"])


async def test_a_body_in_parts() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(GET)
        scene.answer(CHUNKED)
        assert phase(exchange) == "DATA"
        for part in (b"1\r\na\r\n", b"0\r\n\r\n"):
            scene.data(part)
        assert scene.client.got == b"1\r\na\r\n0\r\n\r\n"
        assert (scene.ends, scene.server.calls) == (["--"], [("give_back", True)])


async def test_a_slow_client_holds_the_server_back_and_is_waited_for_at_the_end() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(GET)
        scene.answer(CHUNKED, b"1\r\na\r\n")
        scene.client.is_writing_paused = True
        exchange.client_is_slow()
        assert (phase(exchange), scene.server.calls) == ("DATA_SLOW", [("pause",)])
        scene.data(b"0\r\n\r\n")
        assert (phase(exchange), scene.ends) == ("FLUSH", [])
        assert exchange.lease is not None
        scene.client.is_writing_paused = False
        exchange.client_caught_up()
        assert (scene.ends, exchange.lease) == (["--"], None)


async def test_a_client_that_reads_again_lets_the_server_go_on() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(GET)
        scene.answer(CHUNKED, b"1\r\na\r\n")
        exchange.client_is_slow()
        exchange.client_caught_up()
        assert (phase(exchange), scene.server.calls) == ("DATA", [("pause",), ("resume",)])


async def test_an_upload_waits_for_the_side_whose_turn_it_is() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(post(10), b"12")
        assert phase(exchange) == "SEND"
        exchange.server_is_slow()
        assert (phase(exchange), scene.client.calls[-1]) == ("BLOCKED", ("pause",))
        exchange.server_caught_up()
        assert (phase(exchange), scene.client.calls[-1]) == ("SEND", ("resume",))
        exchange.receive(b"34567890")
        assert phase(exchange) == "SEND"
        exchange.request_ended()
        assert phase(exchange) == "AWAIT"
        assert scene.server.got.endswith(b"1234567890")


@pytest.mark.parametrize(("status", "is_refused"), [(200, False), (413, True)])
async def test_a_response_that_comes_early(status: int, is_refused: bool) -> None:
    """An error makes the rest of the request useless; either way its connection is not kept."""
    async with Scene() as scene:
        exchange = await scene.ask(post(10), b"12")
        scene.answer(b"HTTP/1.1 %d Early\r\nContent-Length: 5\r\n\r\n" % status, b"he")
        assert (("refuse_rest",) in scene.client.calls) == is_refused
        if not is_refused:
            exchange.receive(b"3")
        scene.data(b"llo")
        assert scene.client.calls[-2:] == [("head", status, 5, False), ("done", False)]
        assert scene.server.got.endswith(b"12" if is_refused else b"123")


async def test_a_client_that_waits_for_a_100_waits_for_the_server() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(post(2, b"Expect: 100-continue"))
        assert phase(exchange) == "AWAIT"
        exchange.informational(
            scene.context.settings.response_parser.parse(b"HTTP/1.1 100 Continue\r\n\r\n")
        )
        assert (phase(exchange), scene.client.calls) == (
            "SEND",
            [("resume",), ("informational", 100)],
        )


async def test_a_retry_leaves_nothing_at_the_server_that_failed() -> None:
    async with Scene(servers=2, retries=2) as scene:
        exchange = await scene.ask(GET)
        (first,) = scene.sides
        exchange.server_failed(ClosedBeforeResponse("closed"))
        await turns()
        assert first.calls == [("abort",)]
        assert [side.server.name for side in scene.sides] == ["s1", "s2"]
        assert [server.in_flight for server in scene.backend.pool.servers] == [0, 1]
        scene.answer(OK, b"hello")
        assert (scene.client.got, scene.ends, exchange.retries) == (b"hello", ["--"], 1)


async def test_a_dial_that_timed_out_is_given_up() -> None:
    async with Scene(servers=2, retries=1) as scene:
        scene.may_dial.clear()
        exchange = await scene.ask(GET)
        scene.now = exchange.deadline
        exchange.sweep(scene.now)
        scene.may_dial.set()
        await turns()
        assert [side.server.name for side in scene.sides] == ["s2"]
        assert phase(exchange) == "AWAIT"


async def test_a_response_that_breaks_off_is_cut_visibly() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(GET)
        scene.answer(OK, b"he")
        assert scene.server.body is not None
        exchange.response_ended(scene.server.body, None)
        assert (scene.client.calls[-1], scene.ends) == (("cut_off", "SD"), ["SD"])


async def test_a_bad_response_is_a_local_reply() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(GET)
        exchange.server_failed(BadResponse("nonsense"))
        assert scene.client.calls == [("reply", 502, True), ("done", True)]
        assert scene.ends == ["PH"]


@pytest.mark.parametrize("state", ["DIAL", "AWAIT", "DATA", "QUEUE"])
async def test_a_client_that_leaves_ends_the_work_at_once(state: str) -> None:
    async with Scene(places=1) as scene:
        if state == "QUEUE":
            scene.backend.pool.lease(scene.backend.pool.servers[0], scene.now)
        if state == "DIAL":
            scene.may_dial.clear()
        exchange = await scene.ask(GET)
        if state == "DATA":
            scene.answer(OK, b"he")
        assert phase(exchange) == state
        exchange.client_left()
        termination = f"C{phases.LETTERS[phases.NAMES.index(state)]}"
        assert scene.client.calls[-1] == ("cut_off", termination)
        assert scene.ends == [termination]
        assert (exchange.lease, exchange.upstream) == (None, None)
        assert len(scene.backend.pool.waiting) == 0
        await turns()
        assert not scene.tasks._running


async def test_an_exchange_ends_once() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(GET)
        exchange.shut_down()
        exchange.shut_down()
        with pytest.raises(phases.IllegalTransition):
            exchange.finish("--", scene.now)
        assert scene.ends == ["KH"]


async def test_a_tunnel_ends_with_its_second_direction() -> None:
    async with Scene() as scene:
        exchange = await scene.ask(request("GET", "/", *WEBSOCKET))
        side = scene.server
        scene.answer(b"HTTP/1.1 101 Switching Protocols\r\n" + UPGRADE, b"first")
        tunnel = exchange.tunnel
        assert tunnel is not None
        assert (phase(exchange), side.calls) == ("TUNNEL", [("start", b"first")])
        tunnel.client_end.has_ended = True
        assert tunnel.half_closed(tunnel.client_end, tunnel.server_end)
        assert (scene.ends, side.calls[-1]) == ([], ("write_eof",))
        tunnel.server_end.has_ended = True
        assert tunnel.half_closed(tunnel.server_end, tunnel.client_end)
        assert (scene.ends, side.calls[-1]) == (["--"], ("close",))


@pytest.mark.parametrize("is_http2", [False, True])
async def test_events_leave_in_the_framing_of_the_client(is_http2: bool) -> None:
    rules = StreamRules(True, 3, 10.0, 15.0, "abort", 0.0)
    event, end = b"id: 1\ndata: a\n\n", b"" if is_http2 else LAST_CHUNK
    async with Scene(servers=2, rules=rules) as scene:
        scene.client.is_http2 = is_http2
        exchange = await scene.ask(GET)
        scene.answer(EVENTS, chunk(event[:5]))
        scene.data(chunk(event[5:]))
        assert exchange.stream is not None
        exchange.stream._comment()
        exchange.response_ended(exchange.stream.body, None)  # its server is lost
        await turns()
        scene.answer(EVENTS, chunk(event) + LAST_CHUNK)
        parts = [event, b": resuming\n\n", event]
        assert scene.client.got == b"".join(parts if is_http2 else map(chunk, parts)) + end
        assert scene.ends == ["--"]
