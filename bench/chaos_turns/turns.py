"""The scenario: what runs, and the phases with faults of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from agent_worker.tasks import spawn
from bench.chaos.arena import own_address
from bench.chaos.balancer import configuration
from bench.chaos.scenario import Scenario
from bench.chaos.waiting import NeverCame, until
from bench.chaos_sessions.tally import Tally
from bench.chaos_turns import keys
from bench.chaos_turns.crowd import Crowd
from bench.chaos_turns.executions import Executions
from bench.chaos_turns.faults import BalancerFaults
from bench.chaos_turns.heard import DONE
from bench.chaos_turns.kinds import CHECKING, CONTINUED, EVENTS, IGNORING, KINDS, LEAVING
from bench.chaos_turns.stores import STORES
from bench.chaos_turns.verdict import INVARIANTS, Faults, Verdict
from bench.live.processes import Process, python_module

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer
    from bench.chaos.report import Report
    from bench.chaos_turns.stores import Durable, Failover

#: By the phase's name, its faults, with the seconds between two of a kind.
PHASES: Mapping[str, Mapping[str, float]] = {
    "calm": {"reload": 4.0},
    "kills": {"kill": 2.0, "down": 8.0},
    "stops": {"stop": 3.0},
    "store": {"store": 6.0},
    "storm": {"kill": 4.0, "down": 15.0, "stop": 7.0, "store": 11.0, "reload": 5.0},
}
_MOST_REPORTED = 4  # of each invariant that was broken
SETTLE = 1.0  # s


@dataclass
class Turns(Scenario):
    """Clients that come and go, at two balancers over one store."""

    name: ClassVar[str] = "turns"
    title: ClassVar[str] = "Turns at two balancers, while clients leave and everything fails"

    clients: int = 40
    processes: int = 2  # of each balancer
    seconds: float = 40.0  # of each phase; what has begun is finished behind it
    seed: int = 1
    kinds: Sequence[str] = tuple(KINDS)
    phases: Sequence[str] = tuple(PHASES)
    faults: Mapping[str, float] | None = None  # in place of each phase's own
    store: str = "durable"
    settle: float = SETTLE
    is_protected: bool = True  # False: without turns, to see that the verdict can be bad
    progress: Callable[[str], None] = lambda text: None

    async def run(self, arena: Arena) -> None:
        arena.report.lag_excuse = "processes start beside it all the time"
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(STORES[self.store](arena.folder))
            file = arena.folder / "executions.jsonl"
            servers = {name: own_address() for name in ("a", "b", "checking")}
            for name, (host, port) in servers.items():
                await _start_backend(stack, arena, name, host, port, file)
            secret = arena.folder / "secret"
            secret.write_text("of this run only " * 4)
            secret.chmod(0o600)
            plan = _Plan(self, arena, servers, store, secret)
            balancers = []
            for number in range(2):
                config = plan.config(0)
                host, port = plan.addresses[number]
                balancers.append(
                    await stack.enter_async_context(
                        arena.balancer(config.pop("servers"), bind=host, port=port, **config)
                    )
                )
            uids = itertools.count(1)
            for name in self.phases:
                await self._run_phase(name, plan, balancers, store, file, uids)

    async def _run_phase(
        self,
        name: str,
        plan: _Plan,
        balancers: Sequence[Balancer],
        store: Durable | Failover,
        file: Path,
        uids: itertools.count[int],
    ) -> None:
        tally, seed = Tally(invariants=INVARIANTS), f"{self.seed}/{name}"
        figures: Counter[str] = tally.figures
        log = plan.arena.folder / "faults.log"
        faults = BalancerFaults(balancers, plan.reconfigure, store, figures, log)
        chosen = PHASES[name] if self.faults is None else self.faults
        is_over = asyncio.Event()
        watch = spawn(keys.watch_expiries(store, tally, is_over), name="expiries")
        try:
            async with (
                Crowd(balancers, random.Random(seed), uids, figures) as crowd,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(crowd.run(self.kinds, self.clients))
                group.create_task(faults.run(chosen, seed))
                await self._wait(name, crowd)
                faults.stop()
                crowd.is_over = True
                self.progress(f"{name}: until all have ended")
        finally:
            is_over.set()
            await watch
        self.progress(f"{name}: until the store is at rest")
        tally.check("ends", await _are_over(file), "executions still run")
        await keys.check_expiries(store, tally)
        await keys.check_quotas(store, tally)
        executions = Executions.read(file, {turn.uid for turn in crowd.turns})
        explains = Faults(
            loses_owners=bool(chosen.keys() & {"kill", "down", "stop"}),
            loses_store="store" in chosen,
            stopped=faults.stopped,
        )
        Verdict(tally, executions, explains, self.settle).judge(crowd.turns)
        for what in crowd.intrusions:
            tally.check("principals", False, what)
        tally.tested["principals"] += figures["intrusions"]
        self._tell(name, tally, crowd, plan.arena.report)
        self._write(name, crowd, executions, plan.arena.folder)

    async def _wait(self, name: str, crowd: Crowd) -> None:
        ends = time.monotonic() + self.seconds
        while (left := ends - time.monotonic()) > 0:
            heard = [each for turn in crowd.turns for each in turn.heard]
            done = sum(each.end == DONE for each in heard)
            others = sum(each.end not in ("", DONE) for each in heard)
            self.progress(f"{name}: {left:.0f} s left, {done:,} done, {others} ended otherwise")
            await asyncio.sleep(min(5.0, left))

    def _tell(self, name: str, tally: Tally, crowd: Crowd, report: Report) -> None:
        report.figure(f"{name}: turns", len(crowd.turns))
        for what, count in sorted(tally.figures.items()):
            report.figure(f"{name}: {what}", count)
        for key, text in INVARIANTS.items():
            report.figure(f"{name}: tested: {text}", tally.tested[key])
            broken = [each.what for each in tally.violations if each.invariant == key]
            saw = f"{len(broken)} times: {' | '.join(broken[:_MOST_REPORTED])}"
            report.must(not broken, f"{name}: {text}", saw)

    def _write(self, name: str, crowd: Crowd, executions: Executions, folder: Path) -> None:
        """For study: all turns, with their executions and what each client met."""
        with (folder / f"turns-{name}.log").open("w") as log:
            for turn in crowd.turns:
                log.write(f"{turn} {turn.principal} {turn.session} {turn.began:.2f}\n")
                for execution in executions.of(turn.uid):
                    log.write(f"    {execution}\n")
                for heard in turn.heard:
                    log.write(f"    {heard.end!r} behind {heard.position}\n")
                    log.writelines(f"        {line}\n" for line in heard.log)


class _Plan:
    """The configurations of the two balancers."""

    def __init__(
        self,
        scenario: Turns,
        arena: Arena,
        servers: Mapping[str, tuple[str, int]],
        store: Durable | Failover,
        secret: Path,
    ) -> None:
        self.arena = arena
        self.addresses = [own_address() for _ in range(2)]
        self._scenario = scenario
        self._servers = servers
        self._store = store
        self._secret = secret

    def config(self, number: int) -> dict[str, Any]:
        """The n-th one: with another timeout, so that a reload has something to do."""
        turns: dict[str, Any] = {
            "settle": f"{self._scenario.settle:g}s",
            "linger": "15s",
            "keep": "30m",
            "keep_events": "20m",
            "journal_size": "256KiB",
            "session": "header:X-Session-Id",
        }
        by_query = {**turns, "key": "query:key"}
        by_query.pop("session")
        routes: list[dict[str, Any]] = [
            {"path_prefix": CHECKING, "backend": "checking", "turns": turns},
            {"path_prefix": CONTINUED, "backend": "checking", "resume": True, "turns": turns},
            {
                "path_prefix": LEAVING,
                "backend": "agents",
                "on_disconnect": "abort",
                "turns": {"idempotency": "off"},
            },
            {"path_prefix": EVENTS, "backend": "agents", "turns": by_query},
            {"path_prefix": IGNORING, "backend": "agents", "turns": turns},
        ]
        host, port = self._servers["checking"]
        checking = {"servers": [{"name": "checking", "address": f"{host}:{port}"}]}
        config: dict[str, Any] = {
            "servers": {name: self._servers[name] for name in ("a", "b")},
            "frontend": {"routes": routes},
            "backend": {"balance": "leastconn"},
            "backends": {"checking": checking},
            "process": {"workers": self._scenario.processes, "drain_timeout": "20s"},
            "timeouts": {"server": f"{40 + number}s", "queue": "60s"},
            "store": {"url": self._store.url, "secret_file": str(self._secret)},
        }
        if not self._scenario.is_protected:
            del config["store"]
            for route in routes:
                del route["turns"]
                route.pop("resume", None)
        return config

    def reconfigure(self, balancer: Balancer, number: int) -> None:
        config = self.config(number)
        names = ("process", "timeouts", "store")
        sections = {name: config.pop(name) for name in names if name in config}
        host, port = balancer.address
        text = configuration(
            config.pop("servers"),
            access_log=balancer.access_log,
            bind=host,
            port=port,
            sections=sections,
            **config,
        )
        new = balancer.config.with_suffix(".new")
        new.write_text(text)
        new.replace(balancer.config)


async def _start_backend(
    stack: AsyncExitStack, arena: Arena, name: str, host: str, port: int, file: Path
) -> None:
    log = arena.folder / f"backend-{name}.log"
    command = python_module("bench.chaos_turns.backend", host, str(port), name, str(file))
    process = Process(command, core=None, log=log, orphan_signal=signal.SIGKILL)
    stack.enter_context(process)

    async def is_ready() -> bool:
        if not process.is_running():
            raise NeverCame(process.output())
        return "ready" in log.read_text()

    await until(is_ready, f"the backend {name} is ready")


async def _are_over(file: Path) -> bool:
    """True once all executions have ended: detached turns go on without a client."""

    async def is_at_rest() -> bool:
        executions = itertools.chain(*Executions.read(file).by_uid.values())
        return all(each.ended is not None for each in executions)

    with contextlib.suppress(NeverCame):
        return await until(is_at_rest, "all executions end", patience=60.0)
    return False
