"""Notifications to a service manager, and its signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.balancer_process import process, until_it_listens
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.stage import Stage


class Manager:
    """Receives sd_notify's datagrams."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def has_heard(self, wanted: str) -> bool:
        self._listen()
        return wanted in self.heard

    def has_heard_start(self, wanted: str) -> bool:
        self._listen()
        return any(line.startswith(wanted) for line in self.heard)

    def _listen(self) -> None:
        try:
            while True:
                self.heard += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            pass

    def forget(self) -> None:
        self.heard.clear()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    manager = Manager(tmp_path)
    yield manager  # type: ignore[misc]
    manager.close()


@pytest.mark.slow
async def test_it_tells_when_it_is_ready_alive_reloading_and_stopping(
    stage: Stage, tmp_path: Path, manager: Manager
) -> None:
    origin = await stage.serving()
    before = f"export NOTIFY_SOCKET={manager.path} WATCHDOG_USEC=200000"
    async with process(tmp_path, origin.port, before=before) as running:
        await until_it_listens(running)
        await eventually(lambda: manager.has_heard("READY=1"))
        for _ in range(3):
            manager.forget()
            await eventually(lambda: manager.has_heard("WATCHDOG=1"))
        manager.forget()
        running.signal(signal.SIGHUP)
        await eventually(lambda: manager.has_heard("RELOADING=1"))
        await eventually(lambda: manager.has_heard("READY=1"))
        running.signal(signal.SIGTERM)
        await eventually(lambda: manager.has_heard("STOPPING=1"))
        assert await running.ended() == 0


@pytest.mark.slow
async def test_it_tells_what_systemctl_status_is_to_show(
    stage: Stage, tmp_path: Path, manager: Manager
) -> None:
    origin = await stage.serving()
    before = f"export NOTIFY_SOCKET={manager.path}"
    usual = "STATUS=1 worker, 1 of 1 servers up"
    async with process(tmp_path, origin.port, before=before) as running:
        await eventually(lambda: manager.has_heard(usual))
        file = tmp_path / "lb.toml"
        good = file.read_text()
        file.write_text(good.replace("agents", "agent", 1))
        running.signal(signal.SIGHUP)
        why = f'{file}:10: frontends[0].default_backend: there is no backend "agent"; did you mean'
        await eventually(lambda: manager.has_heard_start(f"{usual}; reload refused: {why}"))
        manager.forget()
        file.write_text(good)
        running.signal(signal.SIGHUP)
        await eventually(lambda: manager.has_heard(usual))
        manager.forget()
        running.signal(signal.SIGUSR2)
        await eventually(lambda: manager.has_heard("STATUS=upgrading; 1 worker, 1 of 1 servers up"))
        await eventually(lambda: manager.has_heard(usual))
        running.signal(signal.SIGTERM)
        await eventually(lambda: manager.has_heard("STATUS=draining"))
        assert await running.ended() == 0


@pytest.mark.slow
async def test_workers_are_not_notified_of_the_service_manager(
    stage: Stage, tmp_path: Path, manager: Manager
) -> None:
    origin = await stage.serving()
    before = f"export NOTIFY_SOCKET={manager.path}"
    async with process(tmp_path, origin.port, before=before) as running:
        await until_it_listens(running)
        for worker in running.workers:
            assert b"NOTIFY_SOCKET" not in environment_of(worker)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.slow
async def test_it_takes_sockets_that_are_open_already(stage: Stage, tmp_path: Path) -> None:
    """As systemd passes them: descriptors from 3 on, for this process."""
    origin = await stage.serving()
    with socket.create_server(("127.0.0.1", 0)) as passed:
        port = passed.getsockname()[1]
        os.set_inheritable(passed.fileno(), True)
        fd = passed.fileno()
        before = f"exec 3<&{fd} && export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=public"
        bind = f"127.0.0.1:{port}"
        async with process(
            tmp_path, origin.port, bind=bind, before=before, pass_fds=(fd,)
        ) as running:
            passed.close()
            await until_it_listens(running)
            client = await stage.client(running.url)
            assert (await client.ask()).body == b"ok"


@pytest.mark.slow
async def test_a_log_file_that_was_moved_is_reopened_on_usr1(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving()
    log = tmp_path / "access.log"
    async with process(tmp_path, origin.port, more=f'[log]\naccess = "{log}"\n') as running:
        await until_it_listens(running)
        client = await stage.client(running.url)
        await client.ask("/first")
        await eventually(lambda: "/first" in log.read_text())
        moved = log.rename(tmp_path / "access.log.1")
        running.signal(signal.SIGUSR1)
        async with asyncio.timeout(10):
            while not log.exists():
                await turns()
        await client.ask("/second")
        await eventually(lambda: "/second" in log.read_text())
        assert "/second" not in moved.read_text()
