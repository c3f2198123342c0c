"""Tools for what the agent remembers of its principal across sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_worker.storage.base import StorageUnavailable
from agent_worker.tools.base import Effect, ToolError, ToolSpec, text_argument, texts

if TYPE_CHECKING:
    from agent_worker.storage.base import LongTermMemory
    from agent_worker.tools.base import ToolContext

# About a page; hashing it blocks the event loop for a few milliseconds.
MAX_TEXT = 2000
MAX_QUERY = 500
_AWAY = "the memory is unavailable"


class MemorySave:
    spec = ToolSpec(
        "memory_save", "Remember a text for later sessions", Effect.IDEMPOTENT, texts("text")
    )

    def __init__(self, memory: LongTermMemory) -> None:
        self._memory = memory

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        text = text_argument(arguments, "text", limit=MAX_TEXT)
        try:
            # By the call's key, so that a second attempt does not add another memory.
            await self._memory.remember(context.principal, context.idempotency_key, text)
        except StorageUnavailable:
            raise ToolError(f"{_AWAY}; the text may not have been saved") from None
        return "saved"


class MemorySearch:
    spec = ToolSpec(
        "memory_search",
        "The remembered texts nearest to a query, each after its similarity (1 is the same)",
        Effect.READ,
        texts("query"),
    )

    def __init__(self, memory: LongTermMemory) -> None:
        self._memory = memory

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        query = text_argument(arguments, "query", limit=MAX_QUERY)
        try:
            found = await self._memory.recall(context.principal, query)
        except StorageUnavailable:
            raise ToolError(_AWAY) from None
        lines = [f"{memory.score:.2f} {memory.text}" for memory in found]
        return "\n".join(lines) or "nothing is remembered"
