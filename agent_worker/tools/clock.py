"""The clock. A conversation depends on the time only through the recorded result of this tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_worker.tools.base import Effect, ToolSpec

if TYPE_CHECKING:
    from agent_worker.tools.base import ToolContext


class Clock:
    spec = ToolSpec("clock", "The current date and time in UTC", Effect.READ)

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        """For example "2025-03-01 12:30:05 UTC"."""
        return context.now().strftime("%Y-%m-%d %H:%M:%S UTC")
