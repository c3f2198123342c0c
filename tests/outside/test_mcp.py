"""The MCP Python SDK: its client, the balancer, and its server, in both eras of the protocol.

Up to 2025-11-25 a client opens a session, which the server names in `Mcp-Session-Id`; from
2026-07-28 on there are no sessions, and each request stands for itself.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import documented
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


def called(lb: LoadBalancer, session: str, method: str, params: str = "{}") -> bytes:
    """A request in this session by someone who only knows its id."""
    body = f'{{"jsonrpc": "2.0", "id": 9, "method": "{method}", "params": {params}}}'
    return request(
        "POST", "/mcp", f"Host: {lb.url.removeprefix('http://')}",
        f"Mcp-Session-Id: {session}", "MCP-Protocol-Version: 2025-11-25",
        "Content-Type: application/json", "Accept: application/json, text/event-stream",
        body=body.encode(),
    )  # fmt: skip


async def post(stage: Stage, lb: LoadBalancer, session: str) -> Message:
    client = await stage.client(lb)
    await client.send(called(lb, session, "tools/list"))
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


# Both eras at once, by the example in docs/operations.md.


def example(**ports: int) -> dict[str, Any]:
    """The configuration of the page, with these servers; `ports` by backend."""
    config = documented.example("operations.md", "### MCP\n")
    config["frontends"][0]["bind"] = "127.0.0.1:0"
    assert config["backends"].keys() == ports.keys()
    del config["backends"]["sessions"]["health"]  # at the end these servers stop first
    for name, port in ports.items():
        config["backends"][name]["servers"] = [{"name": "a", "address": f"127.0.0.1:{port}"}]
    return config


@pytest.fixture
async def eras(
    stage: Stage, tools: ToolServer
) -> AsyncIterator[tuple[LoadBalancer, ToolServer, ToolServer]]:
    """A balancer; the servers of `calls` and of `sessions`."""
    from tests.outside.mcp_server import ToolServer, serving_tools

    sessions = ToolServer()
    async with serving_tools(tools) as one, serving_tools(sessions) as two:
        yield await stage.start(example(calls=one, sessions=two)), tools, sessions


async def test_each_era_has_its_route(eras: Any) -> None:
    lb, calls, sessions = eras
    async with User().client(lb) as new, User().client(lb, mode="legacy") as old:
        await asyncio.gather(counts(new, calls), counts(old, sessions))
    assert {seen.session for seen in calls.seen} == {None}
    assert {seen.method for seen in calls.seen} == {"POST"}
    # `initialize` comes without a session, and without a version.
    assert [seen.session is None for seen in sessions.seen] == [True] + [False] * (
        len(sessions.seen) - 1
    )
    assert sessions.seen[-1].method == "DELETE"


async def test_to_leave_is_to_cancel_in_one_era_only(stage: Stage, eras: Any) -> None:
    lb, calls, sessions = eras
    server = lb.pools["sessions"].servers[0]
    async with User().client(lb, mode="legacy") as old:
        await old.list_tools()
        session = sessions.seen[-1].session
        lost = await stage.client(lb)
        await lost.send(
            called(lb, session, "tools/call", '{"name": "count", "arguments": {"to": 2}}')
        )
        before = len(sessions.seen)
        await eventually(lambda: len(sessions.seen) > before)  # the response has begun
        running = server.in_flight
        lost.close()
        await eventually(
            lambda: "detached" in {row["kind"] for row in lb._plane.running_sessions()}
        )
        assert server.in_flight == running
        sessions.go_on()
        await eventually(lambda: server.in_flight < running)
        async with User().client(lb) as new, asyncio.TaskGroup() as group:
            call = group.create_task(new.call_tool("wait"))
            await eventually(calls.is_waiting.is_set)
            call.cancel()
            await eventually(calls.was_cancelled.is_set)


async def test_a_tool_has_its_server(stage: Stage) -> None:
    """By `Mcp-Name`, and what names nothing by `Mcp-Method`."""
    from tests.outside.mcp_server import ToolServer, serving_tools

    async with AsyncExitStack() as stack:
        servers = [ToolServer() for _ in range(3)]
        ports = [await stack.enter_async_context(serving_tools(one)) for one in servers]
        rules = [{"on": "header:Mcp-Name"}, {"on": "header:Mcp-Method"}]
        lb = await stage.balancer(*ports, backend={"stick": rules})
        for one in servers:
            one.go_on()
        for _ in range(4):
            async with User().client(lb, mode="2026-07-28") as client:
                result = await client.call_tool("count", {"to": 2})
                assert result.structured_content == {"result": 2}
        assert sorted(len(one.names) for one in servers) == [0, 0, 4]


@asynccontextmanager
async def two_that_die(
    stage: Stage, on_lost: str
) -> AsyncIterator[tuple[LoadBalancer, dict[ToolServer, AsyncExitStack]]]:
    """A balancer, and its servers, each with what ends it."""
    from tests.outside.mcp_server import ToolServer, serving_tools

    async with AsyncExitStack() as stack:
        servers = {ToolServer(): await stack.enter_async_context(AsyncExitStack()) for _ in "ab"}
        ports = [
            await life.enter_async_context(serving_tools(one)) for one, life in servers.items()
        ]
        rule = {"on": "header:Mcp-Session-Id", "learn": True, "on_lost": on_lost}
        yield await stage.balancer(*ports, backend={"stick": [rule], "retries": 0}), servers


async def list_twice(lb: LoadBalancer, servers: dict[ToolServer, AsyncExitStack]) -> int:
    """The sessions that it takes, if the server of the first one dies between.

    The SDK does not begin a session by itself: it reports a 404 in a session, and no other status,
    as its end, and the program around it begins another one, as the specification has it.
    """
    for begun in count(1):
        async with User().client(lb, mode="legacy") as client:
            try:
                await client.list_tools()
                if begun == 1:
                    [home] = [server for server in servers if server.seen]
                    await servers[home].aclose()
                await client.list_tools()
            except mcp.MCPError as error:
                if str(error) != "Session terminated":
                    raise
            else:
                return begun
    raise AssertionError


async def test_a_client_whose_server_has_died_begins_another_session(stage: Stage) -> None:
    async with two_that_die(stage, "404") as (lb, servers):
        assert await list_twice(lb, servers) == 2
        assert all({seen.session for seen in server.seen} > {None} for server in servers)


async def test_with_a_503_it_does_not_know_that_its_session_has_ended(stage: Stage) -> None:
    async with two_that_die(stage, "strict") as (lb, servers):
        with pytest.raises(BaseExceptionGroup) as lost:
            await list_twice(lb, servers)
    assert lost.group_contains(mcp.MCPError, match="Server returned an error response")
