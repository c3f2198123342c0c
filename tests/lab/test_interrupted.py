"""SIGINT and SIGTERM end a run, and all that it has started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.balancing import STRATEGIES
from hermes_lb.lab import agents, sockets
from hermes_lb.lab.workloads import constant, poisson
from hermes_lb.signals import HANDLED
from hermes_lb.tasks import Tasks
from hermes_lb.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Moment = Callable[[asyncio.subprocess.Process], Awaitable[object]]

INTERRUPTED = "hermes-lb: the laboratory was interrupted"
VIRTUAL = ("--scenario", "short", "--requests", "100000")
LIVE = ("--live", "--servers", "2", "--requests", "2000")
IGNORING_SIGINT = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh")


@pytest.fixture(autouse=True)
def signals_by_default() -> Iterator[None]:
    """Signals that the tests' parent ignores or blocks would be inherited by all processes."""
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before or signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


async def interrupted(
    number: signal.Signals,
    folder: Path,
    words: tuple[str, ...],
    moment: Moment,
    *before: str,
) -> tuple[int | None, list[str]]:
    """Exit status of a run that gets the signal at this moment, and what it says from then on."""
    running = await asyncio.create_subprocess_exec(
        *before, sys.executable, "-m", "hermes_lb", "lab", *words,
        "--output", str(folder / "out"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await moment(running)
        running.send_signal(number)
        _, said = await running.communicate()
        return running.returncode, said.decode().splitlines()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def one_strategy_is_through(running: asyncio.subprocess.Process) -> None:
    assert running.stderr is not None
    assert await running.stderr.readline() == b"short: round_robin\n"


async def it_plays(running: asyncio.subprocess.Process) -> None:
    """A balancer for each strategy, and its servers, have their sockets."""
    assert running.stderr is not None
    begins = f"live: {len(STRATEGIES)} strategies at once".encode()
    assert (await running.stderr.readline()).startswith(begins)
    descriptors = Path(f"/proc/{running.pid}/fd")
    await eventually(lambda: len(list(descriptors.iterdir())) > 40)


at_work = pytest.mark.parametrize(
    ("words", "moment"), [(VIRTUAL, one_strategy_is_through), (LIVE, it_plays)]
)


def children_of(pid: int) -> set[int]:
    """And theirs; of those that live (proc(5))."""
    found = set()
    with suppress(FileNotFoundError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= {int(child), *children_of(int(child))}
    return found


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@at_work
async def test_an_interruption_is_said_in_one_line_and_nothing_is_written(
    words: tuple[str, ...], moment: Moment, number: signal.Signals, tmp_path: Path
) -> None:
    status, said = await interrupted(number, tmp_path, words, moment)
    assert status == 130
    assert [line for line in said if not line.startswith("short: ")] == [INTERRUPTED]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interruption_while_it_loads_is_said_too(
    number: signal.Signals, tmp_path: Path
) -> None:
    async def it_loads(running: asyncio.subprocess.Process) -> None:
        status = Path(f"/proc/{running.pid}/status")
        await eventually(lambda: held(status.read_text()) == set(HANDLED))

    assert await interrupted(number, tmp_path, LIVE, it_loads) == (130, [INTERRUPTED])


def held(status: str) -> set[int]:
    """The signals that wait (proc(5))."""
    blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
    return {number for number in signal.valid_signals() if blocked >> (number - 1) & 1}


@pytest.mark.slow
@at_work
async def test_sigterm_ends_what_a_script_has_put_into_the_background(
    words: tuple[str, ...], moment: Moment, tmp_path: Path
) -> None:
    """Shells have such a job ignore SIGINT."""
    status, said = await interrupted(signal.SIGTERM, tmp_path, words, moment, *IGNORING_SIGINT)
    assert (status, said[-1]) == (130, INTERRUPTED)


async def test_a_play_that_is_cancelled_leaves_nothing_running() -> None:
    """asyncio tells of tasks that it has to end itself, with a traceback each."""
    workload = poisson(Random(1), 50, 1000.0, constant(60.0))
    before = asyncio.all_tasks()
    playing = Tasks().spawn(sockets.play(["random", "leastconn"], 2, workload), name="play")
    await eventually(lambda: {"a worker's connection"} <= names(asyncio.all_tasks()))
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert asyncio.all_tasks() == before


def names(tasks: set[asyncio.Task[object]]) -> set[str]:
    return {task.get_name() for task in tasks}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "before"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGTERM, IGNORING_SIGINT)],
)
async def test_agents_that_start_are_ended_too(
    number: signal.Signals, before: tuple[str, ...], tmp_path: Path
) -> None:
    started: set[int] = set()

    async def they_start(running: asyncio.subprocess.Process) -> None:
        def are_so_many(count: int) -> bool:
            started.update(children_of(running.pid))
            return len(started) >= count

        await eventually(lambda: are_so_many(1))
        await eventually(lambda: are_so_many(3))  # the store, its server, an agent

    words = (*LIVE, "--agents")
    ended = await interrupted(number, tmp_path, words, they_start, *before)
    assert ended == (130, [INTERRUPTED])
    await eventually(lambda: not any(map(is_running, started)))


@pytest.mark.slow
async def test_an_agent_that_does_not_start_in_time_is_said_and_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agents, "_PATIENCE", 0.001)
    before = children_of(os.getpid())
    with pytest.raises(RuntimeError, match=r"^a worker did not start within 0\.001 s$"):
        await agents.Agents(1).__aenter__()
    assert children_of(os.getpid()) <= before


async def test_a_second_interruption_does_not_wait_for_who_does_not_end() -> None:
    program = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); input()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    running = agents.Agents(0)
    running._processes.append(process)
    ending = Tasks().spawn(running.__aexit__(None, None, None), name="end")
    await asyncio.sleep(0)  # it has got its signal, and is waited for
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert process.returncode == -signal.SIGKILL
