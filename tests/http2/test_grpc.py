"""gRPC's own forms: a status in the only head, and errors of the balancer as a status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.proxy.http2.grpc import error_fields, is_grpc
from tests.http2.test_upstreams import H2, between
from tests.support.http2_origin import http2_at
from tests.support.http2_peer import Http2Client
from tests.support.stage import in_flight
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stage import Stage

GRPC = (("content-type", "application/grpc+proto"), ("te", "trailers"), ("grpc-timeout", "5S"))


async def refused(stage: Stage, **options: Any) -> Http2Client:
    lb = await stage.balancer(
        stage.nobody(), backend={**H2, "retries": 0}, frontend={"http2": True}, **options
    )
    return Http2Client(await stage.client(lb))


@pytest.mark.parametrize("ends", [True, False])
async def test_an_error_of_our_own(stage: Stage, ends: bool) -> None:
    client = await refused(stage)
    number = await client.open("/a.B/C", *GRPC, method="POST", ends=ends)
    answer = await client.answer(number)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.get("content-type") == "application/grpc"
    assert answer.get("grpc-status") == "14"
    assert str(answer.get("grpc-message")).startswith("503 Service Unavailable: ")
    assert (await client.ask()).status == 503  # others get HTTP's


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14),
     (408, 2), (413, 2), (500, 2)],
)  # fmt: skip
def test_statuses(status: int, code: int) -> None:
    fields = dict(error_fields(status, "Größe, 100 %\n".encode()))
    assert fields[b"grpc-status"] == b"%d" % code
    assert fields[b"grpc-message"] == b"Gr%C3%B6%C3%9Fe, 100 %25"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"content-type: application/grpc", True),
        (b"content-type: application/grpc+proto", True),
        (b"content-type: application/grpc;x=y", True),
        (b"content-type: application/grpc-web", False),
        (b"content-type: application/json", False),
        (b"x-content-type: application/grpc", False),
    ],
)
def test_which_requests_are_of_grpc(line: bytes, expected: bool) -> None:
    head = b"POST /a HTTP/1.1\r\nhost: a\r\n" + line + b"\r\n\r\n"
    assert (is_grpc(head) is not None) is expected


async def test_a_status_in_the_only_head(stage: Stage) -> None:
    lb, client, origin = await between(stage)
    number = await client.open("/a.B/C", *GRPC, method="POST", ends=False)
    await client.send_body(number, b"\0\0\0\0\0", ends=True)
    at_origin = await http2_at(origin)
    request = await at_origin.request()
    assert request.get("te") == "trailers"
    assert request.get("grpc-timeout") == "5S"
    await at_origin.head(
        request, ("content-type", "application/grpc"), ("grpc-status", "5"), ends=True
    )
    answer = await client.answer(number)
    assert (answer.status, answer.get("grpc-status"), answer.body) == (200, "5", b"")
    await eventually(lambda: in_flight(lb) == [0])


async def test_a_status_before_the_client_has_ended(stage: Stage) -> None:
    """The server is done: the client's half is cut, and the connections go on."""
    lb, client, origin = await between(stage)
    number = await client.open("/a.B/C", *GRPC, method="POST", ends=False)
    await client.send_body(number, b"\0\0\0\0\x01a")
    at_origin = await http2_at(origin)
    request = await at_origin.begun()
    await at_origin.head(request, ("content-type", "application/grpc"))
    await at_origin.trailers(request, ("grpc-status", "8"))
    assert (await client.answer(number)).status == 200
    assert client.trailers[number] == [("grpc-status", "8")]
    assert await at_origin.was_reset(request) == 8
    await eventually(lambda: in_flight(lb) == [0])
    other = await client.open()
    await at_origin.respond(await at_origin.request(), b"fine")
    assert (await client.answer(other)).body == b"fine"


async def test_both_directions_at_once(stage: Stage) -> None:
    _, client, origin = await between(stage)
    number = await client.open("/a.B/C", *GRPC, method="POST", ends=False)
    at_origin = await http2_at(origin)
    request = await at_origin.begun()
    await at_origin.head(request, ("content-type", "application/grpc"))
    for n in range(1, 6):
        await client.send_body(number, b"\0\0\0\0\x01%d" % n)
        await at_origin.read_until(lambda n=n: len(request.body) == 6 * n)
        await at_origin.data(request, b"\0\0\0\0\x01%d" % n)
        assert len(await client.body(number, 6 * n)) == 6 * n
    await client.send_body(number, b"", ends=True)
    await at_origin.read_until(lambda: request.has_ended)
    await at_origin.data(request, b"last")
    await at_origin.trailers(request, ("grpc-status", "0"))
    assert (await client.answer(number)).body.endswith(b"last")
    assert client.trailers[number] == [("grpc-status", "0")]
