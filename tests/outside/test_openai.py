"""The OpenAI SDK through the balancer: answers, streams, cancelling, and its own retries."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.outside.chat_server import WORDS, ChatServer
from tests.support.needs import needs_package
from tests.support.programs import serving
from tests.support.stage import in_flight
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

openai = needs_package("openai")

ASKED: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Count, please: 1 \N{RIGHTWARDS ARROW} 3"}],
}


@pytest.fixture
async def server(stage: Stage) -> AsyncIterator[ChatServer]:
    server = ChatServer()
    async with serving(server.app()) as server.port:
        yield server


@pytest.fixture
async def lb(stage: Stage, server: ChatServer) -> LoadBalancer:
    return await stage.balancer(server.port)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    """Make clients of the SDK: `connect(lb, ...)`."""
    clients = []

    def make(lb: LoadBalancer, **options: Any) -> Any:
        options = {"max_retries": 0, "timeout": PATIENCE, **options}
        clients.append(openai.AsyncOpenAI(api_key="secret", base_url=f"{lb.url}/v1", **options))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def client(lb: LoadBalancer, connect: Callable[..., Any]) -> Any:
    return connect(lb)


async def test_an_answer(stage: Stage, lb: LoadBalancer, server: ChatServer, client: Any) -> None:
    completion = await client.chat.completions.create(**ASKED)
    assert completion.choices[0].message.content == "one two three"
    assert completion.usage.total_tokens == 4

    headers, asked = server.requests[0]
    assert asked == ASKED
    assert headers["Authorization"] == "Bearer secret"
    assert headers["User-Agent"].startswith("AsyncOpenAI/Python")
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (200, "--")
    assert line.request == "POST /v1/chat/completions HTTP/1.1"


async def test_a_stream_token_by_token(server: ChatServer, client: Any) -> None:
    """No word is said before the one before it has arrived, so nothing can be held back."""
    words = []
    stream = await client.chat.completions.create(**ASKED, stream=True)
    server.say()
    async for chunk in stream:
        if chunk.choices[0].finish_reason is None:
            words.append(chunk.choices[0].delta.content)
            server.say()
    assert words == list(WORDS)
    assert chunk.choices[0].finish_reason == "stop"


@pytest.mark.row(32)
async def test_a_stream_that_is_closed_ends_the_work_of_the_server(
    stage: Stage, lb: LoadBalancer, server: ChatServer, client: Any
) -> None:
    """No timer can do it: of `timeouts` none is as short as we wait."""
    stream = await client.chat.completions.create(**ASKED, stream=True)
    server.say()
    async for chunk in stream:
        assert chunk.choices[0].delta.content == "one "
        break
    assert in_flight(lb) == [1]
    await stream.close()
    async with asyncio.timeout(PATIENCE):
        await server.client_left.wait()
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (200, "CD")
    assert in_flight(lb) == [0]


@pytest.mark.row(32)
async def test_a_call_that_is_cancelled_ends_the_work_of_the_server(
    stage: Stage, lb: LoadBalancer, server: ChatServer, client: Any
) -> None:
    called = asyncio.Event()

    async def call() -> None:
        stream = await client.chat.completions.create(**ASKED, stream=True)
        async for _ in stream:
            called.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(call())
        server.say()
        async with asyncio.timeout(PATIENCE):
            await called.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    async with asyncio.timeout(PATIENCE):
        await server.client_left.wait()
    assert (await stage.log_line(lb)).termination == "CD"


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
async def test_it_tries_again_when_the_server_says_when(
    stage: Stage,
    lb: LoadBalancer,
    server: ChatServer,
    connect: Callable[..., Any],
    status: int,
) -> None:
    """The server's refusal and its Retry-After pass; the balancer does not repeat a POST itself."""
    server.refusals = [(status, {"Retry-After": "1"}), (status, {"Retry-After": "1"})]
    completion = await connect(lb, max_retries=2).chat.completions.create(**ASKED)
    assert completion.choices[0].message.content == "one two three"
    tries = [headers["x-stainless-retry-count"] for headers, _ in server.requests]
    assert tries == ["0", "1", "2"]
    lines = await stage.logged(lb, 3)
    assert [line.status for line in lines] == [status, status, 200]
    assert {line.termination for line in lines} == {"--"}


async def test_when_it_gives_up_the_error_is_the_servers(
    lb: LoadBalancer, server: ChatServer, client: Any
) -> None:
    server.refusals = [(429, {"Retry-After": "7"})]
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**ASKED)
    assert caught.value.body["message"] == "not now"
    assert caught.value.response.headers["Retry-After"] == "7"


@pytest.mark.slow
async def test_it_tries_again_when_the_balancer_had_no_server(
    stage: Stage, connect: Callable[..., Any]
) -> None:
    """The balancer's own 503 says when (5 s), and by then the server is there."""
    server = ChatServer()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # and does not listen: connections are refused
        lb = await stage.balancer(sock.getsockname()[1], backend={"retries": 0})
        async with asyncio.TaskGroup() as group:
            create = connect(lb, max_retries=1).chat.completions.create
            call = group.create_task(create(**ASKED))
            refused = await stage.log_line(lb)
            assert (refused.status, refused.termination) == (503, "SC")
            async with serving(server.app(), sock):
                completion = await call
    assert completion.choices[0].message.content == "one two three"
    assert [headers["x-stainless-retry-count"] for headers, _ in server.requests] == ["1"]


@pytest.mark.slow
async def test_it_tries_again_when_the_balancer_limits_its_rate(
    stage: Stage, server: ChatServer, connect: Callable[..., Any]
) -> None:
    """Two calls at once, where one in 2 s is allowed: the other is late, and nothing else."""
    limits = {"request_rate": 0.5, "request_burst": 1}
    lb = await stage.balancer(server.port, limits=limits)
    create = connect(lb, max_retries=1).chat.completions.create
    completions = await asyncio.gather(create(**ASKED), create(**ASKED))
    assert [each.choices[0].message.content for each in completions] == ["one two three"] * 2
    assert [headers["x-stainless-retry-count"] for headers, _ in server.requests] == ["0", "1"]
    lines = await stage.logged(lb, 3)
    assert sorted(line.status for line in lines) == [200, 200, 429]
