"""What fails: processes of the balancers, whole balancers, and the store."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.schedule import Fault, Schedule

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bench.chaos.balancer import Balancer
    from bench.chaos_turns.stores import Durable, Failover

# Seconds. One in five stops is longer than an owner's lease (15 s).
_STOPPED = (0.5, 6.0)
_LONG = (17.0, 20.0)
_LONG_STOPS = 0.2
_DOWN = (0.0, 2.0)


class BalancerFaults(Schedule):
    """A fault never takes the last balancer: clients must have one to come back to."""

    def __init__(
        self,
        balancers: Sequence[Balancer],
        reconfigure: Callable[[Balancer, int], None],
        store: Durable | Failover,
        figures: Counter[str],
        log: Path,
    ) -> None:
        """`reconfigure` writes a balancer's n-th configuration."""
        super().__init__(figures, log)
        self.stopped: list[tuple[float, float]] = []
        self._balancers = balancers
        self._reconfigure = reconfigure
        self._store = store
        self._configs = 0
        self._is_down = asyncio.Lock()
        self._starting: Balancer | None = None  # a worker lost now would end it

    async def kill_worker(self, rng: random.Random) -> None:
        """kill -9 of a process; its supervisor starts another one."""
        if pid := self._worker(rng):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._count("workers killed", str(pid))

    async def kill_balancer(self, rng: random.Random) -> None:
        """kill -9 of all processes of one, and a new one at the same address."""
        balancer, down = rng.choice(self._balancers), rng.uniform(*_DOWN)
        async with self._is_down:
            self._starting = balancer
            balancer.kill()
            self._count("balancers killed", str(balancer.address))
            await asyncio.sleep(down)
            await balancer.restart()
            self._starting = None
            self._note(f"started: {balancer.address}")

    async def stop_worker(self, rng: random.Random) -> None:
        """SIGSTOP and SIGCONT of a process."""
        seconds = rng.uniform(*(_LONG if rng.random() < _LONG_STOPS else _STOPPED))
        if not (pid := self._worker(rng)):
            return
        begun = time.time()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._count("workers stopped and continued", f"{pid} {seconds:.1f} s")
            await asyncio.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
        self._note(f"continued: {pid}")
        # What it had sent, or is about to, is open a little longer.
        self.stopped.append((begun, time.time() + 1.0))

    async def fail_store(self, rng: random.Random) -> None:
        began = time.monotonic()
        self._note("the store fails")
        self._count(await self._store.fail(rng))
        ms = int((time.monotonic() - began) * 1000)
        self.figures["store away, longest ms"] = max(self.figures["store away, longest ms"], ms)

    async def reload(self, rng: random.Random) -> None:
        self._configs += 1
        async with self._is_down:
            balancer = rng.choice(self._balancers)
            self._reconfigure(balancer, self._configs)
            balancer.process.send(signal.SIGHUP)
            self._count("reloads")

    def _worker(self, rng: random.Random) -> int:
        """Of a balancer that runs; 0: it has none now."""
        running = [each for each in self._balancers if each is not self._starting]
        workers = [pid for each in running for pid in each.process.pids()[1:]]
        return rng.choice(workers) if workers else 0

    faults: ClassVar[Mapping[str, Fault]] = {
        "kill": Fault(kill_worker),
        "down": Fault(kill_balancer),
        "stop": Fault(stop_worker),
        "store": Fault(fail_store),
        "reload": Fault(reload),
    }
