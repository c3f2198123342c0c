"""An MCP server made with the Python SDK, and what it has seen of its clients."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from tests.outside.asgi import serving_asgi
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Seen(NamedTuple):
    """An HTTP request whose answer has begun."""

    method: str
    session: str | None  # its Mcp-Session-Id
    status: int


class Name(BaseModel):
    name: str


class ToolServer:
    """Three tools: one makes progress, one asks the user, one waits until it is cancelled."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.names: list[str] = []  # the `Mcp-Name` of requests, if they have one
        self.is_waiting = threading.Event()
        self.was_cancelled = threading.Event()
        self._goes_on = threading.Event()

    def build(self) -> MCPServer[None]:
        server: MCPServer[None] = MCPServer("tools", version="1", log_level="WARNING")
        for tool in (self.count, self.greet, self.wait):
            server.add_tool(tool)
        return server

    def go_on(self) -> None:
        self._goes_on.set()

    async def count(self, to: int, ctx: Context) -> int:
        """Count, and wait after the first step until the test lets it go on."""
        for step in range(1, to + 1):
            await ctx.report_progress(step, to, f"step {step}")
            assert await asyncio.to_thread(self._goes_on.wait, PATIENCE), "nobody let it go on"
        return to

    async def greet(self, ctx: Context) -> str:
        """Ask the user for a name, and tell everyone that the tools have changed."""
        answer = await ctx.elicit("Who are you?", Name)
        await ctx.session.send_tool_list_changed()
        await ctx.notify_tools_changed()
        return f"hello {answer.data.name}" if answer.action == "accept" else answer.action

    async def wait(self, ctx: Context) -> str:
        """Say that it is there, and wait for ever."""
        await ctx.report_progress(1)
        self.is_waiting.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        return "never"

    def watched(self, app: ASGIApp) -> ASGIApp:
        async def watch(scope: Scope, receive: Receive, send: Send) -> None:
            async def told(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = {name.lower(): value for name, value in scope["headers"]}
                    session = headers.get(b"mcp-session-id")
                    if (name := headers.get(b"mcp-name")) is not None:
                        self.names.append(name.decode())
                    self.seen.append(
                        Seen(scope["method"], session and session.decode(), int(message["status"]))
                    )
                await send(message)

            await app(scope, receive, told)

        return watch


@asynccontextmanager
async def serving_tools(tools: ToolServer) -> AsyncIterator[int]:
    """Serve with streamable HTTP and sessions, at /mcp -> the port."""
    async with serving_asgi(tools.watched(tools.build().streamable_http_app())) as port:
        yield port
