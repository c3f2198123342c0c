"""The command line: real processes, real signals."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest
from typer.testing import CliRunner
from yarl import URL

from agent_worker.cli import cli
from agent_worker.sessions import connect
from tests.support.agent.program import Program
from tests.support.sse import all_events, deltas, read_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.redis_server import RedisServer


class Process(Program):
    """The command, and all that it says."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(*arguments, stderr=asyncio.subprocess.PIPE)

    async def url(self) -> str:
        """From the start line."""
        line = await self.line()
        match = re.search(r"(http|redis)://127\.0\.0\.1:\d+", line)
        assert match, line or (await self.process.communicate())[1].decode()
        return match[0]

    async def end(self) -> tuple[int, str, str]:
        """Status, stdout and stderr, once it has ended."""
        out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


async def new_session(http: aiohttp.ClientSession, url: str) -> str:
    async with http.post(f"{url}/api/agent/sessions") as response:
        return (await response.json())["session_id"]


def say(http: aiohttp.ClientSession, url: str, sid: str, content: str, **headers: str):
    return http.post(
        f"{url}/api/agent/sessions/{sid}/messages", json={"content": content}, headers=headers
    )


async def test_a_worker_starts_serves_and_ends(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    async with Process("--port", "0", "--redis-url", redis_server.url) as worker:
        line = await worker.line()
        match = re.fullmatch(
            r"agent_worker (worker-(\d+)) listening on (http://127\.0\.0\.1:\2) "
            rf"\(redis {redis_server.url}, engine scripted\)",
            line,
        )
        assert match, line
        assert "every client is accepted" in await worker.line()
        assert [await worker.line() for _ in range(2)] == [
            "off: preferences and archive (give --database-url)",
            "off: long-term memory (give --database-url or --qdrant-url)",
        ]
        name, url = match[1], match[3]
        async with say(http, url, await new_session(http, url), "write 3 words") as response:
            assert (await response.json())["content"] == "The agent reads."
            assert response.headers["X-Hermes-Worker"] == name
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == (0, f"agent_worker {name} stopping\n", "")


@pytest.mark.slow
async def test_a_conversation_survives_the_kill_of_its_worker(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    options = ("--port", "0", "--redis-url", redis_server.url)
    async with Process(*options) as one, Process(*options) as two:
        url = await one.url()
        sid = await new_session(http, url)
        async with say(http, url, sid, "my name is Ada") as response:
            assert response.status == 200
        one.process.kill()
        await one.end()
        async with say(http, await two.url(), sid, "what is my name?") as response:
            assert (await response.json())["content"] == "Your name is Ada."


@pytest.mark.slow
async def test_a_worker_killed_in_a_turn_leaves_the_session_to_others(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    options = ("--port", "0", "--redis-url", redis_server.url, "--lease", "1s")
    async with (
        Process(*options, "--token-interval", "60s") as one,
        Process(*options) as two,
    ):
        url, other_url = await one.url(), await two.url()
        sid = await new_session(http, url)
        async with say(http, url, sid, "write 9 words", Accept="text/event-stream") as response:
            await anext(read_events(response))
            one.process.kill()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        while True:
            async with say(http, other_url, sid, "how many messages?") as response:
                if response.status == 409:
                    assert int(response.headers["Retry-After"]) >= 1
                    await asyncio.sleep(0.02)
                    continue
                answer = await response.json()
                break
        assert answer["content"] == "This is turn 2, and I have seen 2 messages."


@pytest.mark.slow
async def test_sigterm_lets_a_running_turn_finish(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    options = ("--port", "0", "--redis-url", redis_server.url, "--token-interval", "20ms")
    async with Process(*options) as worker:
        url = await worker.url()
        sid = await new_session(http, url)
        async with say(http, url, sid, "write 50 words", Accept="text/event-stream") as response:
            events = read_events(response)
            first = await anext(events)
            worker.process.send_signal(signal.SIGTERM)
            rest = [event async for event in events]
        assert rest[-1].name == "done"
        assert len(deltas([first, *rest]).split()) == 50
        status, out, err = await worker.end()
        assert (status, err) == (0, "")
        assert "waiting for 1 running turn" in out


@pytest.mark.slow
async def test_sigterm_leaves_open_connections_their_hearing(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    """A request in transit is answered, and a socket with a running turn is still read."""
    options = ("--port", "0", "--redis-url", redis_server.url, "--token-interval", "20ms")
    async with Process(*options) as worker:
        url = await worker.url()
        sid, late_sid = await new_session(http, url), await new_session(http, url)
        half_sent, rest = asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b'{"content": '
            half_sent.set()
            await rest.wait()
            yield b'"write 3 words"}'

        async def late() -> tuple[int, str, str]:
            path = f"{url}/api/agent/sessions/{late_sid}/messages"
            headers = {"Content-Type": "application/json"}
            async with http.post(path, data=body(), headers=headers) as response:
                answer = await response.json()
                return response.status, answer["content"], response.headers["Connection"]

        async with (
            http.ws_connect(f"{url}/api/agent/sessions/{sid}/ws") as socket,
            http.ws_connect(f"{url}/api/agent/sessions/{late_sid}/ws") as idle,
        ):
            await socket.send_json({"content": "write 50 words"})
            await socket.receive_json()
            answered = asyncio.gather(late())
            await half_sent.wait()
            worker.process.send_signal(signal.SIGTERM)
            while "waiting for" not in await worker.line():
                pass
            # It reports that before its sockets drain; they all do once the idle one is closed.
            assert [frame async for frame in idle] == []
            await socket.send_json({"content": "once more"})
            rest.set()
            assert await answered == [(200, "The agent reads.", "close")]
            frames = [json.loads(frame.data) async for frame in socket]
        codes = [frame["data"]["code"] for frame in frames if frame["event"] == "error"]
        assert codes == ["draining"]
        assert frames[-1]["event"] == "done"
        assert socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
        assert (await worker.end())[0] == 0


@pytest.mark.slow
async def test_a_stopping_worker_waits_for_the_rest_of_a_request(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    async with Process("--port", "0", "--redis-url", redis_server.url) as worker:
        url = await worker.url()
        sid = await new_session(http, url)
        body = b'{"content": "write 3 words"}'
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        writer.write(
            f"POST /api/agent/sessions/{sid}/messages HTTP/1.1\r\nHost: x\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        writer.write(body[:5])
        # Sent after the other one: its answer shows that the worker has both.
        await new_session(http, url)
        worker.process.send_signal(signal.SIGTERM)
        while "stopping" not in await worker.line():
            pass
        writer.write(body[5:])
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"The agent reads." in answer
        assert await worker.end() == (0, "", "")


@pytest.mark.slow
async def test_sigterm_closes_connections_that_have_nothing_more_to_wait_for(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    """Idle ones at once, one with a stream after it; the drain continues meanwhile."""
    options = ("--port", "0", "--redis-url", redis_server.url, "--token-interval", "20ms")
    async with Process(*options, "--drain-timeout", "10m") as worker:
        url = await worker.url()
        sids = [await new_session(http, url) for _ in range(2)]
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        idle_writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await idle.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        busy, busy_writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        body = b'{"content": "write 9 words"}'
        busy_writer.write(
            f"POST /api/agent/sessions/{sids[0]}/messages HTTP/1.1\r\nHost: x\r\n"
            "Accept: text/event-stream\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await busy.readuntil(b"message.delta")
        # It runs for longer than the test's timeout.
        async with say(http, url, sids[1], "write 9999 words", Accept="text/event-stream") as long:
            await anext(read_events(long))
            worker.process.send_signal(signal.SIGTERM)
            assert await idle.read() == b""
            assert (await busy.read()).endswith(b"0\r\n\r\n")
        for writer in (idle_writer, busy_writer):
            writer.close()
        assert (await worker.end())[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["second signal", "drain timeout"])
async def test_a_drain_that_is_cut_short_frees_the_lease(
    redis_server: RedisServer, http: aiohttp.ClientSession, how: str
) -> None:
    timeout = "60s" if how == "second signal" else "10ms"
    options = ("--port", "0", "--redis-url", redis_server.url, "--token-interval", "60s")
    async with Process(*options, "--drain-timeout", timeout) as worker:
        url = await worker.url()
        sid = await new_session(http, url)
        async with say(http, url, sid, "write 9 words", Accept="text/event-stream") as response:
            await anext(read_events(response))
            worker.process.send_signal(signal.SIGTERM)
            while "stopping" not in await worker.line():
                pass
            if how == "second signal":
                worker.process.send_signal(signal.SIGINT)
            status, _, err = await worker.end()
            assert (status, err) == (1, "")
            with pytest.raises(aiohttp.ClientError):
                await all_events(response)
    client = connect(redis_server.url)
    assert await client.raw.exists(f"hermes:{{{sid}}}:lease") == 0
    assert await client.raw.hget(f"hermes:{{{sid}}}:meta", "status") == "interrupted"
    await client.aclose()


@pytest.mark.slow
async def test_without_a_url_a_redis_is_embedded(http: aiohttp.ClientSession) -> None:
    async with Process("--port", "0") as worker:
        line = await worker.line()
        assert "embedded" in line
        assert "sessions end with this worker" in line
        url = re.search(r"http://\S+", line)[0]
        redis_url = re.search(r"redis://127.0.0.1:\d+/0", line)[0]
        async with say(http, url, await new_session(http, url), "hello") as response:
            assert response.status == 200
        worker.process.send_signal(signal.SIGINT)
        status, _, err = await worker.end()
        assert (status, err) == (0, "")
    port = int(re.search(r":(\d+)/0", redis_url)[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
@pytest.mark.parametrize("command", [["--redis-url", "redis://127.0.0.1:1/0"], ["redis"]])
async def test_a_port_in_use_is_one_clear_line(command: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with Process(*command, "--port", port) as process:
            status, out, err = await process.end()
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("agent_worker: port " + port)
    assert "already in use" in err
    assert "--port" in err


@pytest.mark.slow
async def test_an_unreachable_redis_is_one_clear_line() -> None:
    url = "redis://:s3cret@127.0.0.1:1/0"
    async with Process("--port", "0", "--redis-url", url) as worker:
        status, out, err = await worker.end()
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert "cannot reach Redis at redis://:***@127.0.0.1:1/0" in lines[0]
    assert "python -m agent_worker redis" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--lease", "5"], "20ms"),
        (["--lease", "1ms"], "too short"),
        (["--token-interval", "fast"], "20ms"),
        (["--engine", "gpt"], "scripted"),
        (["--token", "s3cret"], "token=principal"),
        (["--redis-url", "localhost"], "--redis-url"),
        (["--port", "70000"], "--port"),
    ],
)
def test_a_wrong_option_is_explained(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(cli, ["--port", "0", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.slow
async def test_tokens_of_the_command_line_are_needed(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    options = ("--port", "0", "--redis-url", redis_server.url)
    async with Process(*options, "--token", "t-ada=ada", "--token", "t-bob=bob") as worker:
        url = f"{await worker.url()}/api/agent/sessions"
        for token, status in (("t-ada", 201), ("t-bob", 201), ("t-eve", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            async with http.post(url, headers=headers) as response:
                assert response.status == status
        async with http.post(url) as response:
            assert response.status == 401


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_the_redis_command_runs_until_it_is_asked_to_end(stop: signal.Signals) -> None:
    async with Process("redis", "--port", "0") as process:
        url = await process.url()
        client = connect(url + "/0")
        await client.ping()
        await client.aclose()
        process.process.send_signal(stop)
        assert await process.end() == (0, "", "")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


@pytest.mark.parametrize("command", [[], ["redis"]])
def test_help(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "--port" in result.stdout
