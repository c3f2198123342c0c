"""Stays up: commands to try, the access log, restarted workers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NoReturn

from hermes_lb.demo.client import SESSIONS
from hermes_lb.demo.failures import DemoFailed

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb.demo.plan import PlannedWorker
    from hermes_lb.demo.processes import Child
    from hermes_lb.demo.screen import Screen
    from hermes_lb.demo.system import System

_LOOK_EVERY = 0.25
# Seconds; long enough to see the others go on.
_RESTART_AFTER = 5.0


def things_to_try(system: System, cookies: Path) -> list[str]:
    """Shell commands, to be pasted one by one or all at once."""
    plan = system.plan
    pids = {worker.name: system.processes[worker.name].pid for worker in plan.workers}
    json_type = "-H 'Content-Type: application/json'"
    return [
        "# a session; the cookie leads back to the worker that made it",
        f"API={plan.url}{SESSIONS}",
        f"JAR={cookies}",
        "ID=$(curl -s -c $JAR -X POST $API | cut -d'\"' -f4)",
        "# a turn, answered as JSON; X-Hermes-Worker says who served it",
        "curl -si -b $JAR -c $JAR $API/$ID/messages \\",
        f'  {json_type} -d \'{{"content": "My name is Ada."}}\'',
        "# a turn, streamed as server-sent events",
        "curl -sN -b $JAR -c $JAR $API/$ID/messages -H 'Accept: text/event-stream' \\",
        f'  {json_type} -d \'{{"content": "Write 60 words"}}\'',
        "# the session, from whichever worker",
        "curl -si $API/$ID",
        "# to watch: the state of every server, and the metrics for Prometheus",
        f"curl -s {plan.admin_url}/api/v1/servers",
        f"curl -s {plan.admin_url}/metrics",
        f"# kill one, and ask again: another answers; it is back after {_RESTART_AFTER:g} s",
        f"# {', '.join(f'{name}: {pid}' for name, pid in pids.items())}",
        f"kill -9 {pids[plan.workers[0].name]}",
    ]


class OpenHouse:
    def __init__(self, system: System, screen: Screen, cookies: Path) -> None:
        self._system = system
        self._screen = screen
        self._cookies = cookies
        self._requests_shown = len(system.logged())
        self._verdicts_shown = len(system.verdicts())
        self._restarts: dict[str, float] = {}  # name -> when, by the monotonic clock

    async def run(self) -> NoReturn:
        """Run until cancelled. Raises DemoFailed if anything but a worker ends by itself."""
        self._invite()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            self._show_news()
            for child in self._system.ended():
                worker = self._system.plan.worker(child.name)
                if worker is None:
                    raise DemoFailed(f"{child.name} {child.how_it_ended}", culprit=child.name)
                await self._see_to(worker, child)

    def _invite(self) -> None:
        plan = self._system.plan
        self._screen.heading("It stays up until Ctrl-C. In another terminal:")
        self._screen.blank()
        for line in things_to_try(self._system, self._cookies):
            self._screen.raw(line, "dim" if line.startswith("#") else "")
        self._screen.heading("Where:")
        self._screen.blank()
        self._screen.row("sessions", f"{plan.url}{SESSIONS}")
        self._screen.row("admin", plan.admin_url, "/healthz  /metrics  /api/v1/servers")
        self._screen.row("logs", str(self._system.access_log.parent))
        self._screen.heading("Requests, as they are logged:")

    def _show_news(self) -> None:
        requests, verdicts = self._system.logged(), self._system.verdicts()
        for line in requests[self._requests_shown :]:
            self._screen.logged(line)
        for line in verdicts[self._verdicts_shown :]:
            self._screen.line(line)
        self._requests_shown, self._verdicts_shown = len(requests), len(verdicts)

    async def _see_to(self, worker: PlannedWorker, child: Child) -> None:
        now = time.monotonic()
        if worker.name not in self._restarts:
            self._restarts[worker.name] = now + _RESTART_AFTER
            again = f"it starts again in {_RESTART_AFTER:g} s"
            self._screen.bad(f"{worker.name} (pid {child.pid}) {child.how_it_ended}; {again}")
        elif now >= self._restarts[worker.name]:
            del self._restarts[worker.name]
            started = await self._system.start_worker(worker)
            self._screen.good(f"{worker.name} is started again (pid {started.pid})")
