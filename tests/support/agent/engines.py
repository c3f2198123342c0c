"""Engines and tools that a test controls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_worker.models import StepRequest, TextDelta
from agent_worker.tools import Effect, ToolSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence


class GatedEngine:
    """Says "one ", waits until `gate` is set, says "two"."""

    can_continue = False

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.closed = asyncio.Event()
        self.steps = 0

    async def step(self, request: StepRequest) -> AsyncGenerator[Any, None]:
        self.steps += 1
        try:
            yield TextDelta("one ")
            self.started.set()
            await self.gate.wait()
            yield TextDelta("two")
        finally:
            self.closed.set()

    async def summarise(self, messages: Sequence[Any]) -> str:
        return "a summary"

    async def close(self) -> None:
        pass


class PlannedEngine:
    """Each step yields the next list of items; an exception among them is raised."""

    can_continue = False

    def __init__(self, *steps: list[Any]) -> None:
        self.steps = list(steps)
        self.requests: list[StepRequest] = []
        self.summarised: list[list[Any]] = []
        self.histories: list[list[Any]] = []

    async def step(self, request: StepRequest) -> AsyncGenerator[Any, None]:
        self.requests.append(request)
        self.histories.append(list(request.messages))
        for item in self.steps.pop(0):
            if isinstance(item, BaseException):
                raise item
            yield item

    async def summarise(self, messages: Sequence[Any]) -> str:
        self.summarised.append(list(messages))
        return f"summary of {len(messages)}"

    async def close(self) -> None:
        pass


@dataclass
class FunctionTool:
    """A tool that is one async function of (arguments, context)."""

    name: str
    function: Callable[..., Any]
    effect: Effect = Effect.READ

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(self.name, "for a test", self.effect)

    async def run(self, arguments: dict[str, Any], context: Any) -> str:
        return await self.function(arguments, context)
