"""Trailers by HTTP/2 to clients, and by HTTP/1.1 to servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.http2.test_requests import by_hand
from tests.support.stage import in_flight
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stage import Stage

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\nX-Sum: 1\r\nDate: now\r\nGrpc-Status: 0\r\n\r\n"


@pytest.mark.parametrize("pieces", [[HEAD + b"3\r\nabc\r\n" + END], [HEAD, b"3\r\nabc\r\n", END]])
async def test_of_a_response(stage: Stage, pieces: list[bytes]) -> None:
    lb, client, origin = await by_hand(stage)
    number = await client.open()
    at_origin, _ = await origin.accept_request()
    for piece in pieces:
        await at_origin.send(piece)
    assert (await client.answer(number)).body == b"abc"
    assert client.trailers[number] == [("x-sum", "1"), ("grpc-status", "0")]
    await eventually(lambda: in_flight(lb) == [0])


async def test_behind_a_body_that_waits_for_the_window(stage: Stage) -> None:
    _, client, origin = await by_hand(stage)
    number = await client.open()
    client.stuck.add(number)
    at_origin, _ = await origin.accept_request()
    size = 100_000
    await at_origin.send(HEAD + b"%x\r\n" % size + b"x" * size + b"\r\n" + END)
    await client.body(number, 65_535)
    client.http2.increment_flow_control_window(size, number)
    await client.flush()
    assert len((await client.answer(number)).body) == size
    assert client.trailers[number] == [("x-sum", "1"), ("grpc-status", "0")]


@pytest.mark.parametrize("body", [b"", b"abc"])
async def test_of_a_request(stage: Stage, body: bytes) -> None:
    _, client, origin = await by_hand(stage)
    number = await client.open("/", ("te", "trailers"), method="POST", ends=False)
    if body:
        await client.send_body(number, body)
    await client.send_trailers(number, ("x-sum", "1"), ("authorization", "Basic x"))
    at_origin = await origin.accept()
    head = await at_origin.read_head()
    assert head.get("TE") == "trailers"
    chunks = b"3\r\nabc\r\n" if body else b""
    expected = chunks + b"0\r\nx-sum: 1\r\n\r\n"
    assert await at_origin.read_exactly(len(expected)) == expected
    await at_origin.respond(b"ok")
    assert (await client.answer(number)).body == b"ok"


@pytest.mark.parametrize("at_once", [True, False])
async def test_trailers_that_are_too_long_cut_the_request(stage: Stage, at_once: bool) -> None:
    lb, client, origin = await by_hand(stage)
    number = await client.open("/", method="POST", ends=False)
    if not at_once:
        at_origin = await origin.accept()
        await at_origin.read_head()
    await client.send_trailers(number, *[(f"x-{n}", "v" * 900) for n in range(10)])
    await client.read_until(lambda: number in client.resets or number in client.ended)
    await eventually(lambda: in_flight(lb) == [0])
    other = await client.open("/other")
    at_other, _ = await origin.accept_request()
    await at_other.respond(b"fine")
    assert (await client.answer(other)).body == b"fine"


async def test_a_second_head_that_does_not_end_the_request(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    number = await client.open("/", method="POST", ends=False)
    at_origin = await origin.accept()
    await at_origin.read_head()
    block = client.http2.encoder.encode([("x-a", "1")])
    head = len(block).to_bytes(3) + b"\x01\x04" + number.to_bytes(4)  # END_HEADERS
    await client.client.send(head + block)
    await client.read_until(lambda: number in client.resets or bool(client.goaways))
    assert await at_origin.read_until_cut() == b""
    await eventually(lambda: in_flight(lb) == [0])
