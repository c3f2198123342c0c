"""A signal that ends the balancer during its start does not wait for what the start waits for."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.balancer_process import run
from tests.support.waiting import eventually
from tests.workers.forced_states import meddling

if TYPE_CHECKING:
    from pathlib import Path

ENDS = [signal.SIGTERM, signal.SIGINT]


def configured(folder: Path, *, bind: str, server: str) -> Path:
    file = folder / "lb.toml"
    file.write_text(
        '[admin]\nenabled = false\n[process]\nmax_connections = 100\n[log]\naccess = "off"\n'
        f'[[frontends]]\nname = "public"\nbind = "{bind}"\ndefault_backend = "agents"\n'
        f'[backends.agents]\nservers = [{{ name = "a", {server} }}]\n'
    )
    return file


def dead_name_server(folder: Path) -> tuple[str, Path]:
    """`nobody.test` never resolves -> shell code, and a file that appears when it is looked up."""
    asked = folder / "asked"
    code = f"""
import pathlib, socket, threading
look_up = socket.getaddrinfo
def getaddrinfo(host, *how, **more):
    if host == "nobody.test":
        pathlib.Path({str(asked)!r}).touch()
        threading.Event().wait()
    return look_up(host, *how, **more)
socket.getaddrinfo = getaddrinfo
"""
    return meddling(folder, code), asked


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize(
    ("bind", "server"),
    [
        ("127.0.0.1:0", 'address = "nobody.test:80", resolve = "5s"'),
        ("nobody.test:0", 'address = "127.0.0.1:80"'),
    ],
    ids=["server", "bind"],
)
async def test_a_name_server_that_is_dead(
    tmp_path: Path, bind: str, server: str, number: signal.Signals
) -> None:
    before, asked = dead_name_server(tmp_path)
    file = configured(tmp_path, bind=bind, server=server)
    # Python can't intercept uvloop's own look-ups.
    async with run(file, "--loop", "asyncio", before=before) as running:
        await eventually(asked.exists)
        running.signal(number)
        assert await running.ended() == 0
    assert running.said.endswith("hermes_lb: ended before it served\n")


@pytest.mark.parametrize("number", ENDS)
async def test_a_configuration_in_a_fifo_that_nobody_writes(
    tmp_path: Path, number: signal.Signals
) -> None:
    fifo = tmp_path / "lb.toml"
    os.mkfifo(fifo)
    opened: list[int] = []

    def is_read() -> bool:
        try:
            opened.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # no reader yet
            return False
        return True

    async with run(fifo) as running:
        await eventually(is_read)
        running.signal(number)
        assert await running.ended() == -number
    os.close(opened[0])
    assert running.said == ""
