"""Signals before the balancer can handle them: none is lost, and none ends it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hermes_lb.signals import HANDLED, EndingAtOnce
from tests.support.balancer_process import Running, process, until_it_listens
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stage import Stage


def holds_signals(running: Running, thread: int | None = None) -> bool:
    """Those that it will handle would wait now (proc(5)): just these, as by `signals.hold`."""
    pid = running.process.pid
    status = Path(f"/proc/{pid}/task/{thread or pid}/status").read_text()
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
    return int(blocked.split()[1], 16) == sum(1 << (number - 1) for number in HANDLED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "then"),
    [
        (signal.SIGHUP, "reloaded"),
        (signal.SIGUSR1, "access log .*: reopened"),
        (signal.SIGUSR2, "upgraded"),
    ],
)
async def test_an_order_waits_until_it_can_be_followed(
    stage: Stage, tmp_path: Path, number: signal.Signals, then: str
) -> None:
    origin = await stage.serving()
    more = f'[log]\naccess = "{tmp_path}/access.log"\n'
    async with process(tmp_path, origin.port, more=more) as running:
        await eventually(lambda: holds_signals(running))
        running.signal(number)
        await until_it_listens(running)
        await running.says(then)
        client = await stage.client(running.url)
        assert (await client.ask()).body == b"ok"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_end_that_is_asked_for_early_is_an_orderly_one(
    stage: Stage, tmp_path: Path, number: signal.Signals
) -> None:
    origin = await stage.serving()
    async with process(tmp_path, origin.port) as running:
        await eventually(lambda: holds_signals(running))
        running.signal(number)
        assert await running.ended() == 0
    assert "Traceback" not in running.said


def test_who_may_be_ended_at_once_is_as_before_afterwards() -> None:
    def state() -> tuple[object, ...]:
        ends = (signal.SIGTERM, signal.SIGINT)
        return signal.pthread_sigmask(signal.SIG_BLOCK, ()), *map(signal.getsignal, ends)

    before = state()
    with EndingAtOnce():
        assert state() == (set(), signal.SIG_DFL, signal.SIG_DFL)
    assert state() == before


@pytest.mark.slow
async def test_only_the_main_thread_takes_signals(stage: Stage, tmp_path: Path) -> None:
    """A signal taken by another thread during an upgrade's exec would be lost."""
    origin = await stage.serving()
    async with process(tmp_path, origin.port) as running:
        await until_it_listens(running)
        others = set(threads_of(running)) - {running.process.pid}
        assert others
        assert all(holds_signals(running, thread) for thread in others)
        assert not holds_signals(running)


def threads_of(running: Running) -> list[int]:
    return [int(one.name) for one in Path(f"/proc/{running.process.pid}/task").iterdir()]
