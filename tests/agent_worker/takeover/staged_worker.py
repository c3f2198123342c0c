r"""A worker process that stops at one moment of a turn, and reports that: to be killed there.

    python -m tests.agent_worker.takeover.staged_worker <redis url> <moment> <tool's file> \
        <once | read> <continues | rewinds>

A turn calls a tool, whose runs are lines of the file, and then reports. Moments: before-first,
amid-first, in-tool, between-steps, amid-last, behind-last, or none.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_worker.app import Worker, WorkerConfig
from agent_worker.models import StepRequest, TextDelta, ToolCall
from agent_worker.sessions import connect
from agent_worker.tools import Effect, Toolbox
from tests.support.agent.engines import FunctionTool
from tests.support.agent.running_worker import RunningWorker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

FIRST = ["I ", "look. "]
LAST = ["I ", "see ", "it."]
MOMENTS = (
    "before-first",
    "amid-first",
    "in-tool",
    "between-steps",
    "amid-last",
    "behind-last",
)


class Stage:
    def __init__(self, moment: str) -> None:
        self._moment = moment

    async def at(self, moment: str) -> None:
        if moment == self._moment:
            # The process does nothing more.
            print("standing still", flush=True)
            await asyncio.Event().wait()


class StagedEngine:
    def __init__(self, stage: Stage, *, can_continue: bool) -> None:
        self.can_continue = can_continue
        self._stage = stage

    async def step(self, request: StepRequest) -> AsyncGenerator[Any, None]:
        is_last = any(message["role"] == "tool" for message in request.messages)
        await self._stage.at("between-steps" if is_last else "before-first")
        words = LAST if is_last else FIRST
        told = request.prefix
        for number, word in enumerate(words):
            if told.startswith(word):
                told = told.removeprefix(word)
                continue
            yield TextDelta(word)
            if number == 0:
                await self._stage.at("amid-last" if is_last else "amid-first")
        if is_last:
            await self._stage.at("behind-last")
        else:
            yield ToolCall("c1", "look", {})

    async def summarise(self, messages: Sequence[Any]) -> str:
        return "a summary"

    async def close(self) -> None:
        pass


async def main(redis_url: str, moment: str, file: Path, effect: str, engine: str) -> None:
    stage = Stage(moment)

    async def look(arguments: dict[str, Any], context: Any) -> str:
        with file.open("a") as runs:
            runs.write(context.idempotency_key + "\n")
        await stage.at("in-tool")
        return "seen"

    client = connect(redis_url)
    worker = Worker(
        WorkerConfig(name=f"staged {moment}"),
        client,
        engine=StagedEngine(stage, can_continue=engine == "continues"),
        toolbox=Toolbox([FunctionTool("look", look, Effect(effect))]),
    )
    running = await RunningWorker.start(worker)
    print(running.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, url, moment, file, effect, engine = sys.argv
    asyncio.run(main(url, moment, Path(file), effect, engine))
