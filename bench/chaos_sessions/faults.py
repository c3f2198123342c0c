"""The schedule of faults: what happens when is drawn from the seed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from agent_worker.tasks import cancel_and_wait, spawn

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from bench.chaos_sessions.backends import Backend
    from bench.chaos_sessions.fleet import Worker
    from bench.chaos_sessions.tally import Tally

# Relative to those of the backend, which are some ten in all.
_KILL, _DRAIN, _STOP, _PAUSE, _AMBUSH = 3, 3, 3, 2, 4
_STORE_FAULTS = 10


class Faults:
    """`run` until `stop`; then all workers run again. Raises what went wrong with the faults."""

    def __init__(
        self,
        workers: Sequence[Worker],
        backend: Backend,
        tally: Tally,
        rng: random.Random,
        once_begun: asyncio.Event,
    ) -> None:
        """`once_begun` is set when such a call is about to run."""
        self._workers = workers
        self._backend = backend
        self._tally = tally
        self._rng = rng
        self._once_begun = once_begun
        self._down: dict[asyncio.Task[None], Worker] = {}
        self._failing: asyncio.Task[None] | None = None
        self._is_calm = asyncio.Event()

    async def run(self) -> None:
        faults = {"kill": _KILL, "drain": _DRAIN, "stop": _STOP, "pause": _PAUSE}
        faults["ambush"] = _AMBUSH
        faults["store"] = _STORE_FAULTS
        while not self._is_calm.is_set():
            await self._pause(self._rng.uniform(0.1, 0.7))
            [fault] = self._rng.choices(list(faults), list(faults.values()))
            if fault == "store":
                await self._fail_store()
            elif fault == "ambush":
                await self._ambush()
            else:
                self._take_down(fault)
        self._backend.calm()
        await asyncio.gather(*self._down, *([self._failing] if self._failing else []))

    def stop(self) -> None:
        """`run` begins nothing new, and returns when all is as it was."""
        self._is_calm.set()

    async def end(self) -> None:
        """When it went wrong: leave nothing running."""
        self._is_calm.set()
        await cancel_and_wait(*self._down, *([self._failing] if self._failing else []))

    async def _ambush(self) -> None:
        """Strike two workers while a `once` call runs, perhaps on one of them.

        Its end is delayed meanwhile, if the backend can: it has happened, but is not recorded.
        """
        self._once_begun.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._once_begun.wait()
            await self._backend.hold()
            for _ in range(2):
                self._take_down(self._rng.choice(["kill", "drain", "stop"]))
            # They strike first.
            await asyncio.sleep(0)
            self._backend.let_go()

    def _take_down(self, fault: str) -> None:
        # One is left, or nothing would be tested.
        idle = [worker for worker in self._workers if worker not in self._down.values()]
        if len(idle) < 2:
            return
        worker = self._rng.choice(idle)
        if fault == "kill":
            down = self._kill(worker)
        elif fault == "drain":
            down = self._drain(worker)
        else:
            shares = (1.1, 2.5) if fault == "stop" else (0.05, 0.9)
            down = self._stop(worker, worker.lease_s * self._rng.uniform(*shares), fault)
        task = spawn(down, name=f"{fault} {worker.name}")
        self._down[task] = worker
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        # One that failed stays, for `run` to raise.
        if not task.cancelled() and task.exception() is None:
            self._down.pop(task, None)

    async def _kill(self, worker: Worker) -> None:
        worker.kill()
        self._tally.figures["workers killed"] += 1
        await self._pause(self._rng.uniform(0.0, 1.0))
        await worker.start()

    async def _drain(self, worker: Worker) -> None:
        await worker.drain(is_announced=self._rng.random() < 0.5)
        self._tally.figures["workers drained"] += 1
        await worker.start()

    async def _stop(self, worker: Worker, seconds: float, fault: str) -> None:
        worker.stop()
        beyond = "beyond" if fault == "stop" else "within"
        self._tally.figures[f"workers stopped {beyond} their lease"] += 1
        await self._pause(seconds)
        worker.go_on()

    async def _fail_store(self) -> None:
        if self._failing is not None and not self._failing.done():
            return
        if self._failing is not None:
            self._failing.result()
        faults = self._backend.faults
        [fault] = self._rng.choices(list(faults), list(faults.values()))
        self._failing = spawn(self._inflict(fault), name=f"store {fault}")

    async def _inflict(self, fault: str) -> None:
        self._tally.figures.update(await self._backend.inflict(fault, self._rng))

    async def _pause(self, seconds: float) -> None:
        """Shorter, if it is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_calm.wait()
        except TimeoutError:
            return
