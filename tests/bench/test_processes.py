"""A proxy is measured with all its processes, and all of them are on its cores."""

from __future__ import annotations

import os
import sys
import time
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
