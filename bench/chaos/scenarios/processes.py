"""l. The balancer's own processes are upgraded, reloaded, killed, terminated, and stopped."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.chaos.asks import EVENTS, WEBSOCKET, Ask
from bench.chaos.balancer import configuration
from bench.chaos.caller import Caller, Cut, NotHttp
from bench.chaos.holders import connections_of, listens, state_of
from bench.chaos.scenario import Scenario
from bench.chaos.scenarios.mix_up import what_is_wrong
from bench.chaos.waiting import NeverCame, until
from hermes_lb.ctl.client import AdminClient
from hermes_lb.ctl.errors import CtlError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer, Metrics
    from bench.chaos.report import Report
    from bench.chaos.workers import Worker

    Connect = Callable[[], Awaitable[Caller]]

# Seconds for all to become as it is to be: an upgrade restarts each process, on a busy machine.
_PATIENCE = 90.0
# Seconds. The balancer kills who has not moved for ten.
_LONGEST_STOP, _TOO_LONG = 1.9, 8.0
_LONGEST_STREAM = 150  # events or messages, 20 ms apart
_PACE = 0.02
_UPGRADED = re.compile(r"upgraded: all processes run the new code|no upgrade|upgrade stops here")
_RELOADED = re.compile(r"hermes_lb: reloaded|is not reloaded|upgraded: all processes run")
_LOOK_EVERY = 0.1  # seconds: it takes a while to look at all sockets of a machine
_MOST_REPORTED = 5  # problems
_MOST_SAID = 5_000  # characters of the balancer's log that are shown with them
_STUCK = re.compile(r"worker process (\d+) is stuck: it is killed")
# A server that reloads take out and put back: then it begins at zero.
_COMES_AND_GOES = "agent3"


@dataclass
class Processes(Scenario):
    """All kinds of clients, while a schedule that the seed fixes goes on; with 2 and 3 workers."""

    name: ClassVar[str] = "processes"
    title: ClassVar[str] = "l. The balancer's own processes are replaced, killed and stopped"

    clients: int = 3  # of each kind, by TCP; and one of each by a Unix socket
    seconds: float = 20.0  # that the schedule goes on for, with each number of workers
    seed: int = 1
    counts: Sequence[int] = (2, 3)  # of workers

    async def run(self, arena: Arena) -> None:
        arena.report.lag_excuse = "processes start on the balancer's core all the time"
        servers = await arena.workers(3)
        for count in self.counts:
            unix = arena.folder / f"public{count}.sock"
            fixed: dict[str, Any] = {
                "unix": unix,
                "backend": {"health": {"path": "/health", "interval": "1s", "timeout": "15s"}},
                "process": {"workers": count, "drain_timeout": "10m"},
            }
            async with arena.balancer(servers, timeouts={"server": "30s"}, **fixed) as balancer:
                life = _Life(arena, balancer, servers, fixed, random.Random(f"{self.seed}/{count}"))
                await life.run(self.clients, self.seconds)
            _judge(arena.report, life, balancer.said)


class _Life:
    """One balancer's: the load, the schedule, and what was seen."""

    def __init__(
        self,
        arena: Arena,
        balancer: Balancer,
        servers: list[Worker],
        fixed: dict[str, Any],
        rng: random.Random,
    ) -> None:
        self.workers: int = fixed["process"]["workers"]
        self.counts: Counter[str] = Counter()  # of what the clients saw
        self.steps: Counter[str] = Counter()
        self.problems: list[str] = []
        self.stopped_for_long: set[int] = set()  # processes
        self._arena = arena
        self._balancer = balancer
        self._servers = servers
        self._fixed = fixed
        self._rng = rng
        self._unix: Path = fixed["unix"]
        self._is_over = asyncio.Event()
        self._killed: dict[str, float] = {}  # connections that a killed process had: when
        self._doomed: set[int] = set()  # processes that are being killed: not to be continued
        self._have_listened: set[int] = set()
        self._has_hit_start = False  # a process was killed that had not listened yet
        self._all_counters: dict[str, float] = {}
        self._scraped: Metrics | None = None
        self._scrapes = 0
        self._asked: list[tuple[int, re.Pattern[str]]] = []  # where its log was, what it has to say
        self._config_number = 0
        self._has_all_servers = True
        self._config_in_use = asyncio.Lock()
        self._begun: set[asyncio.Task[None]] = set()  # steps

    def __repr__(self) -> str:
        return f"<_Life of {self.workers} workers: {dict(self.steps)}>"

    async def run(self, clients: int, seconds: float) -> None:
        by_tcp: Connect = self._balancer.connect

        async def by_unix() -> Caller:
            return await Caller.connect(str(self._unix))

        async with asyncio.TaskGroup() as group:
            for number, connect in enumerate([*[by_tcp] * clients, by_unix]):
                for kind in (self._asks_once, self._asks_on, self._streams, self._tunnels):
                    name = f"{kind.__name__.strip('_')}-{self.workers}-{number}"
                    group.create_task(kind(connect, name))
            group.create_task(self._watch_metrics())
            try:
                await self._follow_schedule(seconds)
            finally:
                self._is_over.set()

    # The load.

    async def _asks_once(self, connect: Connect, name: str) -> None:
        """A connection for each request."""
        number, rng = 0, random.Random(name)
        while not self._is_over.is_set():
            number += 1
            ask = Ask(f"{name}-{number}", "POST", blocks=3, sends=3, wait=rng.randrange(20))
            await self._visit("request", connect, lambda caller, ask=ask: _ask(caller, ask))
            await asyncio.sleep(_PACE)

    async def _streams(self, connect: Connect, name: str) -> None:
        number, rng = 0, random.Random(name)
        while not self._is_over.is_set():
            number += 1
            blocks = rng.randrange(10, _LONGEST_STREAM)
            ask = Ask(f"{name}-{number}", framing=EVENTS, blocks=blocks, pace=int(_PACE * 1000))
            await self._visit("stream", connect, lambda caller, ask=ask: _ask(caller, ask))

    async def _tunnels(self, connect: Connect, name: str) -> None:
        number, rng = 0, random.Random(name)
        while not self._is_over.is_set():
            number += 1
            ask = Ask(f"{name}-{number}", fields=WEBSOCKET)
            count = rng.randrange(10, _LONGEST_STREAM)
            await self._visit(
                "tunnel", connect, lambda caller, a=ask, n=count: _tunnel(caller, a, n)
            )

    async def _asks_on(self, connect: Connect, name: str) -> None:
        """One connection for as long as it lasts, idle for a while between two requests."""
        number, rng = 0, random.Random(name)
        while not self._is_over.is_set():
            number += 1
            await self._visit(
                "request on a connection that is kept",
                connect,
                lambda caller, name=f"{name}-{number}": self._keep_asking(caller, name, rng),
            )

    async def _keep_asking(self, caller: Caller, name: str, rng: random.Random) -> str:
        number = 0
        while not self._is_over.is_set():
            number += 1
            ask = Ask(f"{name}-{number}", blocks=2)
            try:
                response = await caller.ask(ask)
            except Cut as cut:
                # It may end while it is idle; then the request was never seen.
                if (
                    number > 1
                    and cut.head is None
                    and not self._arena.journal.executed()[ask.ident]
                ):
                    self.counts["connection closed while idle"] += 1
                    return ""
                return f"{ask.ident}: {cut}"
            if problem := what_is_wrong(ask, response):
                return problem
            self.counts["answered on a connection that is kept"] += 1
            if response.fields.get("connection") == "close":
                break
            await asyncio.sleep(rng.random() * 0.5)
        return ""

    async def _visit(
        self, kind: str, connect: Connect, does: Callable[[Caller], Awaitable[str]]
    ) -> None:
        """A connection, and what is done with it -> a problem, if it is none of a kill's."""
        began, name = time.monotonic(), ""
        try:
            async with await connect() as caller:
                name = caller.name
                problem = await does(caller)
        except (Cut, NotHttp, OSError) as error:  # a TimeoutError is an OSError
            problem = repr(error)
        if problem and self._killed.get(name, 0.0) > began:
            self.counts[f"{kind}: cut, its process was killed"] += 1
        elif problem:
            took = time.monotonic() - began
            self.problems.append(f"{kind} by {name} after {took:.1f} s: {problem}")
        else:
            self.counts[f"{kind}: right"] += 1

    async def _watch_metrics(self) -> None:
        """Over and over: no counter may go down. The admin listener pauses in an upgrade."""
        while not self._is_over.is_set():
            try:
                metrics = await self._balancer.metrics()
            except (Cut, NotHttp, OSError):
                self._balancer.hang_up_operator()
            else:
                self._compare(metrics)
                self._scraped = metrics
                self._scrapes += 1
            await asyncio.sleep(0.1)

    def _compare(self, metrics: Metrics) -> None:
        for key, value in metrics.counters.items():
            # A new process begins at zero; so does a server that returns.
            if "'process'" in key or f"'{_COMES_AND_GOES}'" in key:
                continue
            before = self._all_counters.get(key, 0.0)
            if value < before and not key.startswith("process_"):
                self.problems.append(f"{key} went down from {before} to {value}")
            self._all_counters[key] = value

    # The schedule.

    async def _follow_schedule(self, seconds: float) -> None:
        """Rounds of one to three steps at the same time; some wait for the dust to settle."""
        steps: dict[Callable[[], Coroutine[Any, Any, None]], int] = {
            self._signal_upgrade: 2,
            self._ctl_upgrade: 2,
            self._reload: 3,
            self._reload_nonsense: 1,
            self._kill: 3,
            self._kill_finishing: 2,
            self._terminate: 2,
            self._stop: 3,
        }
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            chosen = self._rng.choices(
                [*steps], [*steps.values()], k=self._rng.choice((1, 1, 2, 3))
            )
            for step in chosen:
                self.steps[step.__name__.strip("_").replace("_", " ")] += 1
                self._begun.add(asyncio.get_running_loop().create_task(step()))
            await asyncio.sleep(self._rng.random() * 1.5)
            if self._rng.random() < 0.2:
                await self._settle()
        await self._settle()

    async def _signal_upgrade(self) -> None:
        self._asked.append((len(self._balancer.said), _UPGRADED))
        self._balancer.process.send(signal.SIGUSR2)

    async def _ctl_upgrade(self) -> None:
        at = len(self._balancer.said)
        if await self._ctl("upgrade"):
            self._asked.append((at, _UPGRADED))

    async def _reload(self) -> None:
        """By a signal or by `ctl`, with a file in which something is different."""
        is_by_signal = self._rng.random() < 0.5
        async with self._config_in_use:
            self._has_all_servers = self._rng.random() < 0.5
            self._config_number += 1
            self._write(self._config())
            if is_by_signal:
                self._asked.append((len(self._balancer.said), _RELOADED))
                self._balancer.process.send(signal.SIGHUP)
                return
        await self._ctl("reload")

    async def _reload_nonsense(self) -> None:
        async with self._config_in_use:
            self._write("what is this\n")
            if await self._ctl("reload"):
                self.problems.append("nonsense was taken for a configuration")
            self._write(self._config())

    async def _kill(self) -> None:
        await self._kill_one(self._children())

    async def _kill_finishing(self) -> None:
        """An old worker, if there is one: it has listened, and does not any more."""
        await self._kill_one([pid for pid in self._children() if self._is_finishing(pid)])

    async def _kill_one(self, pids: list[int]) -> None:
        if (pid := self._victim(pids)) is None:
            return
        self._doomed.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await _until_stopped(pid)
            now = time.monotonic()
            self._killed.update(dict.fromkeys(connections_of(pid), now))
            os.kill(pid, signal.SIGKILL)

    async def _terminate(self) -> None:
        if (pid := self._victim(self._children())) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _victim(self, pids: list[int]) -> int | None:
        """One of them; only one that starts until all is settled: where two starts in a row fail,
        clients are refused."""
        if self._has_hit_start:
            pids = [pid for pid in pids if pid in self._have_listened]
        if not pids:
            return None
        pid = self._rng.choice(pids)
        self._has_hit_start |= pid not in self._have_listened
        return pid

    async def _stop(self) -> None:
        if not (pids := self._children()):
            return
        pid, seconds, began = self._rng.choice(pids), self._rng.random(), time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await _until_stopped(pid)
            connections = connections_of(pid)
            await asyncio.sleep(seconds * _LONGEST_STOP)
            if (now := time.monotonic()) - began > _TOO_LONG:  # we were late ourselves
                self._killed.update(dict.fromkeys(connections, now))
                self.stopped_for_long.add(pid)
            if pid not in self._doomed:
                os.kill(pid, signal.SIGCONT)

    async def _ctl(self, command: str) -> bool:
        """As `hermes-lb ctl` does it -> whether it was accepted."""
        host, port = self._balancer.admin
        client = AdminClient(f"http://{host}:{port}")
        try:
            await asyncio.to_thread(client.send, "POST", command)
        except CtlError as error:
            self.counts[f"ctl {command}: {str(error).splitlines()[0]}"] += 1
            return False
        self.counts[f"ctl {command}: done"] += 1
        return True

    # The configuration.

    def _config(self) -> str:
        servers = [s for s in self._servers if self._has_all_servers or s.name != _COMES_AND_GOES]
        return configuration(
            {server.name: server.address for server in servers},
            access_log=self._balancer.access_log,
            bind="127.0.0.1",
            unix=self._unix,
            backend=self._fixed["backend"],
            sections={
                "process": self._fixed["process"],
                "timeouts": {"server": f"{30 + self._config_number}s"},
            },
        )

    def _write(self, text: str) -> None:
        new = self._balancer.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self._balancer.config)

    # The processes.

    def _children(self) -> list[int]:
        """The workers, whatever they are at; not who only checks a configuration."""
        found = []
        for pid in _children_of(self._balancer.process.pid):
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"hermes_lb.workers" in words and b"--check" not in words:
                    found.append(pid)
                    if pid not in self._have_listened and listens(pid):
                        self._have_listened.add(pid)
        return found

    def _is_finishing(self, pid: int) -> bool:
        return pid in self._have_listened and not listens(pid)

    async def _settle(self) -> None:
        """All that was asked for is answered, and the processes are as they are to be."""
        self.steps["settle"] += 1
        begun, self._begun = self._begun, set()
        await asyncio.gather(*begun)
        asked, self._asked = self._asked, []
        for at, pattern in asked:
            await self._until(
                lambda at=at, pattern=pattern: bool(pattern.search(self._balancer.said, at)),
                f"an answer: {pattern.pattern}",
            )
        await self._until(
            self._are_all_there, f"exactly {self.workers} processes, all of them serve"
        )
        scrapes = self._scrapes
        await self._until(lambda: self._scrapes > scrapes + 1, "metrics can be had")
        await self._until(self._is_reloaded, "the last file is in use")
        self._has_hit_start = False

    def _are_all_there(self) -> bool:
        everybody, workers = _children_of(self._balancer.process.pid), self._children()
        return len(everybody) == len(workers) == self.workers and all(map(listens, workers))

    def _is_reloaded(self) -> bool:
        assert self._scraped is not None
        has_it = self._scraped.has("hermes_lb_server_up", server=_COMES_AND_GOES)
        return has_it is self._has_all_servers

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        async def is_so() -> bool:
            await asyncio.sleep(_LOOK_EVERY)
            return condition()

        try:
            await until(is_so, what, patience=_PATIENCE)
        except NeverCame as error:
            pids = _children_of(self._balancer.process.pid)
            states = {pid: (state_of(pid), listens(pid)) for pid in pids}
            self.problems.append(f"{error}; {states}; {self._balancer.said[-400:]}")


def _judge(report: Report, life: _Life, said: str) -> None:
    which = f"{life.workers} workers"
    for what, count in sorted(life.steps.items()):
        report.figure(f"{which}: {what}", count)
    for what, count in sorted(life.counts.items()):
        report.figure(f"{which}: {what}", count)
    report.figure(f"{which}: problems", len(life.problems))
    for problem in life.problems[:_MOST_REPORTED]:
        report.must(False, f"{which}: no client notices", problem)
    held = f"{which}: only clients of a killed process notice"
    report.must(not life.problems, held, said[-_MOST_SAID:])
    stuck = set(map(int, _STUCK.findall(said))) - life.stopped_for_long
    report.must(not stuck, f"{which}: only a process that stood still is taken for stuck", stuck)


async def _ask(caller: Caller, ask: Ask) -> str:
    """-> what is wrong with the answer."""
    return what_is_wrong(ask, await caller.ask(ask))


async def _tunnel(caller: Caller, ask: Ask, count: int) -> str:
    """Each message has to come back before the next -> what is wrong."""
    await caller.send(ask.wire())
    head = await caller.read_head()
    if (head.status, head.fields.get("x-id")) != (101, ask.ident):
        return f"{ask.ident}: {head}"
    for number in range(count):
        message = f"{ask.ident} says {number}\n".encode()
        await caller.send(message)
        back = b""
        while len(back) < len(message):
            if not (some := await caller.read_some()):
                raise Cut(head, back, by_reset=False)
            back += some
        if back != message:
            return f"{ask.ident}: {back[:200]!r} for {message!r}"
        await asyncio.sleep(_PACE)
    return ""


def _children_of(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


async def _until_stopped(pid: int) -> None:
    async def is_stopped() -> bool:
        return state_of(pid) in ("T", "Z", "")

    await until(is_stopped, f"process {pid} is stopped")
