"""grpcio's own client and server, through the balancer: HTTP/2 on both sides."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.support.needs import needs_package
from tests.support.stage import in_flight, server_of
from tests.support.waiting import eventually

grpc = needs_package("grpc")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from hermes_lb import LoadBalancer
    from tests.outside.grpc_server import Calls
    from tests.support.stage import Stage


class Scene:
    """A balancer before a server, and a client's channel to it."""

    def __init__(self, lb: LoadBalancer, calls: Calls, channel: Any) -> None:
        self.lb = lb
        self.calls = calls
        self.channel = channel

    def method(self, kind: str, name: str) -> Any:
        return getattr(self.channel, kind)(f"/test.Calls/{name}")


@pytest_asyncio.fixture
async def scene(stage: Stage) -> AsyncIterator[Scene]:
    from tests.outside.grpc_server import Calls, started

    calls = Calls()
    server, port = started(calls)
    lb = await stage.balancer(
        port, backend={"protocol": "h2", "keep_alive_timeout": "200ms"}, frontend={"http2": True}
    )
    channel = grpc.insecure_channel(lb.url.removeprefix("http://"))
    try:
        yield Scene(lb, calls, channel)
    finally:
        await asyncio.to_thread(channel.close)
        calls.cancelled.set()
        await asyncio.to_thread(server.stop(None).wait)


async def call(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """In a thread: the balancer has the loop."""
    return await asyncio.to_thread(method, *args, timeout=options.pop("timeout", 20), **options)


async def test_unary(scene: Scene) -> None:
    method = scene.method("unary_unary", "Unary")
    answer, done = await call(method.with_call, b"hello", metadata=(("x-mine", "3"),))
    assert answer == b"HELLO"
    assert ("x-first", "1") in done.initial_metadata()
    assert dict(done.trailing_metadata()) == {"x-last": "2", "x-last-bin": b"\0\xff"}
    assert scene.calls.metadata["x-mine"] == "3"
    assert scene.calls.metadata["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
async def test_messages_of_any_size(scene: Scene, size: int) -> None:
    assert await call(scene.method("unary_unary", "Unary"), b"x" * size) == b"X" * size


async def test_server_streaming(scene: Scene) -> None:
    method = scene.method("unary_stream", "Streams")
    answers = await asyncio.to_thread(lambda: list(method(b"500", timeout=20)))
    assert answers == [b"%d" % n for n in range(500)]


async def test_client_streaming(scene: Scene) -> None:
    method = scene.method("stream_unary", "Collects")
    sent = [b"%d" % n for n in range(500)]
    assert await call(method, iter(sent)) == b",".join(sent)


async def test_bidirectional_streaming(scene: Scene) -> None:
    """One message waits for the answer to the one before; then the client's half closes."""
    may_send = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for n in range(50):
            assert may_send.acquire(timeout=20)
            yield b"a%d" % n

    def talk() -> list[bytes]:
        answers = []
        for answer in scene.method("stream_stream", "Talks")(requests(), timeout=20):
            answers.append(answer)
            may_send.release()
        return answers

    assert await asyncio.to_thread(talk) == [*(b"A%d" % n for n in range(50)), b"end"]


async def test_a_status_of_the_server(scene: Scene) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        await call(scene.method("unary_unary", "Fails"), b"")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.value.details() == "Größe, 100 %"


async def test_a_method_that_is_not_there(scene: Scene) -> None:
    """The answer of grpcio is trailers-only."""
    with pytest.raises(grpc.RpcError) as failed:
        await call(scene.method("unary_unary", "Nothing"), b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_deadline_reaches_the_server(scene: Scene) -> None:
    left = float(await call(scene.method("unary_unary", "Remaining"), b"", timeout=15))
    assert 0 < left <= 15
    with pytest.raises(grpc.RpcError) as failed:
        await call(scene.method("unary_unary", "Waits"), b"", timeout=0.3)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await asyncio.to_thread(scene.calls.cancelled.wait, 20)
    await eventually(lambda: in_flight(scene.lb) == [0])


@pytest.mark.parametrize("name", ["Waits", "Endless"])
async def test_a_cancellation_reaches_the_server(scene: Scene, name: str) -> None:
    if name == "Waits":
        running = scene.method("unary_unary", name).future(b"x", timeout=20)
        assert await asyncio.to_thread(scene.calls.begun.wait, 20)
    else:
        running = scene.method("unary_stream", name)(b"x" * 1000, timeout=20)
        await asyncio.to_thread(next, running)
    await eventually(lambda: in_flight(scene.lb) == [1])
    running.cancel()
    assert await asyncio.to_thread(scene.calls.cancelled.wait, 20)
    await eventually(lambda: in_flight(scene.lb) == [0])


async def test_without_a_server_the_status_is_unavailable(stage: Stage) -> None:
    lb = await stage.balancer(
        stage.nobody(), backend={"protocol": "h2", "retries": 0}, frontend={"http2": True}
    )
    channel = grpc.insecure_channel(lb.url.removeprefix("http://"))
    with pytest.raises(grpc.RpcError) as failed:
        await call(channel.unary_unary("/test.Calls/Unary"), b"")
    await asyncio.to_thread(channel.close)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "503" in str(failed.value.details())
    assert (await stage.log_line(lb)).status in (503, "503")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_ten_thousand_calls(scene: Scene) -> None:
    """From 20 threads, of all kinds."""
    unary = scene.method("unary_unary", "Unary")
    streams = scene.method("unary_stream", "Streams")
    collects = scene.method("stream_unary", "Collects")
    talks = scene.method("stream_stream", "Talks")

    def some(thread: int) -> int:
        for n in range(125):
            word = b"w%d-%d" % (thread, n)
            assert unary(word, timeout=60) == word.upper()
            assert len(list(streams(b"5", timeout=60))) == 5
            assert collects(iter([word] * 3), timeout=60) == b",".join([word] * 3)
            assert list(talks(iter([word] * 3), timeout=60)) == [*[word.upper()] * 3, b"end"]
        return 500

    with ThreadPoolExecutor(20) as threads:
        loop = asyncio.get_running_loop()
        done = await asyncio.gather(*(loop.run_in_executor(threads, some, n) for n in range(20)))
    assert sum(done) == 10_000
    counters = server_of(scene.lb).counters
    assert (counters.retries, server_of(scene.lb).fails) == (0, 0)
    assert in_flight(scene.lb) == [0]
