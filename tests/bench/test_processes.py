"""A proxy is measured with all its processes, and all of them are on its cores."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.live.processes import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A parent that rests, and a child that takes 40 MB and then works as long as its parent lives.
CHILD = (
    "import os; parent = os.getppid(); block = bytearray(b'x' * 40_000_000)\n"
    "print('took', flush=True)\n"
    "while os.getppid() == parent: pass"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"
ENDING = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("runs", flush=True)
signal.sigwait([signal.SIGTERM])
print("has ended")
"""
SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
accepted = []
while True: accepted.append(server.accept())
"""
CORE = min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    log = tmp_path_factory.mktemp("family") / "log"
    command = [sys.executable, "-c", PARENT]
    with Process(command, core=[CORE], log=log) as process:
        wait_until(lambda: "took" in process.output())
        yield process


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():  # pytest-timeout ends it
        time.sleep(0.01)


def test_the_cpu_of_a_child_is_counted(family: Process) -> None:
    before = family.cpu_ns()
    wait_until(lambda: family.cpu_ns() - before > 20e6)


def test_the_memory_of_a_child_is_counted(family: Process) -> None:
    assert 40_000 < family.resident_kb() < 80_000


def test_parent_and_child_are_on_the_cores_that_were_given(family: Process) -> None:
    pids = family.pids()

    assert len(pids) == 2
    assert [os.sched_getaffinity(pid) for pid in pids] == [{CORE}, {CORE}]


def test_a_paused_process_uses_no_cpu_until_it_is_resumed(family: Process) -> None:
    family.pause()
    try:
        wait_until(lambda: states(family.pids()) == {"T"})
        before = family.cpu_ns()
        time.sleep(0.05)  # in which a running child uses that much
        assert family.cpu_ns() == before
    finally:
        family.resume()
    wait_until(lambda: family.cpu_ns() - before > 20e6)


def test_a_paused_process_ends_by_sigterm(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", ENDING], core=None, log=tmp_path / "log") as process:
        wait_until(lambda: "runs" in process.output())
        process.pause()
    assert process.output() == "runs\nhas ended"


def test_connections_are_counted_by_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(port)]
    with Process(command, core=None, log=tmp_path / "log") as server, ExitStack() as stack:
        wait_until(lambda: "listens" in server.output())
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        wait_until(lambda: server.connections(port) == {server.pid: 3})


def states(pids: list[int]) -> set[str]:
    stats = (Path(f"/proc/{pid}/stat") for pid in pids)
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats if stat.exists()}
