"""The admin listener of several processes: health of the processes, and sockets over an upgrade."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from hermes_lb.tasks import Tasks
from tests.support.balancer_process import Running, reserved_port, run, until_it_listens
from tests.support.waiting import PATIENCE, turns
from tests.workers.forced_states import meddling

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stage import Stage


def write(folder: Path, port: int, workers: int, admin: str = 'bind = "127.0.0.1:0"') -> Path:
    file = folder / "lb.toml"
    file.write_text(
        f"[process]\nworkers = {workers}\nmax_connections = 100\n"
        f'[admin]\n{admin}\n[log]\naccess = "off"\n'
        '[[frontends]]\nname = "public"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
        f'[backends.agents]\nservers = [{{ name = "a", address = "127.0.0.1:{port}" }}]\n'
    )
    return file


async def admin_port(running: Running) -> int:
    await until_it_listens(running)
    return int((await running.says(r"admin on http://\S+:(\d+)"))[1])


def health(port: int, host: str = "127.0.0.1") -> bytes:
    """Status and body; waits with the backlog."""
    with socket.create_connection((host, port), timeout=PATIENCE) as sock:
        name = f"{host}:{port}".encode()
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % name)
        received = b""
        while data := sock.recv(4096):
            received += data
        return received[9:12] + b" " + received.partition(b"\r\n\r\n")[2]


async def becomes(port: int, wanted: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        while await asyncio.to_thread(health, port) != wanted:
            await turns()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_it_tells_when_no_worker_can_be_started(
    stage: Stage, tmp_path: Path, workers: int
) -> None:
    origin = await stage.serving()
    broken = tmp_path / "broken"
    before = meddling(
        tmp_path,
        f"if 'hermes_lb.workers' in argv and os.path.exists({str(broken)!r}): os._exit(7)",
    )
    async with run(write(tmp_path, origin.port, workers), before=before) as running:
        port = await admin_port(running)
        assert await asyncio.to_thread(health, port) == b'200 {"status": "ok"}'
        broken.touch()
        victims = running.workers
        os.kill(victims[0], signal.SIGKILL)
        if workers == 2:
            await becomes(port, b'200 {"status": "degraded"}')
            os.kill(victims[1], signal.SIGKILL)
        await becomes(port, b'503 {"status": "down"}')
        broken.unlink()
        await becomes(port, b'200 {"status": "ok"}')


@pytest.mark.slow
async def test_its_port_stays_open_through_an_upgrade(stage: Stage, tmp_path: Path) -> None:
    """No other program can bind it, and new clients wait. Open connections may be cut."""
    origin = await stage.serving()
    async with run(write(tmp_path, origin.port, 1)) as running:
        port = await admin_port(running)
        running.signal(signal.SIGUSR2)
        upgraded = Tasks().spawn(running.says("upgraded: all processes"), name="upgraded")
        answers = []
        while not upgraded.done():
            with suppress(ConnectionResetError):  # a reset, unlike a refusal, is allowed
                answers.append(await asyncio.to_thread(health, port))
        await upgraded
        assert set(answers) <= {b'200 {"status": "ok"}', b" "}
        assert await asyncio.to_thread(health, port) == b'200 {"status": "ok"}'
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


@pytest.mark.slow
async def test_an_upgrade_moves_it_to_an_address_that_has_the_old_one_in_it(
    stage: Stage, tmp_path: Path
) -> None:
    origin = await stage.serving()
    with reserved_port() as port:
        token = 'token = "0123456789abcdefgh"'
        narrow = f'bind = "127.0.0.1:{port}"\n{token}'
        async with run(write(tmp_path, origin.port, 1, narrow)) as running:
            await admin_port(running)
            write(tmp_path, origin.port, 1, f'bind = "0.0.0.0:{port}"\n{token}')
            running.signal(signal.SIGUSR2)
            await running.says("upgraded: all processes")
            assert await asyncio.to_thread(health, port, "127.0.0.2") == b'200 {"status": "ok"}'
