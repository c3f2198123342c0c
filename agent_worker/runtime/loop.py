"""The agent loop: the model speaks or calls tools, until it is done or the step limit is met.

It knows neither HTTP nor Redis: `LoopPort` takes its events and its finished steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from agent_worker.errors import EngineFailed
from agent_worker.models import TextDelta, ToolCall
from agent_worker.runtime.events import MESSAGE_DELTA, TOOL_COMPLETED, TOOL_STARTED
from agent_worker.tasks import cancel_and_wait, spawn
from agent_worker.tools import ToolContext, ToolError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from agent_worker.metrics import Metrics
    from agent_worker.models import Engine
    from agent_worker.sessions import Message
    from agent_worker.tools import Toolbox

log = logging.getLogger(__name__)


class LoopPort(Protocol):
    """Where a running turn puts what it brings forth."""

    async def emit(self, name: str, data: dict[str, Any]) -> None: ...

    async def commit(
        self,
        messages: Sequence[Message],
        *,
        ends_turn: bool,
        is_final: bool,
        notes: dict[str, str] | None,
    ) -> None:
        """Keep a finished step. `notes` is None when the step changed none."""
        ...


@dataclass(frozen=True, slots=True)
class AgentLoop:
    engine: Engine
    toolbox: Toolbox
    metrics: Metrics
    step_limit: int = 16
    tool_timeout_s: float = 30.0
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def run(self, port: LoopPort, history: list[Message], notes: dict[str, str]) -> None:
        """Run steps until one ends the turn. Appends to `history`; changes `notes`.

        A step is kept as a whole (its text, its calls and their results in one commit), so the
        history never has a call without its result. Raises EngineFailed, and what `port` raises.
        """
        for number in range(1, self.step_limit + 1):
            text, calls = await self._model_step(port, history)
            messages = [_assistant_message(text, calls)]
            before = dict(notes)
            messages += await self._run_tools(port, calls, notes)
            history += messages
            ends_turn = not calls or number == self.step_limit
            await port.commit(
                messages,
                ends_turn=ends_turn,
                is_final=not calls,
                notes=notes if notes != before else None,
            )
            self.metrics.steps.inc()
            if ends_turn:
                return

    async def _model_step(
        self, port: LoopPort, history: Sequence[Message]
    ) -> tuple[str, list[ToolCall]]:
        parts: list[str] = []
        calls: list[ToolCall] = []
        async with contextlib.aclosing(self.engine.step(history, self.toolbox.specs)) as stream:
            while (item := await _next_item(stream)) is not None:
                if isinstance(item, TextDelta):
                    parts.append(item.text)
                    self.metrics.tokens.inc()
                    await port.emit(MESSAGE_DELTA, {"content": item.text})
                else:
                    calls.append(item)
        return "".join(parts), calls

    async def _run_tools(
        self, port: LoopPort, calls: Sequence[ToolCall], notes: dict[str, str]
    ) -> list[Message]:
        context = ToolContext(notes=notes, now=self.now)
        running = [
            spawn(self._run_tool(port, call, context), name=f"tool {call.name}") for call in calls
        ]
        try:
            return await asyncio.gather(*running)
        except BaseException:
            # gather leaves the others running when one fails.
            await cancel_and_wait(*running)
            raise

    async def _run_tool(self, port: LoopPort, call: ToolCall, context: ToolContext) -> Message:
        about = {"tool_call_id": call.id, "name": call.name}
        await port.emit(TOOL_STARTED, {**about, "arguments": call.arguments})
        outcome, text = await self._tool_result(call, context)
        # A model can make up any number of names; a metric must not follow it.
        label = call.name if call.name in self.toolbox else "unknown"
        self.metrics.tool_calls.labels(label, outcome).inc()
        await port.emit(TOOL_COMPLETED, {**about, "ok": outcome == "ok", "result": text})
        content = text if outcome == "ok" else f"error: {text}"
        return {"role": "tool", "content": content, "tool_call_id": call.id, "name": call.name}

    async def _tool_result(self, call: ToolCall, context: ToolContext) -> tuple[str, str]:
        try:
            tool = self.toolbox.get(call.name)
            async with asyncio.timeout(self.tool_timeout_s):
                return "ok", await tool.run(call.arguments, context)
        except ToolError as error:
            return "error", str(error)
        except TimeoutError:
            return "timeout", f"no result within {self.tool_timeout_s:g} s"
        except Exception:
            log.exception("tool %s failed", call.name)
            return "error", "the tool failed"


async def _next_item(
    stream: AsyncGenerator[TextDelta | ToolCall, None],
) -> TextDelta | ToolCall | None:
    """The next item, None at the end. Raises EngineFailed."""
    try:
        return await anext(stream, None)
    except Exception as error:
        log.exception("the engine failed")
        raise EngineFailed from error


def _assistant_message(text: str, calls: Sequence[ToolCall]) -> Message:
    message: Message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls
        ]
    return message
