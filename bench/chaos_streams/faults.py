"""What fails, and how often: each fault comes by a schedule of its own, drawn from the seed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from typing import TYPE_CHECKING, ClassVar

from agent_worker.tasks import cancel_and_wait, spawn
from bench.chaos.caller import Cut, NotHttp
from bench.chaos.schedule import Fault, Schedule
from bench.chaos.waiting import NeverCame, until

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bench.chaos.balancer import Balancer
    from bench.chaos_sessions.fleet import Worker
    from bench.chaos_streams.ledger import Ledger
    from bench.chaos_streams.store import Store

# Seconds.
_STOPPED = (0.5, 6.0)
_STORE_DOWN = (0.0, 1.0)
_LATE_START = 0.3
_PATIENCE = 90.0
_LOOK_EVERY = 0.2
# Share of the kills that wait for a mail.
_AMBUSHES = 0.4
_SERVER_UP = "hermes_lb_server_up"
_UPGRADED = re.compile(r"upgraded: all processes run the new code|no upgrade|upgrade stops here")


class Faults(Schedule):
    """Of the workers, their store and the balancer."""

    def __init__(
        self,
        balancer: Balancer,
        reconfigure: Callable[[int], None],
        workers: Sequence[Worker],
        store: Store,
        ledger: Ledger,
        served_by: Callable[[str], str],
        figures: Counter[str],
        log: Path,
    ) -> None:
        """`reconfigure` writes the n-th configuration; `served_by`: a mail's uid -> a worker."""
        super().__init__(figures, log)
        self._balancer = balancer
        self._reconfigure = reconfigure
        self._workers = workers
        self._store = store
        self._ledger = ledger
        self._served_by = served_by
        self._busy: set[Worker] = set()
        self._up: set[str] = set()  # those that the balancer sends requests to
        self._configs = 0

    async def run(self, names: Mapping[str, float], seed: str) -> None:
        """`names` of FAULTS, each with the seconds between two of its kind, on average."""
        watch = spawn(self._watch_servers(), name="servers")
        try:
            await super().run(names, seed)
        finally:
            await cancel_and_wait(watch)

    # Workers.

    @property
    def _idle(self) -> list[Worker]:
        """Those that serve, and that no fault has."""
        return [worker for worker in self._workers if worker not in self._busy]

    def _take(self, rng: random.Random, name: str = "") -> Worker | None:
        """One that serves, `name` if it can be; None where no other would be left."""
        idle = self._idle
        if len(idle) < 2:
            return None
        worker = next((each for each in idle if each.name == name), None) or rng.choice(idle)
        self._busy.add(worker)
        return worker

    async def kill(self, rng: random.Random) -> None:
        """kill -9, and start it again; at times in the moment in which a mail is sent."""
        name, late = "", rng.uniform(0.0, _LATE_START)
        if rng.random() < _AMBUSHES:
            with contextlib.suppress(NeverCame):
                name = self._served_by(await self._ledger.next_mail())
        if (worker := self._take(rng, name)) is None:
            self.figures["kills left out: no other worker was up"] += 1
            return
        worker.kill()
        self._count("workers killed", worker.name)
        self.figures["workers killed when they had sent a mail"] += worker.name == name
        await asyncio.sleep(late)
        await self._start(worker)

    async def stop_worker(self, rng: random.Random) -> None:
        """SIGSTOP, and SIGCONT."""
        seconds = rng.uniform(*_STOPPED)
        if (worker := self._take(rng)) is None:
            return
        worker.stop()
        self._count("workers stopped and continued", worker.name)
        await self._pause(seconds)
        worker.go_on()
        self._note(f"continued: {worker.name}")
        await self._until_it_serves(worker)

    async def deploy(self, rng: random.Random) -> None:
        """One after another: SIGTERM, a new process in its place, and the next when it is up."""
        for worker in rng.sample(self._workers, len(self._workers)):
            while worker in self._busy or len(self._idle) < 2:
                await self._pause(_LOOK_EVERY)
                if self._is_calm.is_set():
                    return
            self._busy.add(worker)
            self._note(f"SIGTERM: {worker.name}")
            await worker.drain(is_announced=False, patience=_PATIENCE)
            self._count("workers drained by SIGTERM and replaced", worker.name)
            await self._start(worker)

    async def _start(self, worker: Worker) -> None:
        await worker.start()
        self._note(f"started: {worker.name}")
        await self._until_it_serves(worker)

    async def _until_it_serves(self, worker: Worker) -> None:
        """Not before the balancer knows it: until then nothing may depend on it."""
        self._up.discard(worker.name)

        async def is_up() -> bool:
            return worker.name in self._up

        await until(is_up, f"{worker.name} is up", patience=_PATIENCE)
        self._busy.discard(worker)

    async def _watch_servers(self) -> None:
        """By the balancer's metrics, as its one reader. They pause while it is upgraded."""
        while True:
            try:
                metrics = await self._balancer.metrics()
            except (Cut, NotHttp, NeverCame, OSError):
                self._balancer.hang_up_operator()
            else:
                names = (worker.name for worker in self._workers)
                self._up = {n for n in names if metrics.total(_SERVER_UP, server=n)}
            await asyncio.sleep(_LOOK_EVERY)

    # The others.

    async def kill_store(self, rng: random.Random) -> None:
        down = rng.uniform(*_STORE_DOWN)
        began = time.monotonic()
        self._store.kill()
        self._note("Redis killed")
        await asyncio.sleep(down)
        await self._store.start()
        self._count("Redis killed and restarted")
        ms = int((time.monotonic() - began) * 1000)
        self.figures["Redis away, longest ms"] = max(self.figures["Redis away, longest ms"], ms)

    async def reload(self, rng: random.Random) -> None:
        self._configs += 1
        self._reconfigure(self._configs)
        self._balancer.process.send(signal.SIGHUP)
        self._count("reloads of the balancer")

    async def upgrade(self, rng: random.Random) -> None:
        at = len(self._balancer.said)
        self._balancer.process.send(signal.SIGUSR2)

        async def is_done() -> bool:
            return _UPGRADED.search(self._balancer.said, at) is not None

        await until(is_done, "the balancer is upgraded", patience=_PATIENCE)
        self._count("upgrades of the balancer")

    faults: ClassVar[Mapping[str, Fault]] = {
        "kill": Fault(kill, overlaps=True),
        "stop": Fault(stop_worker),
        "deploy": Fault(deploy),
        "redis": Fault(kill_store),
        "reload": Fault(reload),
        "upgrade": Fault(upgrade),
    }
