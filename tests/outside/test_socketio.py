"""Socket.IO by long polling: each request of a session has to reach the server that opened it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from tests.support.documented import stick_rules
from tests.support.needs import needs_package
from tests.support.programs import is_ready, server_process
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

socketio = needs_package("socketio", "exceptions")

CLIENTS = 5
HANDSHAKE = "/socket.io/?EIO=4&transport=polling"


async def answered(stage: Stage, *, within: float = PATIENCE, **backend: Any) -> list[bool]:
    """Clients that poll, one after another -> which of them had all their messages answered."""
    name = "tests.outside.socketio_server"
    clients = [socketio.AsyncClient(reconnection=False) for _ in range(CLIENTS)]
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(server_process(name)) for _ in range(3)]
        async with ClientSession() as session:
            for server in servers:
                url = f"http://127.0.0.1:{server.port}{HANDSHAKE}"
                await until(lambda url=url: is_ready(session, url))
        lb = await stage.balancer(*(server.port for server in servers), backend=backend)
        found = [await talks(client, lb, within) for client in clients]
    # With its server each long poll has ended: `disconnect` alone would wait for that.
    for client in clients:
        await client.shutdown()
    return found


async def talks(client: Any, lb: LoadBalancer, within: float) -> bool:
    try:
        await client.connect(lb.url, transports=["polling"], wait_timeout=within)
        answers = [await client.call("echo", n, timeout=within) for n in range(4)]
    except (socketio.exceptions.ConnectionError, socketio.exceptions.TimeoutError):
        return False
    return answers == [0, 1, 2, 3]


@pytest.mark.slow
async def test_a_session_by_polling_stays_with_its_server(stage: Stage) -> None:
    assert await answered(stage, stick=stick_rules("chat")) == [True] * CLIENTS


@pytest.mark.slow
async def test_a_session_that_is_hashed_is_not_found(stage: Stage) -> None:
    """Its server creates the id: a hash can't find that server, but by chance."""
    assert not all(await answered(stage, within=1, stick=[{"on": "query:sid"}]))
