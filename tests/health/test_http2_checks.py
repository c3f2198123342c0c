"""Checks by HTTP/2: the page of `probe = "http"`, and `grpc.health.v1`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Backend
from hermes_lb.health.probes.grpc import message
from tests.health.test_reaching import verdict
from tests.support.http2_origin import serving_http2

if TYPE_CHECKING:
    from tests.support.http2_origin import Asked, Http2AtOrigin
    from tests.support.stage import Stage

GRPC = {"probe": "grpc", "interval": "60s", "timeout": "5s", "fall": 1, "rise": 1}
STATUS = ("grpc-status", "0")


async def checked(stage: Stage, answer: Any, **health: Any) -> tuple[Any, list[Asked]]:
    """The server after one check, and the requests of it. `answer(connection, asked)`."""
    asked: list[Asked] = []

    async def handle(connection: Http2AtOrigin, one: Asked) -> None:
        asked.append(one)
        await answer(connection, one)

    origin = await serving_http2(stage, handle)
    return await verdict_of(stage, origin.address, **health), asked


async def verdict_of(stage: Stage, address: str, **health: Any) -> Any:
    server = await verdict(address, health={**GRPC, **health}, protocol="h2")
    stage.problems[:] = [one for one in stage.problems if "is DOWN" not in one]
    return server


@pytest.mark.parametrize(
    ("payload", "status", "is_up", "text"),
    [
        (message(b"\x08\x01"), [STATUS], True, "SERVING in"),
        (message(b"\x08\x02"), [STATUS], False, "NOT_SERVING"),
        (message(b"\x08\x00"), [STATUS], False, "UNKNOWN"),
        (message(b""), [STATUS], False, "UNKNOWN"),
        (message(b"\x08\x03"), [STATUS], False, "an unknown state"),
        (message(b"\x08\x01"), [("grpc-status", "14")], False, "gRPC status 14"),
        (message(b"\x08\x01"), [("x", "y")], False, "gRPC status is missing"),
        (b"", [STATUS], False, "no valid answer"),
        (b"\0\0\0\0\x09\x08\x01", [STATUS], False, "no valid answer"),
        (b"\x01\0\0\0\x02\x08\x01", [STATUS], False, "no valid answer"),
    ],
)
async def test_grpc(
    stage: Stage, payload: bytes, status: list[tuple[str, str]], is_up: bool, text: str
) -> None:
    async def answer(connection: Http2AtOrigin, one: Asked) -> None:
        await connection.head(one, ("content-type", "application/grpc"))
        if payload:
            await connection.data(one, payload)
        await connection.trailers(one, *status)

    server, [request] = await checked(stage, answer, service="a.v1.Agents")
    assert server.is_healthy is is_up
    assert text in server.last_check
    assert request.get(":path") == "/grpc.health.v1.Health/Check"
    assert request.get("te") == "trailers"
    assert request.get("content-type") == "application/grpc"
    assert request.body == message(b"\x0a\x0ba.v1.Agents")


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ([("grpc-status", "12")], 200, "it does not have grpc.health.v1"),
        ([("grpc-status", "5")], 200, "gRPC status 5"),
        ([], 404, "404, expected 200"),
    ],
)
async def test_an_answer_without_messages(
    stage: Stage, fields: list[tuple[str, str]], status: int, text: str
) -> None:
    async def answer(connection: Http2AtOrigin, one: Asked) -> None:
        await connection.head(one, *fields, status=status, ends=True)

    server, [request] = await checked(stage, answer)
    assert not server.is_healthy
    assert text in server.last_check
    assert request.body == message(b"")


@pytest.mark.parametrize(("status", "is_up"), [(200, True), (503, False)])
async def test_a_page_by_http2(stage: Stage, status: int, is_up: bool) -> None:
    async def answer(connection: Http2AtOrigin, one: Asked) -> None:
        await connection.head(one, ("x-hermes-load", "3"), status=status)
        await connection.data(one, b"fine", ends=True)

    health = {"probe": "http", "path": "/live", "expect_body": "fine"}
    server, [request] = await checked(stage, answer, **health)
    assert server.is_healthy is is_up
    assert str(status) in server.last_check
    assert request.get(":path") == "/live"
    assert request.get("user-agent") == "hermes-lb-check"


async def test_a_reset_fails_the_check(stage: Stage) -> None:
    async def answer(connection: Http2AtOrigin, one: Asked) -> None:
        await connection.reset(one, 2)

    server, _ = await checked(stage, answer)
    assert not server.is_healthy
    assert "reset with error 2" in server.last_check


async def test_a_server_of_http11_fails_the_check(stage: Stage) -> None:
    origin = await stage.serving()
    server = await verdict_of(stage, origin.address, timeout="500ms")
    assert not server.is_healthy
    assert server.last_check


def test_it_needs_the_protocol() -> None:
    servers = [{"name": "a", "address": "a:1"}]
    with pytest.raises(ValueError, match='a check by gRPC needs protocol = "h2"'):
        Backend.model_validate({"health": {"probe": "grpc"}, "servers": servers})


def test_no_proxy_header() -> None:
    servers = [{"name": "a", "address": "a:1"}]
    with pytest.raises(ValueError, match="a connection is shared by all clients"):
        Backend.model_validate({"protocol": "h2", "proxy_protocol": "v2", "servers": servers})
