"""Servers at Unix sockets, and at IPv6 addresses."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import AtOrigin
from tests.support.loops import on_both_loops

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stage import Stage


@on_both_loops
async def test_a_connection_to_a_unix_socket_is_kept(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.origin(path=tmp_path / "agent.sock")
    client = await stage.client(await stage.balancer(origin))
    await client.get()
    at_origin = await origin.accept()
    for _ in range(2):
        await at_origin.read_request()
        await at_origin.serves(client, b"ok")
        await client.post(b"body")
    assert (await at_origin.read_request()).body == b"body"


async def test_nobody_at_a_unix_socket_is_said_with_its_path(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    lb = await stage.balancer(0, server={"address": f"unix:{path}"}, backend={"retries": 0})
    client = await stage.client(lb)
    assert (await client.ask()).status == 503
    line = await stage.log_line(lb)
    assert line.termination == "SC"
    assert f"agent1 at unix:{path}: No such file or directory" in line.reason


@on_both_loops
@pytest.mark.parametrize("backend", [{}, {"proxy_protocol": "v1"}], ids=["plain", "PROXY"])
async def test_a_unix_socket_that_takes_nobody_is_a_failed_connection(
    stage: Stage, tmp_path: Path, backend: dict[str, str]
) -> None:
    """Nothing was sent, so even a POST may go elsewhere; asyncio takes EAGAIN for "not yet"."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.connect(str(path))  # and the backlog is full
        lb = await stage.balancer(
            0, server={"address": f"unix:{path}"}, backend={"retries": 0, **backend}
        )
        client = await stage.client(lb)
        await client.post(b"once")
        assert (await client.read_response()).status == 503
    line = await stage.log_line(lb)
    assert line.termination == "SC"
    assert f"agent1 at unix:{path}: Resource temporarily unavailable" in line.reason


async def test_a_server_may_be_at_an_ipv6_address(stage: Stage) -> None:
    with socket.socket(socket.AF_INET6) as listener:
        try:
            listener.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 on this machine")
        listener.listen()
        listener.setblocking(False)
        port = listener.getsockname()[1]
        lb = await stage.balancer(0, server={"address": f"[::1]:{port}"})
        client = await stage.client(lb)
        await client.get()
        at_origin = AtOrigin((await asyncio.get_running_loop().sock_accept(listener))[0])
        await at_origin.read_request()
        await at_origin.serves(client, b"ok")
        at_origin.close()
