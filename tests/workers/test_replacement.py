"""A worker that dies is replaced whatever has become of its files; if none can be started, clients
are refused and do not hang."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.balancer_process import Running, run, until_it_listens
from tests.support.certificates import site, trusting
from tests.support.waiting import PATIENCE, turns
from tests.workers.forced_states import meddling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.support.stage import Stage

pytestmark = pytest.mark.slow

TWO_BINDS = '[{ address = "127.0.0.1:0", tls = true }, "localhost:0"]'


@asynccontextmanager
async def serving(
    stage: Stage,
    folder: Path,
    *,
    workers: int,
    log: str = "off",
    bind: str = '"127.0.0.1:0"',
    tls: str = "",
    before: str = "",
) -> AsyncIterator[Running]:
    """A started balancer, with a server that says "ok"."""
    origin = await stage.serving()
    file = folder / "lb.toml"
    file.write_text(
        f"[process]\nworkers = {workers}\nmax_connections = 100\n"
        '[admin]\nbind = "127.0.0.1:0"\n'
        f'[log]\naccess = "{log}"\n'
        f'[[frontends]]\nname = "public"\nbind = {bind}\ndefault_backend = "agents"\n{tls}'
        f'[backends.agents]\nservers = [{{ name = "a", address = "127.0.0.1:{origin.port}" }}]\n'
    )
    async with run(file, before=before) as running:
        await until_it_listens(running)
        yield running


def answer(port: int, *, tls: bool = False) -> bytes:
    """What a new client reads up to the end of its connection. OSError: it was refused."""
    with socket.create_connection(("localhost", port), timeout=PATIENCE) as plain:
        sock = trusting().wrap_socket(plain, server_hostname="a.test") if tls else plain
        with sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
            received = b""
            while data := sock.recv(65536):
                received += data
            return received


async def all_are_served(port: int, **how: Any) -> None:
    """Many clients: the kernel spreads them over all slots."""
    found = await asyncio.gather(*(asyncio.to_thread(answer, port, **how) for _ in range(20)))
    for one in found:
        assert one.startswith(b"HTTP/1.1 200"), one


async def becomes(ask: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await ask():
            await turns()


async def kill_one(running: Running) -> None:
    victim = running.workers[0]
    os.kill(victim, signal.SIGKILL)
    await running.says(f"worker process {victim} has ended by signal 9; another one starts")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_log_whose_directory_is_gone_costs_lines_only(
    stage: Stage, tmp_path: Path, workers: int
) -> None:
    log = tmp_path / "logs" / "access.log"
    log.parent.mkdir()
    async with serving(stage, tmp_path, workers=workers, log=str(log)) as running:
        shutil.rmtree(log.parent)
        await kill_one(running)
        await all_are_served(running.port)
        await running.says(r"access\.log' can't be opened: No such .*; lines are lost until it can")
        log.parent.mkdir()

        async def is_written() -> bool:
            await all_are_served(running.port)
            return log.exists() and b"GET / HTTP/1.1" in log.read_bytes()

        await becomes(is_written)


async def test_a_syslog_daemon_that_is_away_costs_lines_only(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "devlog"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        async with serving(stage, tmp_path, workers=2, log=f"syslog:{path}") as running:
            path.unlink()
            await kill_one(running)
            await all_are_served(running.port)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_certificate_that_is_half_written_is_served_as_it_was(
    stage: Stage, tmp_path: Path, workers: int
) -> None:
    certificate = site(tmp_path, "a.test")
    tls = f'[frontends.tls]\ncertificate = "{certificate}"\n'
    async with serving(stage, tmp_path, workers=workers, bind=TWO_BINDS, tls=tls) as running:
        secure = int((await running.says(r"listening on https://\S+:(\d+)"))[1])
        os.truncate(certificate, 100)
        await kill_one(running)
        await all_are_served(secure, tls=True)
        await all_are_served(running.port)
        await running.says(f"the certificates stay as they were: can't use {certificate}")


async def test_a_renewed_certificate_is_the_last_good_one(stage: Stage, tmp_path: Path) -> None:
    """The supervisor notices renewals as workers do."""
    certificate = site(tmp_path, "old.test", file="site.pem")
    tls = f'[frontends.tls]\ncertificate = "{certificate}"\nreload_interval = "50ms"\n'
    async with serving(stage, tmp_path, workers=1, bind=TWO_BINDS, tls=tls) as running:
        secure = int((await running.says(r"listening on https://\S+:(\d+)"))[1])
        site(tmp_path, "a.test", file="site.pem")

        async def is_renewed() -> bool:
            with suppress(OSError):
                return (await asyncio.to_thread(answer, secure, tls=True)).startswith(b"HTTP/1.1")
            return False

        await becomes(is_renewed)
        running.signal(signal.SIGHUP)
        await running.says("reloaded")
        os.unlink(certificate)
        await kill_one(running)
        await all_are_served(secure, tls=True)


def cannot_start(folder: Path) -> str:
    """No worker can start while the file `broken` exists."""
    broken = folder / "broken"
    return meddling(
        folder,
        f"if 'hermes_lb.workers' in argv and os.path.exists({str(broken)!r}): os._exit(7)",
    )


@pytest.mark.slow
async def test_others_serve_for_a_slot_that_nobody_can_take(stage: Stage, tmp_path: Path) -> None:
    before = cannot_start(tmp_path)
    async with serving(stage, tmp_path, workers=2, before=before) as running:
        (tmp_path / "broken").touch()
        await kill_one(running)
        for _ in range(3):  # each time its listeners are updated again
            await running.says("a worker process can't start: .* with exit status 7")
            running.said = ""
        for _ in range(3):
            await all_are_served(running.port)
        assert len(running.workers) == 1

        (tmp_path / "broken").unlink()

        async def is_whole() -> bool:
            await all_are_served(running.port)
            return len(running.workers) == 2

        await becomes(is_whole)
        await kill_one(running)
        await all_are_served(running.port)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_who_cannot_be_served_is_refused_at_once(
    stage: Stage, tmp_path: Path, workers: int
) -> None:
    before = cannot_start(tmp_path)
    async with serving(stage, tmp_path, workers=workers, before=before) as running:
        (tmp_path / "broken").touch()
        for victim in running.workers:
            os.kill(victim, signal.SIGKILL)
        for _ in range(2 * workers + 1):  # each slot has failed
            await running.says("with exit status 7")
            running.said = ""
        for _ in range(20):
            with pytest.raises(OSError, match=r"reset|refused"):
                await asyncio.to_thread(answer, running.port)

        (tmp_path / "broken").unlink()

        async def is_served() -> bool:
            with suppress(OSError):
                return (await asyncio.to_thread(answer, running.port)).startswith(b"HTTP/1.1 200")
            return False

        await becomes(is_served)
        await becomes_whole(running, workers)
        await all_are_served(running.port)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
    assert "Traceback" not in running.said


async def becomes_whole(running: Running, workers: int) -> None:
    async def is_whole() -> bool:
        return len(running.workers) == workers

    await becomes(is_whole)


async def test_a_socket_in_the_file_system_refuses_too(stage: Stage, tmp_path: Path) -> None:
    before = cannot_start(tmp_path)
    path = tmp_path / "lb.sock"
    bind = f'["127.0.0.1:0", "unix:{path}"]'
    async with serving(stage, tmp_path, workers=1, bind=bind, before=before) as running:
        (tmp_path / "broken").touch()
        await kill_one(running)
        await running.says("with exit status 7; another one starts in")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""
        (tmp_path / "broken").unlink()


async def test_failed_starts_are_counted(stage: Stage, tmp_path: Path) -> None:
    before = cannot_start(tmp_path)
    async with serving(stage, tmp_path, workers=1, before=before) as running:
        admin = int((await running.says(r"admin on http://\S+:(\d+)"))[1])
        (tmp_path / "broken").touch()
        await kill_one(running)
        for _ in range(2):
            await running.says("with exit status 7")
            running.said = ""
        metrics = await asyncio.to_thread(metrics_of, admin)
        [count] = [
            float(line.split()[1])
            for line in metrics.splitlines()
            if line.startswith("hermes_lb_process_restarts_total ")
        ]
        assert count >= 3


def metrics_of(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        host = f"127.0.0.1:{port}"
        sock.sendall(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while data := sock.recv(65536):
            received += data
        return received.decode()


def hangs(folder: Path) -> str:
    """Each worker hangs at its start while the file `hang` exists."""
    hang = folder / "hang"
    condition = f"'hermes_lb.workers' in argv and os.path.exists({str(hang)!r})"
    return meddling(folder, f"import time\nif {condition}: time.sleep(45)")


async def test_a_worker_that_hangs_at_its_start_is_as_one_that_fails(
    stage: Stage, tmp_path: Path
) -> None:
    async with serving(stage, tmp_path, workers=2, before=hangs(tmp_path)) as running:
        (tmp_path / "hang").touch()
        await kill_one(running)
        await running.says("is stuck: it is killed")
        await running.says("a worker process can't start: .* by signal 9")
        for _ in range(3):
            await all_are_served(running.port)
        (tmp_path / "hang").unlink()
        await becomes_whole(running, 2)
        await all_are_served(running.port)
