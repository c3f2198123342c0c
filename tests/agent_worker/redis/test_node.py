"""One server's connections: what is asked of it while it is being closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agent_worker.sessions.node import Node, Unreachable
from agent_worker.sessions.redis_url import read_url

if TYPE_CHECKING:
    from agent_worker.redis_server import RedisServer


async def test_what_is_asked_while_the_node_closes_is_not_sent(calm_server: RedisServer) -> None:
    url = read_url(calm_server.url)
    [(host, port)] = url.addresses
    node = Node({**url.settings, "host": host, "port": port})
    assert await node.ask(("PING",)) == ["PONG"]
    # The idle connection is taken after `aclose` has chosen it, and before it is disconnected.
    _, asked = await asyncio.gather(node.aclose(), node.ask(("PING",)), return_exceptions=True)
    assert isinstance(asked, Unreachable)
    with pytest.raises(Unreachable):
        await node.ask(("PING",))
