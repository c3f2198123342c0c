"""The example for browsers in docs/sessions.md, in a browser, while workers are killed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from agent_worker.models.scripted import reply
from agent_worker.redis_server import RedisServer
from tests.outside.test_browser import tab
from tests.support.agent.running_worker import SESSIONS
from tests.support.agent.takeover import Process, new_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.stage import Stage

__all__ = ["tab"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PAGE = Path(__file__).parents[2] / "docs" / "sessions.md"
ASKED = "write 80 words"


def example() -> str:
    """Without the call at its end."""
    (code,) = re.findall(r"^```js\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    function, call = code.rsplit("\n}\n", 1)
    assert call.strip().startswith("say(")
    return function + "\n}"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer.start() as server:
        yield server


@pytest.fixture
async def workers(redis_server: RedisServer) -> AsyncIterator[list[Process]]:
    options = ("--port", "0", "--redis-url", redis_server.url, "--blobs", "off")
    options = (*options, "--token-interval", "40ms", "--lease", "2s")
    workers = [Process(*options) for _ in range(3)]
    await asyncio.gather(*(worker.__aenter__() for worker in workers))
    try:
        yield workers
    finally:
        await asyncio.gather(*(worker.__aexit__() for worker in workers))


async def at_work(http: aiohttp.ClientSession, workers: list[Process]) -> Process:
    """The worker that has the turn."""
    while True:
        for worker in workers:
            if worker.process.returncode is None:
                async with http.get(worker.url + "/health") as response:
                    if (await response.json())["load"]:
                        return worker
        await asyncio.sleep(0.01)


async def test_a_page_gets_the_whole_answer_though_its_workers_are_killed(
    stage: Stage, tab: Any, workers: list[Process]
) -> None:
    ports = [int(worker.url.rpartition(":")[2]) for worker in workers]
    lb = await stage.balancer(*ports)
    async with aiohttp.ClientSession() as http:
        sid = await new_session(http, lb.url)
        await tab.goto(f"{lb.url}/health")
        await tab.add_script_tag(content=example())
        url = lb.url.replace("http", "ws") + f"{SESSIONS}/{sid}"
        await tab.evaluate(
            """([url, content]) => {
                window.texts = [];
                window.answer = say(url, content, (text) => texts.push(text));
                return true;  // and not the promise, which would be waited for
            }""",
            [url, ASKED],
        )
        for words in (10, 30):
            await tab.wait_for_function(f"texts.length > {words}")
            await (await at_work(http, workers)).kill()
        async with asyncio.timeout(60):
            answer = await tab.evaluate("answer")
    assert sum(worker.process.returncode is not None for worker in workers) == 2
    expected = reply([{"role": "user", "content": ASKED}]).text
    assert answer["content"] == expected
    texts = await tab.evaluate("texts")
    assert texts[-1] == expected
    # Each piece once, and in its place.
    words = expected.split(" ")
    assert texts == [" ".join(words[: n + 1]) for n in range(len(words))]
