"""The MCP SDK in both eras, on a route whose requests are turns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.outside.test_mcp import User, counts
from tests.outside.turn_fleet import Fleet, two_balancers
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.outside.mcp_server import ToolServer
    from tests.support.stage import Stage


@pytest.fixture
async def tools() -> ToolServer:
    from tests.outside.mcp_server import ToolServer

    return ToolServer()


@pytest.fixture
async def port(tools: ToolServer) -> AsyncIterator[int]:
    from tests.outside.mcp_server import serving_tools

    async with serving_tools(tools) as port:
        yield port


async def uses_all(fleet: Fleet, tools: ToolServer, version: str, **options: Any) -> None:
    user = User()
    async with user.client(fleet.one, **options) as client:
        assert client.protocol_version == version
        await counts(client, tools)
        if version < "2026":  # later, a server can't ask in the middle of its answer
            result = await client.call_tool("greet")
            assert result.content[0].text == "hello Ada"
            assert user.asked == ["Who are you?"]


async def test_up_to_2025_a_lost_connection_is_no_cancel(
    stage: Stage, tmp_path: Path, store_url: str, tools: ToolServer, port: int
) -> None:
    fleet = await two_balancers(stage, tmp_path, store_url, port, principal="client")
    await uses_all(fleet, tools, "2025-11-25", mode="legacy")
    assert {seen.status for seen in tools.seen} <= {200, 202}


async def test_from_2026_on_closing_the_stream_is_the_cancel(
    stage: Stage, tmp_path: Path, store_url: str, tools: ToolServer, port: int
) -> None:
    fleet = await two_balancers(
        stage, tmp_path, store_url, port,
        route={"on_disconnect": "abort"}, principal="client", idempotency="off",
    )  # fmt: skip
    await uses_all(fleet, tools, "2026-07-28")
    async with User().client(fleet.two) as client:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(client.call_tool("wait"))
            await eventually(tools.is_waiting.is_set)
            call.cancel()
        await eventually(tools.was_cancelled.is_set)
