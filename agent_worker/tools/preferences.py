"""Tools for the principal's settings, which apply to all of its sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_worker.storage.base import StorageUnavailable
from agent_worker.tools.base import Effect, ToolError, ToolSpec, text_argument, texts

if TYPE_CHECKING:
    from agent_worker.storage.base import Preferences
    from agent_worker.tools.base import ToolContext

# All of them are read at once: at most about 64 KB. Concurrent calls may add a few more.
MAX_PREFERENCES = 64
MAX_NAME = 64
MAX_VALUE = 1000
_AWAY = "the preferences are unavailable"


class PreferenceSet:
    spec = ToolSpec(
        "preference_set",
        "Keep a setting of the user under a name, for all sessions",
        Effect.IDEMPOTENT,
        texts("name", "value"),
    )

    def __init__(self, preferences: Preferences) -> None:
        self._preferences = preferences

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        name = text_argument(arguments, "name", limit=MAX_NAME)
        value = text_argument(arguments, "value", limit=MAX_VALUE)
        try:
            known = await self._preferences.all(context.principal)
            if name not in known and len(known) >= MAX_PREFERENCES:
                raise ToolError(f"there are {MAX_PREFERENCES} preferences already")
            await self._preferences.set(context.principal, name, value)
        except StorageUnavailable:
            raise ToolError(f"{_AWAY}; the setting may not have been saved") from None
        return value


class PreferenceGet:
    spec = ToolSpec(
        "preference_get",
        "The setting of the user kept under a name; without a name, all of them",
        Effect.READ,
        {"type": "object", "properties": {"name": {"type": "string"}}},
    )

    def __init__(self, preferences: Preferences) -> None:
        self._preferences = preferences

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        name = text_argument(arguments, "name", limit=MAX_NAME) if "name" in arguments else None
        try:
            known = await self._preferences.all(context.principal)
        except StorageUnavailable:
            raise ToolError(_AWAY) from None
        if name is None:
            lines = [f"{kept} = {value}" for kept, value in sorted(known.items())]
            return "\n".join(lines) or "there are no preferences yet"
        if name not in known:
            raise ToolError(f"there is no preference {name!r}")
        return known[name]
