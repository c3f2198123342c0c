"""Two API servers of hermes-agent behind the balancer, without a cookie.

Each keeps the responses, runs and sessions that it has made, and knows no others. Their model is a
scripted one.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest

from tests.outside.model_server import model_app
from tests.support.documented import stick_rules
from tests.support.needs import needs_outside, needs_package
from tests.support.programs import free_port, is_ready, program, serving
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

openai = needs_package("openai")
HERMES = needs_outside("hermes-agent", "hermes")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

KEY = "of-a-test-0123456789abcdef"  # shorter ones are refused
ROUNDS = 4


@asynccontextmanager
async def agents(folder: Path) -> AsyncIterator[list[int]]:
    """Two of them -> their ports."""
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(serving(model_app()))
        ports = [await stack.enter_async_context(agent(folder / n, model)) for n in ("1", "2")]
        async with aiohttp.ClientSession() as session:
            for port in ports:
                await until(lambda port=port: is_ready(session, f"http://127.0.0.1:{port}/health"))
        yield ports


@asynccontextmanager
async def agent(home: Path, model: int) -> AsyncIterator[int]:
    home.mkdir()  # noqa: ASYNC240 - nothing else runs yet
    url = f"http://127.0.0.1:{model}/v1"
    (home / "config.yaml").write_text(
        f"model: {{default: scripted, provider: custom, base_url: '{url}', api_key: none}}\n"
    )
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "HERMES_HOME": str(home),
        "API_SERVER_ENABLED": "true", "API_SERVER_KEY": KEY,
        "API_SERVER_HOST": "127.0.0.1", "API_SERVER_PORT": str(port),
    }  # fmt: skip
    command = (HERMES, "gateway", "run")
    async with program(*command, log=home / "log", folder=home, environment=environment):
        yield port


class Found(NamedTuple):
    """Of `ROUNDS`: what was found again. `histories`: of the messages of one session."""

    chains: int
    responses: int
    streams: int
    runs: int
    histories: int


async def found(lb: LoadBalancer) -> Found:
    async with (
        openai.AsyncOpenAI(base_url=f"{lb.url}/v1", api_key=KEY, max_retries=0) as client,
        aiohttp.ClientSession(lb.url, headers={"Authorization": f"Bearer {KEY}"}) as session,
    ):
        return Found(
            sum([await continues(client, n, await create(client, n)) for n in range(ROUNDS)]),
            sum([await is_kept(client, n, await create(client, n)) for n in range(ROUNDS)]),
            sum([await is_kept(client, n, await stream(client, n)) for n in range(ROUNDS)]),
            sum([await runs(session, n) for n in range(ROUNDS)]),
            await histories(client),
        )


async def others(client: Any, number: int) -> None:
    """Other requests come in between, so that `round_robin` is lucky in half of the rounds."""
    if number % 2:
        await client.models.list()


async def create(client: Any, number: int) -> str:
    response = await client.responses.create(model="scripted", input=f"number {number}")
    assert response.output_text == f"heard 1: number {number}"
    made: str = response.id
    return made


async def stream(client: Any, number: int) -> str:
    events = await client.responses.create(model="scripted", input=f"n {number}", stream=True)
    ids = [event.response.id async for event in events if event.type == "response.created"]
    return str(ids[0])


async def continues(client: Any, number: int, made: str) -> bool:
    await others(client, number)
    try:
        response = await client.responses.create(
            model="scripted", input="again", previous_response_id=made
        )
    except openai.NotFoundError:
        return False
    assert response.output_text == "heard 2: again"
    return True


async def is_kept(client: Any, number: int, made: str) -> bool:
    await others(client, number)
    try:
        response = await client.responses.retrieve(made)
    except openai.NotFoundError:
        return False
    assert response.id == made
    return True


async def runs(session: aiohttp.ClientSession, number: int) -> bool:
    asked = {"model": "scripted", "input": f"run {number}"}
    async with session.post("/v1/runs", json=asked) as response:
        assert response.status == 202
        run = (await response.json())["run_id"]
    async with session.get(f"/v1/runs/{run}/events") as response:
        if response.status == 404:
            return False
        text = await response.text()
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert [event["run_id"] for event in events] == [run] * len(events)
    return bool(events[-1]["event"] == "run.completed")


async def histories(client: Any) -> int:
    """Each history says how many messages it has: one that has begun says 1."""
    heard = []
    for number in range(ROUNDS):
        completion = await client.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": f"message {number}"}],
            extra_headers={"X-Hermes-Session-Id": f"session of {client.base_url.port}"},
        )
        heard.append(completion.choices[0].message.content.partition(":")[0])
    return heard.count("heard 1")


async def test_what_an_agent_has_made_is_found_again(stage: Stage, tmp_path: Path) -> None:
    async with agents(tmp_path) as ports:
        without = await stage.balancer(*ports)
        with_rules = await stage.balancer(*ports, backend={"stick": stick_rules("agents")})
        # Each has its own round robin, and its own session.
        before, after = await asyncio.gather(found(without), found(with_rules))
    print(before, after)
    assert before == Found(chains=2, responses=2, streams=2, runs=0, histories=2)
    assert after == Found(ROUNDS, ROUNDS, ROUNDS, ROUNDS, histories=1)
