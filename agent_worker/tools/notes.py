"""Named notes in the session. A note is committed with the step that sets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_worker.tools.base import Effect, ToolError, ToolSpec, text_argument, texts

if TYPE_CHECKING:
    from agent_worker.tools.base import ToolContext

# Each step that changes a note rewrites all of them: at most about 32 KB.
MAX_NOTES = 32
MAX_NAME = 64
MAX_VALUE = 1000


class NoteSet:
    spec = ToolSpec(
        "note_set",
        "Keep a text under a name in this session",
        Effect.IDEMPOTENT,
        texts("name", "value"),
    )

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        name = text_argument(arguments, "name", limit=MAX_NAME)
        value = text_argument(arguments, "value", limit=MAX_VALUE)
        if name not in context.notes and len(context.notes) >= MAX_NOTES:
            raise ToolError(f"there are {MAX_NOTES} notes already")
        context.notes[name] = value
        return value


class NoteGet:
    spec = ToolSpec(
        "note_get", "The text kept under a name in this session", Effect.READ, texts("name")
    )

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        name = text_argument(arguments, "name", limit=MAX_NAME)
        if name not in context.notes:
            raise ToolError(f"there is no note {name!r}")
        return context.notes[name]
