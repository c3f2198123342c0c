"""`run`: the whole demo, from the first check of a port to the last process."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hermes_lb.config import load_config
from hermes_lb.demo.client import Client
from hermes_lb.demo.failures import DemoFailed
from hermes_lb.demo.open_house import OpenHouse
from hermes_lb.demo.plan import Unsuitable, make_plan, obstacles
from hermes_lb.demo.processes import Children
from hermes_lb.demo.scenes import Scenes
from hermes_lb.demo.screen import Screen
from hermes_lb.demo.system import BALANCER, DATABASE, STORE, System

if TYPE_CHECKING:
    from hermes_lb.demo.plan import Plan

_TAIL = 12  # lines of a log that may have the reason


def run(*, once: bool, config: Path) -> int:
    """Show everything -> the exit status.

    0: all checks held, or Ctrl-C ended it while it stayed up; 1: a check failed or it could not
    start, with the reason printed; 128 + a signal that came before. Call it from the main thread:
    it handles signals, and starts processes that die with their thread.
    """
    try:
        plan = make_plan(load_config(config), config)
    except Unsuitable as error:
        return _refuse([str(error)])
    taken = obstacles(plan)
    if taken:
        return _refuse(taken)
    folder = Path(tempfile.mkdtemp(prefix="hermes-demo-"))
    has_failed = False
    try:
        with asyncio.Runner() as runner:
            status = runner.run(_Demo(plan, folder, once=once).run())
        has_failed = status == 1
    finally:
        if has_failed:
            print(f"hermes-lb: the logs are kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return status


def _refuse(reasons: list[str]) -> int:
    for reason in reasons:
        print(f"hermes-lb: {reason}", file=sys.stderr)
    return 1


class _Demo:
    def __init__(self, plan: Plan, folder: Path, *, once: bool) -> None:
        self._plan = plan
        self._once = once
        self._folder = folder
        self._screen = Screen(Console(), [worker.name for worker in plan.workers])
        self._children = Children(folder)
        self._system = System(plan, self._children, folder)
        self._signal: signal.Signals | None = None
        self._is_open = False  # all scenes are over, it stays up

    async def run(self) -> int:
        self._take_signals()
        try:
            async with self._children:
                try:
                    return await self._show()
                except DemoFailed as failure:
                    self._report(str(failure), failure.culprit)
                    return 1
                finally:
                    self._screen.ended()
                    self._screen.blank()
                    self._screen.line(
                        "Ending the balancer, the workers, PostgreSQL and Valkey.", "dim"
                    )
        except asyncio.CancelledError:
            if self._signal is None:
                raise
            return 0 if self._is_open else 128 + self._signal

    def _take_signals(self) -> None:
        """The first one ends the demo in order; another one at once."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def take(number: signal.Signals) -> None:
            if self._signal is None:
                self._signal = number
                task.cancel()
            else:
                self._children.kill_all()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, take, number)

    async def _show(self) -> int:
        began = time.monotonic()
        self._screen.title("The whole system, on this machine", str(self._plan.source))
        self._screen.blank()
        await self._start()
        async with Client(self._plan.url, self._screen) as client:
            scenes = Scenes(self._system, client, self._screen)
            await scenes.play()
        self._screen.blank()
        if scenes.failed:
            for check in scenes.failed:
                self._screen.bad(check.failure)
            self._report(
                f"{len(scenes.failed)} of {len(scenes.checks)} checks failed", scenes.culprits[0]
            )
            return 1
        took = time.monotonic() - began
        self._screen.good(f"all {len(scenes.checks)} checks held, in {took:.0f} s")
        if not self._once:
            self._is_open = True
            await OpenHouse(self._system, self._screen, self._folder / "cookies").run()
        return 0

    async def _start(self) -> None:
        system, screen, plan = self._system, self._screen, self._plan
        with screen.waiting("starting Valkey"):
            await system.start_store()
        self._show_process(STORE, *system.store)
        with screen.waiting("starting PostgreSQL"):
            await system.start_database()
        # A Unix socket: not worth showing.
        self._show_process(DATABASE, "(a socket)", system.database.version)
        with screen.waiting(f"starting {len(plan.workers)} workers"):
            for worker in plan.workers:
                await system.start_worker(worker)
            for worker in plan.workers:
                await system.wait_for_worker(worker)
        for worker in plan.workers:
            self._show_process(worker.name, worker.url)
        with screen.waiting("starting the balancer"):
            await system.start_balancer()
        self._show_process(BALANCER, plan.url)
        screen.row("admin", plan.admin_url)
        screen.row("logs", str(self._folder))

    def _show_process(self, name: str, place: str, detail: str = "") -> None:
        pid = f"pid {self._system.processes[name].pid}"
        self._screen.row(name, place, f"{pid:<12}{detail}".rstrip())

    def _report(self, message: str, culprit: str | None) -> None:
        """Print the failure, and the end of the suspected process's log."""
        self._screen.ended()
        self._screen.bad(message)
        dead = [child.name for child in self._system.ended()]
        for name in dict.fromkeys(filter(None, [culprit, *dead, BALANCER])):
            child = self._system.processes.get(name)
            lines = child.tail(_TAIL) if child else []
            if child and lines:
                self._screen.raw(f"the end of {child.log}:", "bold")
                for line in lines:
                    self._screen.raw(f"  {line}", "dim")
