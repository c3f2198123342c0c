"""A worker's turns without HTTP, on any store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agent_worker.metrics import Metrics
from agent_worker.runtime import AgentLoop, LargeTexts, Notifier, ToolCalls, TurnRequest, Turns
from agent_worker.runtime.holders import Holders
from agent_worker.storage.base import Storages
from agent_worker.tools import default_toolbox
from tests.support.agent.sessions import ME

if TYPE_CHECKING:
    from agent_worker.sessions import Event, SessionBackend, SessionStore
    from agent_worker.tools import Toolbox


class Harness:
    """A worker's turns without HTTP; events are collected."""

    def __init__(
        self,
        backend: SessionBackend,
        store: SessionStore,
        engine: Any,
        toolbox: Toolbox | None = None,
        *,
        has_archive: bool = False,
    ) -> None:
        self.metrics = Metrics()
        toolbox = toolbox or default_toolbox(Storages())
        calls = ToolCalls(toolbox, self.metrics, LargeTexts(None))
        self.notifier = Notifier(backend)
        self.turns = Turns(
            store,
            AgentLoop(engine, calls, self.metrics),
            self.notifier,
            Holders(backend, store.index, self.notifier),
            self.metrics,
            window=10_000,
            has_archive=has_archive,
        )
        self.events: list[Event] = []

    async def emit(self, event: Event) -> None:
        self.events.append(event)

    async def turn(self, sid: str, content: str, key: str | None = None, **how: Any) -> Any:
        async with self.turns.open(TurnRequest(sid, ME, content, key, **how)) as turn:
            return await turn.run(self.emit)

    def text(self) -> str:
        said = [json.loads(e.data) for e in self.events if e.name == "message.delta"]
        return "".join(data["content"] for data in said)

    def last(self) -> tuple[str, Any]:
        """Name and data of the last event."""
        return self.events[-1].name, json.loads(self.events[-1].data)

    def ended(self, outcome: str) -> float:
        value = self.metrics.registry.get_sample_value("hermes_turns_total", {"outcome": outcome})
        return value or 0.0

    def active(self) -> float | None:
        return self.metrics.registry.get_sample_value("hermes_active_sessions")
