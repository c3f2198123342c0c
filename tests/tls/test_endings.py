"""TLS to clients: how a connection ends, and which side gets a close_notify."""

from __future__ import annotations

import gc
import ssl
import weakref
from typing import TYPE_CHECKING

import pytest

from hermes_lb.testing import eventually
from tests.support.certificates import trusting
from tests.support.http_peer import Ended, request
from tests.support.loops import on_both_loops
from tests.support.stage import in_flight
from tests.support.tls import asking, bare_client, refused, serving, tls_client, with_tls
from tests.support.waiting import turns
from tests.support.websocket import WEBSOCKET, switch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client
    from tests.support.stage import Stage
    from tests.support.tls import TlsClient


@on_both_loops
async def test_an_end_that_is_meant_is_announced(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate)
    client = await tls_client(stage, lb)
    await client.ask("/", "Connection: close")
    assert await client.read_to_end() == b""
    assert client.was_told_goodbye


@on_both_loops
async def test_a_response_that_is_cut_ends_without_a_goodbye(
    stage: Stage, certificate: str
) -> None:
    lb, client, at_origin = await asking(stage, certificate)
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await client.read_until(b"half")
    at_origin.close()
    assert await client.read_until_cut() == b""
    assert not client.was_told_goodbye
    assert (await stage.log_line(lb)).termination == "SD"


@on_both_loops
@pytest.mark.parametrize("is_whole", [False, True], ids=["cut", "whole"])
async def test_a_body_that_only_the_end_ends_is_announced_or_reset(
    stage: Stage, certificate: str, is_whole: bool
) -> None:
    _, client, at_origin = await asking(stage, certificate, version="1.0")
    await at_origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    await client.read_until(b"hi")
    if is_whole:
        await at_origin.send(b"0\r\n\r\n")
        assert await client.read_to_end() == b""
    else:
        at_origin.close()
        with pytest.raises(Ended) as end:
            await client.read_to_end()
        assert end.value.by_reset
    assert client.was_told_goodbye is is_whole


@on_both_loops
@pytest.mark.parametrize("how", ["says goodbye", "FIN only", "RST"])
async def test_a_client_that_leaves_ends_its_request(
    stage: Stage, certificate: str, how: str
) -> None:
    lb, client, at_origin = await asking(stage, certificate)
    if how == "says goodbye":
        await client.say_goodbye()
    elif how == "FIN only":
        client.half_close()
    else:
        client.abort()
    assert await at_origin.read_until_cut() == b""
    assert (await stage.log_line(lb)).termination == "CH"
    assert in_flight(lb) == [0]


@on_both_loops
@pytest.mark.parametrize(
    ("connect", "sent", "leave", "within"),
    [
        (tls_client, b"GET / HTTP/1.1\r\n", "half_close", "a request head"),
        (bare_client, b"\x16\x03\x01\x02", "close", "a TLS handshake"),
    ],
)
async def test_a_client_that_leaves_within_a_message_is_logged(
    stage: Stage,
    certificate: str,
    connect: Callable[[Stage, LoadBalancer], Awaitable[Client]],
    sent: bytes,
    leave: str,
    within: str,
) -> None:
    lb = await serving(stage, certificate)
    client = await connect(stage, lb)
    await client.send(sent)
    await turns(20)
    getattr(client, leave)()
    line = await refused(stage, lb)
    assert (line.termination, line.reason) == ("CR", f"the client left within {within}")


async def test_damaged_bytes_end_the_request_and_nothing_of_them_passes(
    stage: Stage, certificate: str
) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    client = await tls_client(stage, lb)
    await client.send(request("POST", "/", "Content-Length: 100000"))
    at_origin = await origin.accept()
    await at_origin.read_head()
    await client.wire.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert await at_origin.read_until_cut() == b""
    assert (await stage.log_line(lb)).termination == "CH"


async def test_a_renegotiation_is_not_taken_part_in(stage: Stage, certificate: str) -> None:
    """OpenSSL's own client can ask for one, Python's can't: the option must be set."""
    lb = await serving(stage, certificate)
    [frontend] = lb._plane.frontends
    assert frontend.certificates is not None
    assert frontend.certificates.default.options & ssl.OP_NO_RENEGOTIATION
    assert frontend.certificates.default.options & ssl.OP_NO_COMPRESSION


# Tunnels.


async def a_tunnel(
    stage: Stage, certificate: str, context: ssl.SSLContext | None = None
) -> tuple[LoadBalancer, TlsClient, AtOrigin]:
    lb, client, at_origin = await asking(stage, certificate, *WEBSOCKET, context=context)
    await switch(client, at_origin)
    return lb, client, at_origin


@on_both_loops
async def test_a_tunnel_closes_each_way_on_its_own(stage: Stage, certificate: str) -> None:
    lb, client, at_origin = await a_tunnel(stage, certificate)
    await client.send(b"ping")
    assert await at_origin.read_exactly(4) == b"ping"
    await client.say_goodbye()
    assert await at_origin.read_to_end() == b""
    await at_origin.send(b"still here")
    assert await client.read_exactly(10) == b"still here"
    at_origin.half_close()
    assert await client.read_to_end() == b""
    assert client.was_told_goodbye
    assert (await stage.log_line(lb)).termination == "--"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_tunnel_whose_server_is_done_first_takes_the_rest_of_the_client(
    stage: Stage, certificate: str, version: ssl.TLSVersion
) -> None:
    context = trusting()
    context.maximum_version = version
    lb, client, at_origin = await a_tunnel(stage, certificate, context)
    at_origin.half_close()
    assert await client.read_to_end() == b""
    assert client.was_told_goodbye
    for part in (b"the ", b"rest"):
        await client.send(part)
        assert await at_origin.read_exactly(len(part)) == part
    await client.say_goodbye()
    assert await at_origin.read_to_end() == b""
    assert (await stage.log_line(lb)).termination == "--"


@on_both_loops
async def test_a_tunnel_whose_client_is_cut_off_is_not_ended_cleanly(
    stage: Stage, certificate: str
) -> None:
    lb, client, at_origin = await a_tunnel(stage, certificate)
    client.half_close()
    assert await at_origin.read_until_cut() == b""
    assert (await stage.log_line(lb)).termination == "CD"


# The balancer.


async def test_a_drain_closes_idle_connections_with_a_goodbye(
    stage: Stage, certificate: str
) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(
        origin, frontend=with_tls(certificate), timeouts={"request_head": "0.2s"}
    )
    idle, in_handshake = await tls_client(stage, lb), await bare_client(stage, lb)
    await turns(20)
    assert await lb.drain(5.0)
    assert await idle.read_to_end() == b""
    assert idle.was_told_goodbye
    assert await in_handshake.read_until_cut() == b""


async def test_nothing_is_left_for_the_garbage_collector(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate)
    context = lb._context
    assert context is not None
    client = await tls_client(stage, lb)
    await client.ask()
    gc.disable()
    try:
        [connection] = context.live.clients
        kept = weakref.ref(connection.transport.get_extra_info("ssl_object"))
        del connection
        client.close()
        await eventually(lambda: not context.live.clients)
        await eventually(lambda: kept() is None)
    finally:
        gc.enable()
