"""`python -m hermes_lb --config lb.toml` as a user or a service manager runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.balancer_process import Running, process, run, until_it_listens
from tests.support.http_peer import Ended
from tests.support.waiting import PATIENCE, eventually, turns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.http_peer import AtOrigin, Client
    from tests.support.origin import Origin
    from tests.support.stage import Stage

STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def drains(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    await running.says("draining")


async def a_stream(stage: Stage, running: Running, origin: Origin) -> tuple[Client, AtOrigin]:
    """A client has read "one" of a response in progress."""
    client = await stage.client(running.url)
    await client.get()
    at_origin, _ = await origin.accept_request()
    await at_origin.send(STREAM)
    await client.read_until(b"one\r\n")
    return client, at_origin


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_it_serves_and_ends_on_a_signal(stage: Stage, tmp_path: Path, loop: str) -> None:
    origin = await stage.serving()
    async with process(tmp_path, origin.port, "--loop", loop) as running:
        await until_it_listens(running)
        client = await stage.client(running.url)
        assert (await client.ask()).body == b"ok"
        running.process.send_signal(signal.SIGINT if loop == "asyncio" else signal.SIGTERM)
        assert await client.read_to_end() == b""  # idle
        assert await running.ended() == 0
    assert "Traceback" not in running.said
    assert running.said.rstrip().endswith("ended")


async def test_sigterm_lets_a_stream_finish(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.origin()
    async with process(tmp_path, origin.port) as running:
        await until_it_listens(running)
        client, at_origin = await a_stream(stage, running, origin)
        await drains(running)
        await eventually(lambda: refuses(running.port))
        await at_origin.send(b"3\r\ntwo\r\n0\r\n\r\n")
        assert await client.read_to_end() == b"3\r\ntwo\r\n0\r\n\r\n"
        assert await running.ended() == 0
    assert running.said.rstrip().endswith("ended")


@pytest.mark.slow
async def test_a_second_signal_ends_at_once(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.origin()
    async with process(tmp_path, origin.port) as running:
        await until_it_listens(running)
        client, _ = await a_stream(stage, running, origin)
        await drains(running)
        running.process.send_signal(signal.SIGTERM)
        assert await client.read_until_cut() == b""
        assert await running.ended() == 0
    assert "Traceback" not in running.said
    assert running.said.rstrip().endswith("what still ran was cut")


@pytest.mark.slow
async def test_draining_ends_after_its_timeout(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.origin()
    more = '[process]\nmax_connections = 100\ndrain_timeout = "100ms"\n'
    async with process(tmp_path, origin.port, more=more) as running:
        await until_it_listens(running)
        client = await stage.client(running.url)
        await client.get()
        await origin.accept_request()
        await drains(running)
        assert await client.read_until_cut() == b""
        assert await running.ended() == 0


@pytest.mark.slow
async def test_a_configuration_in_a_fifo_is_not_waited_for_a_second_time(tmp_path: Path) -> None:
    fifo = tmp_path / "lb.toml"
    os.mkfifo(fifo)
    async with run(fifo) as running:
        text = (
            '[admin]\nenabled = false\n[process]\nreload_on_change = true\n[log]\naccess = "off"\n'
            '[[frontends]]\nname = "public"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
            '[backends.agents]\nservers = [{ name = "a", address = "127.0.0.1:80" }]\n'
        )
        await asyncio.to_thread(fifo.write_text, text)
        await until_it_listens(running)
        running.signal(signal.SIGHUP)
        await running.says("the old one goes on:\n.* is a FIFO, which is read only once")
        running.signal(signal.SIGUSR2)
        await running.says("no upgrade: .* is a FIFO, which is read only once")
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


async def test_a_port_that_is_taken_is_one_clear_line(stage: Stage, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        async with process(tmp_path, stage.nobody(), bind=bind) as running:
            assert await running.ended() == 1
    assert len(running.said.splitlines()) == 1, running.said
    assert bind in running.said
    assert "in use" in running.said


@pytest.mark.slow
async def test_an_access_log_that_cannot_be_opened_is_one_clear_line(
    stage: Stage, tmp_path: Path
) -> None:
    more = f'[log]\naccess = "{tmp_path}/missing/access.log"\n'
    async with process(tmp_path, stage.nobody(), more=more) as running:
        assert await running.ended() == 1
    assert len(running.said.splitlines()) == 1, running.said
    assert "missing/access.log" in running.said


@pytest.mark.slow
async def test_a_low_limit_of_open_files_is_reported(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving()
    more = "[process]\nmax_connections = 5000\n"
    async with process(tmp_path, origin.port, more=more, before="ulimit -n 300") as running:
        await until_it_listens(running)
        client = await stage.client(running.url)
        assert (await client.ask()).body == b"ok"
    line = next(line for line in running.said.splitlines() if "ulimit -n" in line)
    assert "300" in line
    assert "5000" in line


@pytest.mark.slow
async def test_a_low_limit_is_no_warning_for_who_has_chosen_nothing(
    stage: Stage, tmp_path: Path
) -> None:
    more = "[process]\nworkers = 1\n"
    async with process(tmp_path, stage.nobody(), more=more, before="ulimit -n 300") as running:
        await until_it_listens(running)
    assert "ulimit" not in running.said


@pytest.mark.slow
async def test_a_soft_limit_that_can_be_raised_is_raised(stage: Stage, tmp_path: Path) -> None:
    async with process(
        tmp_path,
        stage.nobody(),
        more="[process]\nmax_connections = 200\n",
        before="ulimit -S -n 100",
    ) as running:
        await until_it_listens(running)
    assert "ulimit" not in running.said


@pytest.mark.slow
async def test_the_access_log_goes_to_stdout_as_lines(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving()
    async with process(tmp_path, origin.port, more='[log]\naccess = "stdout"\n') as running:
        await until_it_listens(running)
        client = await stage.client(running.url)
        await client.ask("/page")
        client.close()
        assert running.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await running.process.stdout.readline()
    assert line.endswith(b'"GET /page HTTP/1.1"\n')


@pytest.mark.slow
async def test_running_out_of_files_is_survived(stage: Stage, tmp_path: Path) -> None:
    """No busy loop, no lost listener: when clients leave, others are served."""
    origin = await stage.serving()
    more = "[process]\nmax_connections = 1000\n"
    async with process(tmp_path, origin.port, more=more, before="ulimit -n 64") as running:
        await until_it_listens(running)
        crowd = [await stage.client(running.url) for _ in range(100)]
        for client in crowd:
            await client.get()
        answered = 0
        for client in crowd[:20]:
            answered += (await client.read_response()).status in (200, 503)
        assert answered == 20
        for client in crowd:
            client.close()

        async def is_served() -> bool:
            client = await stage.client(running.url)
            try:
                return (await client.ask()).status == 200
            except (Ended, OSError):
                return False  # it may be closed at once as long as the crowd is not gone
            finally:
                client.close()

        async with asyncio.timeout(PATIENCE):
            while not await is_served():
                await turns()
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
