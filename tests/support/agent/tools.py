"""A context for a tool call, and unavailable stores."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agent_worker.storage.base import StorageUnavailable
from agent_worker.tools import ToolContext

SESSION = "session-number-one"


def context(*, principal: str = "user:ann", session_id: str = SESSION, call: str = "1.0") -> Any:
    return ToolContext(
        notes={},
        now=lambda: datetime(2025, 3, 1, 12, tzinfo=UTC),
        principal=principal,
        session_id=session_id,
        idempotency_key=f"{session_id}.{call}",
    )


class Away:
    """Any store; unavailable."""

    def __getattr__(self, name: str) -> Any:
        async def unavailable(*args: Any, **options: Any) -> Any:
            raise StorageUnavailable

        return unavailable
