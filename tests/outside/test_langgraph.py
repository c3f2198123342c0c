"""Two servers of LangGraph's API behind the balancer, each with its threads in memory."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import pytest

from tests.support.documented import stick_rules
from tests.support.needs import needs_outside
from tests.support.programs import free_port, is_ready, program
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

LANGGRAPH = needs_outside("langgraph", "langgraph")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

APP = Path(__file__).parent / "langgraph_app"
ROUNDS = 4


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[list[int]]:
    """Two of them -> their ports."""
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(server(folder / n)) for n in ("1", "2")]
        async with aiohttp.ClientSession() as session:
            for port in ports:
                await until(lambda port=port: is_ready(session, f"http://127.0.0.1:{port}/ok"))
        yield ports


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[int]:
    shutil.copytree(APP, folder)
    port = free_port()
    environment = {
        "PATH": f"{Path(LANGGRAPH).parent}:{os.environ['PATH']}", "HOME": str(folder),
        "LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    }  # fmt: skip
    command = (LANGGRAPH, "dev", "--no-browser", "--no-reload", "--port", str(port))
    async with program(*command, log=folder / "log", folder=folder, environment=environment):
        yield port


class Found(NamedTuple):
    """Of `ROUNDS` threads: those whose run, whose streamed run, and whose state was found."""

    runs: int
    streams: int
    states: int


async def found(lb: LoadBalancer) -> Found:
    async with aiohttp.ClientSession(lb.url) as session:
        runs = streams = states = 0
        for _ in range(ROUNDS):
            async with session.post("/threads", json={}) as response:
                thread = (await response.json())["thread_id"]
            asked = {"assistant_id": "agent", "input": {"messages": ["hi"]}}
            async with session.post(f"/threads/{thread}/runs/wait", json=asked) as response:
                runs += await response.json() == {"messages": ["hi", "heard 1"]}
            async with session.post(f"/threads/{thread}/runs/stream", json=asked) as response:
                streams += '"heard 3"' in await response.text()
            async with session.get(f"/threads/{thread}/state") as response:
                state = await response.json()
                states += len(state.get("values", {}).get("messages", ())) == 4
    return Found(runs, streams, states)


async def test_a_thread_stays_with_its_server(stage: Stage, tmp_path: Path) -> None:
    async with servers(tmp_path) as ports:
        without = await stage.balancer(*ports)
        with_rule = await stage.balancer(*ports, backend={"stick": stick_rules("graphs")})
        before, after = await asyncio.gather(found(without), found(with_rule))
    print(before, after)
    assert before.states == 0
    assert after == Found(ROUNDS, ROUNDS, ROUNDS)
