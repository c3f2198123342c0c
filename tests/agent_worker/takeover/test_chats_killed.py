"""kill -9 of a worker during a chat completion, behind a balancer: OpenAI's SDK notices nothing."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from hermes_lb import LoadBalancer
from tests.agent_worker.takeover.staged_worker import FIRST, LAST
from tests.outside.conftest import no_proxies
from tests.support.agent.chat import MODEL, chunks_of, text_of, user
from tests.support.agent.takeover import Process
from tests.support.needs import needs_package

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent_worker.redis_server import RedisServer

pytestmark = pytest.mark.slow

__all__ = ["no_proxies"]

openai = needs_package("openai")

STAGED = "tests.agent_worker.takeover.staged_worker"
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
KINDS: dict[str, dict[str, Any]] = {
    "kept": {"extra_headers": {"X-Hermes-Session-Id": "new"}},
    "stateless": {},
    "clients-tools": {"tools": [LOOK]},
}


def balancer(*urls: str) -> LoadBalancer:
    servers = [
        {"name": f"w{n}", "address": url.removeprefix("http://")} for n, url in enumerate(urls)
    ]
    route = {"path_prefix": "/", "backend": "agents", "resume": True}
    return LoadBalancer(
        {
            "admin": {"enabled": False},
            "log": {"access": "off"},
            "frontends": [{"name": "public", "bind": "127.0.0.1:0", "routes": [route]}],
            "backends": {"agents": {"balance": "round_robin", "servers": servers}},
        }
    )


@asynccontextmanager
async def staged(
    redis_url: str, folder: Path, engine: str, *moments: str
) -> AsyncIterator[list[Process]]:
    """A worker for each moment at which it stops."""
    options = (str(folder / "runs"), "read", engine)
    workers = [Process(redis_url, moment, *options, module=STAGED) for moment in moments]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*map(stack.enter_async_context, workers))
        yield workers


@pytest.mark.parametrize(
    ("moment", "kind", "engine"),
    [
        ("before-first", "kept", "continues"),
        ("before-first", "stateless", "rewinds"),
        ("amid-first", "clients-tools", "continues"),
        ("amid-first", "clients-tools", "rewinds"),
        ("between-steps", "stateless", "continues"),
        ("amid-last", "kept", "rewinds"),
        ("amid-last", "stateless", "continues"),
    ],
)
async def test_the_sdk_gets_one_whole_answer(
    redis_server: RedisServer, tmp_path: Path, moment: str, kind: str, engine: str
) -> None:
    is_clients = kind == "clients-tools"
    async with (
        staged(redis_server.url, tmp_path, engine, moment, "none") as (one, two),
        balancer(one.url, two.url) as lb,
        openai.AsyncOpenAI(api_key="k", base_url=f"{lb.url}/v1", max_retries=0) as client,
    ):
        asked = {"model": MODEL, "messages": [user("go")], **KINDS[kind]}
        usage = {"stream_options": {"include_usage": True}}
        stream = await client.chat.completions.create(**asked, stream=True, **usage)
        assert stream.response.headers["X-Hermes-Worker"] == f"staged {moment}"
        assert await one.line() == "standing still"
        await one.kill()
        chunks = await chunks_of(stream)
        whole = await client.chat.completions.create(**asked)
    (choice,) = whole.choices
    said = "".join(FIRST if is_clients else FIRST + LAST)
    assert text_of(chunks) == choice.message.content == said
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    *_, last, usage_chunk = chunks
    finishes = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert finishes == [last.choices[0].finish_reason] == [choice.finish_reason]
    assert finishes == ["tool_calls" if is_clients else "stop"]
    assert [chunk.usage for chunk in chunks if chunk.usage] == [usage_chunk.usage]
    assert usage_chunk.usage == whole.usage
    roles = [c.delta.role for chunk in chunks for c in chunk.choices if c.delta.role]
    assert roles == ["assistant"]
    calls = [
        (call.index, call.id, call.function.name, call.function.arguments)
        for chunk in chunks
        for c in chunk.choices
        for call in c.delta.tool_calls or ()
    ]
    assert calls == ([(0, "c1", "look", "{}")] if is_clients else [])


async def test_the_bytes_of_a_stream_that_two_workers_die_in(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Each chunk once, in order, one end, and increasing ids."""
    moments = ("amid-first", "amid-last", "none")
    async with (
        staged(redis_server.url, tmp_path, "continues", *moments) as (one, two, three),
        balancer(one.url, two.url, three.url) as lb,
        aiohttp.ClientSession() as http,
    ):
        body = {"model": MODEL, "messages": [user("go")], "stream": True}
        async with http.post(f"{lb.url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            for worker in (one, two):
                assert await worker.line() == "standing still"
                await worker.kill()
            text = await response.text()
    events = [event for event in text.split("\n\n") if not event.startswith(":")]
    ids, lines = zip(*(event.split("\n") for event in events if event), strict=True)
    assert list(ids) == list(dict.fromkeys(ids))
    assert [line for line in lines if "[DONE]" in line] == [lines[-1]] == ["data: [DONE]"]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "".join(FIRST + LAST)
    assert deltas[-1] == {}
