"""The MCP Python SDK: its client, the balancer, and its server, in both eras of the protocol.

Up to 2025-11-25 a client opens a session, which the server names in `Mcp-Session-Id`; from
2026-07-28 on there are no sessions, and each request stands for itself.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http_peer import Message, request
from tests.support.needs import needs_package
from tests.support.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb import LoadBalancer
    from tests.outside.mcp_server import ToolServer
    from tests.support.stage import Stage

mcp = needs_package("mcp", "server.mcpserver", "types")


@pytest.fixture
async def tools() -> ToolServer:
    from tests.outside.mcp_server import ToolServer

    return ToolServer()


@pytest.fixture
async def lb(stage: Stage, tools: ToolServer) -> AsyncIterator[LoadBalancer]:
    from tests.outside.mcp_server import serving_tools

    async with serving_tools(tools) as port:
        yield await stage.balancer(port)


class User:
    """What reaches the client's side of a session."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.notified: list[str] = []

    async def is_asked(self, context: Any, params: Any) -> Any:
        self.asked.append(params.message)
        return mcp.types.ElicitResult(action="accept", content={"name": "Ada"})

    async def is_notified(self, message: Any) -> None:
        self.notified.append(message.method)

    def client(self, lb: LoadBalancer, **options: Any) -> Any:
        return mcp.Client(
            f"{lb.url}/mcp",
            elicitation_callback=self.is_asked,
            message_handler=self.is_notified,
            read_timeout_seconds=PATIENCE,
            **options,
        )


async def counts(client: Any, tools: ToolServer) -> None:
    """Each step is reported at once: the server waits until the client has got the first."""
    steps = []

    async def is_told(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total, message))
        tools.go_on()

    result = await client.call_tool("count", {"to": 3}, progress_callback=is_told)
    assert steps == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
    assert result.structured_content == {"result": 3}


async def post(stage: Stage, lb: LoadBalancer, session: str) -> Message:
    """A request in this session by someone who only knows its id."""
    client = await stage.client(lb)
    await client.send(
        request(
            "POST", "/mcp", f"Host: {lb.url.removeprefix('http://')}",
            f"Mcp-Session-Id: {session}", "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            body=b'{"jsonrpc": "2.0", "id": 9, "method": "tools/list"}',
        )
    )  # fmt: skip
    return await client.read_response()


async def test_a_session_from_initialize_to_delete(
    stage: Stage, lb: LoadBalancer, tools: ToolServer
) -> None:
    user = User()
    async with user.client(lb, mode="legacy") as client:
        assert client.protocol_version == "2025-11-25"
        assert client.server_info.name == "tools"
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == ["count", "greet", "wait"]

        await counts(client, tools)

        # Messages that do not answer a request come on a GET of its own.
        await eventually(lambda: [seen.status for seen in tools.seen if seen.method == "GET"])
        # The server asks in the middle of its answer, and the client's reply is another request.
        result = await client.call_tool("greet")
        assert result.content[0].text == "hello Ada"
        assert user.asked == ["Who are you?"]
        await eventually(lambda: user.notified[-1:] == ["notifications/tools/list_changed"])

        session = tools.seen[1].session
        assert session
        assert (await post(stage, lb, session)).status == 200

    # The session's id was on every request but the first, whose answer named it.
    assert [seen.session for seen in tools.seen] == [None] + [session] * (len(tools.seen) - 1)
    assert tools.seen[-1] == ("DELETE", session, 200)
    assert {seen.status for seen in tools.seen} == {200, 202}
    assert (await post(stage, lb, session)).status == 404


async def test_two_clients_have_a_session_each(lb: LoadBalancer, tools: ToolServer) -> None:
    async with (
        User().client(lb, mode="legacy") as one,
        User().client(lb, mode="legacy") as other,
    ):
        await asyncio.gather(one.list_tools(), other.list_tools())
    sessions = {seen.session for seen in tools.seen if seen.session is not None}
    assert len(sessions) == 2
    assert {seen.session for seen in tools.seen if seen.method == "DELETE"} == sessions


async def test_without_sessions(lb: LoadBalancer, tools: ToolServer) -> None:
    async with User().client(lb) as client:
        assert client.protocol_version == "2026-07-28"
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == ["count", "greet", "wait"]
        await counts(client, tools)
    assert {(seen.method, seen.session, seen.status) for seen in tools.seen} == {
        ("POST", None, 200)
    }


async def test_changes_are_reported_to_a_client_that_listens(
    lb: LoadBalancer, tools: ToolServer
) -> None:
    async with (
        User().client(lb) as client,
        User().client(lb, mode="legacy") as other,
        client.listen(tools_list_changed=True) as changes,
    ):
        await other.call_tool("greet")
        async with asyncio.timeout(PATIENCE):
            change = await anext(aiter(changes))
    assert type(change).__name__ == "ToolsListChanged"


@asynccontextmanager
async def a_fleet(stage: Stage, redis_url: str | None) -> AsyncIterator[LoadBalancer]:
    """Three servers, each with sessions of its own; two balancers before them; one before those."""
    from tests.outside.mcp_server import ToolServer, serving_tools

    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(serving_tools(ToolServer())) for _ in range(3)]
        rule = {"on": "header:Mcp-Session-Id", "learn": True}
        backend = {"stick": [rule], "pins": {"redis": redis_url} if redis_url else {}}
        names = [{"name": f"agent{n}"} for n in (1, 2, 3)]
        one = await stage.balancer(*ports, backend=backend, each=names)
        # In another order, or both would pick the same servers by themselves.
        two = await stage.balancer(*ports[::-1], backend=backend, each=names[::-1])
        ports = [int(lb.url.rpartition(":")[2]) for lb in (one, two)]
        yield await stage.balancer(*ports, backend={"keep_alive": 0})


async def test_two_balancers_over_one_redis_agree_where_a_session_lives(stage: Stage) -> None:
    redis_server = pytest.importorskip("agent_worker.redis_server")
    with redis_server.RedisServer.start() as redis:
        async with a_fleet(stage, redis.url) as lb:
            for _ in range(3):
                user = User()
                async with user.client(lb, mode="legacy") as client:
                    for _ in range(4):
                        assert (await client.list_tools()).tools
                    assert (await client.call_tool("greet")).content[0].text == "hello Ada"


async def ask_often(lb: LoadBalancer) -> None:
    async with User().client(lb, mode="legacy") as client:
        for _ in range(12):
            await client.list_tools()


async def test_two_balancers_that_do_not_share_lose_it(stage: Stage) -> None:
    async with a_fleet(stage, None) as lb:
        with pytest.raises(BaseExceptionGroup) as lost:
            await ask_often(lb)
    assert lost.group_contains(mcp.MCPError)


@pytest.mark.row(32)
async def test_a_call_that_is_given_up_is_cancelled_at_the_server(
    lb: LoadBalancer, tools: ToolServer
) -> None:
    async with User().client(lb) as client:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(client.call_tool("wait"))
            await eventually(tools.is_waiting.is_set)
            # In this era there is no word for it: the client closes the response.
            call.cancel()
        await eventually(tools.was_cancelled.is_set)
        # And its connection is good for more.
        assert (await client.list_tools()).tools
