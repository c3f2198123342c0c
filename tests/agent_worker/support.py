"""Shared by the worker's tests: controllable engines and tools, running workers, SSE reading."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from agent_worker.app import Worker, build_runner
from agent_worker.models import StepRequest, TextDelta
from agent_worker.tools import Effect, ToolSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    import aiohttp

SESSIONS = "/api/agent/sessions"


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


@dataclass
class RunningWorker:
    worker: Worker
    url: str
    runner: web.AppRunner = field(repr=False)

    @classmethod
    async def start(cls, worker: Worker) -> RunningWorker:
        runner = build_runner(worker)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        return cls(worker, f"http://127.0.0.1:{port}", runner)

    def sessions(self, *parts: str) -> str:
        return "/".join([self.url + SESSIONS, *parts])


@dataclass(frozen=True)
class Event:
    id: str
    name: str
    data: Any


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events of a stream. Strict: exactly the lines of the worker's format."""
    while True:
        lines = []
        while (line := await response.content.readline()) != b"\n":
            if not line:
                assert not lines, "the stream ended inside an event"
                return
            lines.append(line.decode().rstrip("\n"))
        if lines == [": keep-alive"]:
            continue
        names, values = zip(*(line.split(": ", 1) for line in lines), strict=True)
        if names[0] != "id":  # it is not in the log
            names, values = ("id", *names), ("", *values)
        assert names == ("id", "event", "data")
        yield Event(values[0], values[1], json.loads(values[2]))


async def all_events(response: aiohttp.ClientResponse) -> list[Event]:
    return [event async for event in read_events(response)]


def deltas(events: Sequence[Event]) -> str:
    return "".join(event.data["content"] for event in events if event.name == "message.delta")


def event_order(event_id: str) -> tuple[int, int]:
    fence, seq = event_id.split("-")
    return int(fence), int(seq)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition` (a function, plain or async) is true; the test's timeout bounds it."""
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return
        await asyncio.sleep(0.005)
