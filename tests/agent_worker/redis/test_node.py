"""The connections of a server: requests while it is being closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from agent_worker.sessions.node import Node, Unreachable
from agent_worker.sessions.redis_url import read_url

if TYPE_CHECKING:
    from agent_worker.redis_server import RedisServer


async def test_what_is_asked_while_the_node_closes_is_not_sent(calm_server: RedisServer) -> None:
    url = read_url(calm_server.url)
    [(host, port)] = url.addresses
    node = Node({**url.settings, "host": host, "port": port})
    assert await node.ask(("PING",)) == ["PONG"]
    # The idle connection is acquired after `aclose` has chosen it, before it is disconnected.
    _, asked = await asyncio.gather(node.aclose(), node.ask(("PING",)), return_exceptions=True)
    assert isinstance(asked, Unreachable)
    with pytest.raises(Unreachable):
        await node.ask(("PING",))


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_transport_that_uvloop_has_closed_is_a_lost_connection(
    calm_server: RedisServer, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    url = read_url(calm_server.url)
    [(host, port)] = url.addresses
    node = Node({**url.settings, "host": host, "port": port})
    if not is_new:
        assert await node.ask(("PING",)) == ["PONG"]

    async def closed(connection: Any, command: Any) -> None:
        monkeypatch.undo()
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

    monkeypatch.setattr(AbstractConnection, "_send_packed_command", closed)
    with pytest.raises(
        Unreachable if is_new else redis_errors.ConnectionError, match="closed=True"
    ):
        await node.ask(("PING",))
    assert await node.ask(("PING",)) == ["PONG"]  # on another connection
    await node.aclose()
