"""The scenes, in order: each acts as a client or an operator, and checks the outcome."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from hermes_lb.demo import checks
from hermes_lb.demo.plan import seconds_until_down, seconds_until_up
from hermes_lb.demo.reader import read_story
from hermes_lb.demo.system import TOKEN_INTERVAL_MS

if TYPE_CHECKING:
    from hermes_lb.demo.checks import Check
    from hermes_lb.demo.client import Client, Turn
    from hermes_lb.demo.plan import PlannedWorker
    from hermes_lb.demo.screen import Screen
    from hermes_lb.demo.system import System

NAME, CAT = "Ada", "Moxie"
_WORDS = 40
_WORDS_BEFORE_KILL = 15  # of them, before the worker is killed
_WORDS_BEFORE_CUT = 15  # of the story, before its connection is lost
_TOKEN_INTERVAL = TOKEN_INTERVAL_MS / 1000

# The access log is written four times a second.
_LOG_TAKES = 2.0
_SHOWN_LOG_LINES = 3


class Scenes:
    """`play` them, then look at `checks`. Raises DemoFailed if it can't continue."""

    def __init__(self, system: System, client: Client, screen: Screen) -> None:
        self.checks: list[Check] = []
        self.culprits: list[str] = []  # workers that served when a check failed
        self._system = system
        self._client = client
        self._screen = screen
        self._turns: list[Turn] = []
        self._requests = 0

    async def play(self) -> None:
        await self._create()
        await self._json_turn()
        await self._streamed_turn()
        await self._websocket_turn()
        killed = await self._kill()
        await self._turn_after_the_kill(killed)
        await self._read_back()
        await self._memory()
        await self._come_back(killed)
        await self._story()
        await self._access_log()

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.held]

    async def _create(self) -> None:
        self._screen.scene("Create a session")
        self._requests += 1
        await self._client.create()
        names = [worker.name for worker in self._system.plan.workers]
        self._check(checks.says_who_served(self._client.worker, names))

    async def _json_turn(self) -> None:
        self._screen.scene("A turn, answered as JSON")
        before = self._client.worker
        turn = await self._client.ask(f"Hello, my name is {NAME}.")
        self._keep(turn)
        self._check(checks.answer_contains(NAME, turn))
        self._check_affinity(before)

    async def _streamed_turn(self) -> None:
        self._screen.scene("A turn, streamed as server-sent events, with tools")
        before = self._client.worker
        turn = await self._client.stream("What time is it, and what is 17 * 23?")
        self._keep(turn)
        self._check(checks.tools_ran(["calculator", "clock"], turn))
        self._check(checks.answer_contains("17 * 23 = 391", turn))
        self._check_stream(turn)
        self._check_affinity(before)

    async def _websocket_turn(self) -> None:
        self._screen.scene("A turn over WebSocket")
        before = self._client.worker
        turn = await self._client.talk(f"Write {_WORDS} words")
        self._keep(turn)
        self._check_stream(turn)
        self._check_affinity(before)

    async def _kill(self) -> PlannedWorker:
        """Kill the worker that serves, in mid-sentence if the configuration can resume it."""
        worker = self._system.plan.worker(self._client.worker) or self._system.plan.workers[0]
        if not self._system.plan.resumes:
            self._screen.scene(f"kill -9: {worker.name}, which served last, is gone")
            await self._kill_worker(worker)
            return worker
        self._screen.scene("kill -9 in the middle of a sentence")
        before = await self._resumes()

        async def kill() -> None:
            nonlocal worker
            # Without a cookie in the configuration another one may have served.
            worker = self._system.plan.worker(self._client.worker) or worker
            self._screen.ended()
            await self._kill_worker(worker)

        turn = await self._client.stream(f"Write {_WORDS} words", after=_WORDS_BEFORE_KILL, do=kill)
        self._keep(turn)
        pause = (
            turn.times[_WORDS_BEFORE_KILL] - turn.times[_WORDS_BEFORE_KILL - 1]
            if len(turn.times) > _WORDS_BEFORE_KILL
            else 0.0
        )
        self._screen.line(f"after {pause:.1f} s, in the same response", "dim")
        self._check(checks.went_on(turn, _WORDS_BEFORE_KILL, _WORDS))
        self._check(checks.tokens_are_the_answer(turn))
        now = await self._resumes()
        took_over = [name for name, count in now.items() if count > before.get(name, 0)]
        self._check(checks.took_over(worker.name, took_over))
        return worker

    async def _kill_worker(self, worker: PlannedWorker) -> None:
        process = self._system.processes[worker.name]
        self._screen.line(f"$ kill -9 {process.pid}", "bold")
        await process.kill()
        self._screen.line(f"{worker.name} (pid {process.pid}) {process.how_it_ended}", "dim")

    async def _resumes(self) -> dict[str, int]:
        """Streams resumed, by server."""
        return {state.name: state.resumes for state in await self._system.server_states()}

    async def _turn_after_the_kill(self, killed: PlannedWorker) -> None:
        self._screen.scene("The next turn of the same session")
        began = time.monotonic()
        with self._screen.waiting("waiting for the answer"):
            turn = await self._client.ask("What is my name?")
        self._screen.line(f"after {time.monotonic() - began:.1f} s", "dim")
        self._keep(turn)
        self._check(checks.another_worker(killed.name, turn.worker))
        self._check(checks.answer_contains(NAME, turn))

    async def _read_back(self) -> None:
        self._screen.scene("The conversation, read back")
        self._requests += 1
        session = await self._client.read()
        messages = session.get("messages", [])
        self._check(checks.has_every_turn(self._turns, messages))
        self._check(checks.has_no_other_message(self._turns, messages))

    async def _memory(self) -> None:
        """Said in one session, known in the next."""
        self._screen.scene("What outlives a session: long-term memory, in PostgreSQL")
        self._keep(await self._client.ask(f"Remember for good: {NAME} has a cat called {CAT}"))
        self._requests += 1
        await self._client.create()
        turn = await self._client.ask("What do you remember about the cat?")
        self._keep(turn)
        self._check(checks.answer_contains(CAT, turn))

    async def _come_back(self, worker: PlannedWorker) -> None:
        self._screen.scene(f"The balancer notices, and {worker.name} comes back")
        patience = seconds_until_down(worker.backend)
        if patience is not None:
            with self._screen.waiting("waiting for the health checks to notice"):
                await self._system.wait_until_seen(worker, up=False, timeout=patience)
            await self._show_servers()
        child = await self._system.start_worker(worker)
        self._screen.line(f"{worker.name} is started again (pid {child.pid})", "dim")
        with self._screen.waiting(f"waiting until {worker.name} is seen up"):
            await self._system.wait_for_worker(worker)
            await self._system.wait_until_seen(
                worker, up=True, timeout=seconds_until_up(worker.backend)
            )
        await self._show_servers()

    async def _story(self) -> None:
        """A backend that can't resume, behind two balancers."""
        self._screen.scene("A connection lost in mid-sentence, and another balancer")
        self._screen.line("two balancers over Valkey, and a backend that can't resume", "dim")
        async with self._system.story() as places:
            read = await read_story(places, self._screen, lose_after=_WORDS_BEFORE_CUT)
        self._check(checks.continued_elsewhere(read))
        self._check(checks.was_asked_once(read))

    async def _show_servers(self) -> None:
        self._screen.servers(await self._system.server_states())

    async def _access_log(self) -> None:
        """Its last lines, if it goes to stdout; they are written a moment after the requests."""
        deadline = time.monotonic() + _LOG_TAKES
        lines = self._system.logged()
        while len(lines) < self._requests and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            lines = self._system.logged()
        if lines:
            self._screen.scene("The access log: who served what, and how long each phase took")
            for line in lines[-_SHOWN_LOG_LINES:]:
                self._screen.logged(line)

    def _keep(self, turn: Turn) -> None:
        self._requests += 1
        self._turns.append(turn)
        self._check(checks.is_final(turn), quiet=True)

    def _check_stream(self, turn: Turn) -> None:
        self._check(checks.tokens_are_the_answer(turn), quiet=True)
        self._check(checks.came_one_by_one(turn, _TOKEN_INTERVAL))

    def _check_affinity(self, before: str | None) -> None:
        """If the configuration promises it."""
        worker = self._system.plan.worker(before)
        affinity = worker.backend.affinity if worker else None
        if affinity is not None:
            value = self._client.cookie(affinity.cookie)
            cookie = f"{affinity.cookie}={value}"
            self._check(checks.same_worker(cookie, before, self._client.worker))

    def _check(self, check: Check, *, quiet: bool = False) -> None:
        self.checks.append(check)
        self._screen.check(check, quiet=quiet)
        if not check.held:
            self.culprits.append(self._client.worker or "")
