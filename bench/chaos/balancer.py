"""The handle of a balancer process: its configuration, its metrics, its access log, its size."""

from __future__ import annotations

import json
import re
import signal
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from bench.chaos.caller import Caller, Cut
from bench.chaos.control import Control
from bench.chaos.report import Lag
from bench.chaos.waiting import NeverCame, until
from bench.live.processes import Process, python_module

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from prometheus_client.samples import Sample

    from bench.chaos.report import Report

_LISTENING = re.compile(r"listening on http://(.+):(\d+)")
_ADMIN = re.compile(r"admin on http://(.+):(\d+)")
# What asyncio says, with a traceback, each second in which it can't accept for want of descriptors.
_ACCEPT_FAILED = "socket.accept() out of system resource"
_SLACK = 0.010  # s
_MOST_SAID = 3_000  # characters of its log that are shown with a problem
BACKEND = "agents"


class LogLine(NamedTuple):
    """What a line of the access log says, as far as it is needed here."""

    line: str
    when: str  # 24/Nov/2026:14:06:53.563
    server: str
    times: str  # TR/Tw/Tc/Tr/Ta in ms; -1: not reached
    took: int  # ms, from its first byte to its end
    status: int
    termination: str
    retries: str
    target: str

    @classmethod
    def parse(cls, line: str) -> LogLine:
        # client [when] frontend backend/server TR/Tw/Tc/Tr/Ta status bytes - - termination
        # connections queues ({reason}) "request"
        words = line.split(" ", 11)
        request = line.rsplit('"', 2)[1].split(" ")
        return cls(
            line=line,
            when=words[1].strip("[]"),
            server=words[3].rpartition("/")[2],
            times=words[4],
            took=int(words[4].rpartition("/")[2]),
            status=int(words[5]),
            termination=words[9][:2],
            retries=words[10].rpartition("/")[2],
            target=request[1] if len(request) > 1 else "",
        )


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def counters(self) -> dict[str, float]:
        """What only ever grows: counters, and the parts of histograms, by name and labels."""
        return {
            f"{sample.name}{sample.labels}": sample.value
            for family in text_string_to_metric_families(self._text)
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name that have these labels."""
        return sum(sample.value for sample in self._samples(name, labels))

    def has(self, name: str, **labels: str) -> bool:
        return any(self._samples(name, labels))

    def _samples(self, name: str, labels: Mapping[str, str]) -> Iterator[Sample]:
        # Not the whole text: some scenarios look at one metric several times a second.
        lines = [x for x in self._text.splitlines() if x.startswith((f"{name} ", f"{name}{{"))]
        for family in text_string_to_metric_families("\n".join([*lines, ""])):
            yield from (each for each in family.samples if labels.items() <= each.labels.items())


class Balancer:
    """`python -m hermes_lb --config ...`, ready to be asked."""

    def __init__(
        self,
        process: Process,
        config: Path,
        access_log: Path,
        make_socket: Callable[[], socket.socket] | None = None,
    ) -> None:
        self.process = process
        self.config = config
        self.access_log = access_log
        # Of the network that it lives in, if that is not ours.
        self.make_socket = make_socket
        self.address = ("", 0)
        self.admin = ("", 0)
        self.stopped = 0.0  # the longest that we kept it from running, seconds
        self._operator: Caller | None = None  # of the admin listener
        self._callers: list[Caller] = []

    async def wait_until_it_listens(self, behind: int = 0) -> None:
        """`behind`: so much of what it said is of an earlier process."""

        async def listens() -> bool:
            said = self.said[behind:]
            public, admin = _LISTENING.search(said), _ADMIN.search(said)
            if public is None or admin is None:
                if not self.process.is_running():
                    raise NeverCame(f"the balancer ended: {said}")
                return False
            self.address = (public[1], int(public[2]))
            self.admin = (admin[1], int(admin[2]))
            return True

        await until(listens, "the balancer listens")

    def kill(self) -> None:
        """SIGKILL to all of its processes; `restart` it later."""
        self.hang_up_operator()
        self.process.kill_all()

    async def restart(self) -> None:
        """Start it again, with what its configuration says now."""
        said = len(self.said)
        self.process.__enter__()
        await self.wait_until_it_listens(said)

    @property
    def said(self) -> str:
        """All that it wrote to stderr."""
        return self.process.log.read_text()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP while the block runs: what comes meanwhile it finds all at once."""
        began = time.monotonic()
        self.process.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send(signal.SIGCONT)
            self.stopped = max(self.stopped, time.monotonic() - began)

    async def connect(
        self, *, sock: socket.socket | None = None, receive_buffer: int | None = None
    ) -> Caller:
        """A client that stays until it leaves by itself, or the scenario is over.

        `sock`: of another network than the balancer's.
        """
        if sock is None and self.make_socket is not None:
            sock = self.make_socket()
        caller = await Caller.connect(self.address, sock=sock, receive_buffer=receive_buffer)
        self._callers.append(caller)
        return caller

    def hang_up_operator(self) -> None:
        if self._operator is not None:
            self._operator.abort()
            self._operator = None

    def hang_up(self) -> None:
        """All clients leave."""
        for caller in self._callers:
            caller.abort()
        self._callers.clear()

    async def metrics(self) -> Metrics:
        """Over one connection that is kept: there may be no descriptor left for another."""
        for attempt in (1, 2):
            if self._operator is None:
                sock = self.make_socket() if self.make_socket else None
                self._operator = await Caller.connect(self.admin, sock=sock)
            try:
                await self._operator.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                response = await self._operator.read_response()
                break
            except Cut:  # it was idle for too long
                self.hang_up_operator()
                if attempt == 2:
                    raise
        if response.status != 200:
            raise NeverCame(f"metrics: {response.status} {response.body.decode()}")
        return Metrics(response.body.decode())

    def log_lines(self) -> list[LogLine]:
        """Of the access log, as far as it has been written: within a quarter of a second."""
        return [LogLine.parse(line) for line in self.access_log.read_text().splitlines()]

    async def log_of(self, ident: str) -> LogLine:
        """The one line of the request with that id."""

        async def find() -> list[LogLine]:
            return [line for line in self.log_lines() if line.target.endswith(ident)]

        lines = await until(find, f"{ident} is in the access log")
        if len(lines) > 1:
            raise AssertionError(f"several lines for one request: {lines}")
        return lines[0]

    async def until_metric(
        self, name: str, wanted: Callable[[float], bool], what: str, **labels: str
    ) -> None:
        async def is_so() -> bool:
            return wanted((await self.metrics()).total(name, **labels))

        await until(is_so, what)

    async def until_server_is(self, up: bool, name: str) -> None:
        """Wait for the verdict of the active health check."""
        await self.until_metric(
            "hermes_lb_server_up",
            lambda value: bool(value) is up,
            f"{name} is {'up' if up else 'down'}",
            server=name,
        )

    async def until_quiet(self) -> None:
        """Nothing is in flight, nothing waits, and no client is connected."""

        async def is_quiet() -> bool:
            metrics = await self.metrics()
            return not any(
                metrics.total(f"hermes_lb_{name}")
                for name in ("in_flight", "queued", "connections")
            )

        await until(is_quiet, "everything is given back")

    async def loop_lag(self) -> float | None:
        """The worst delay of a timer of its event loop so far, in seconds; None: unknown."""
        metrics = await self.metrics()
        name = "hermes_lb_loop_lag_worst_seconds"
        return metrics.total(name) if metrics.has(name) else None


def configuration(
    servers: Mapping[str, tuple[str, int]],
    *,
    access_log: Path,
    bind: str,
    port: int = 0,
    unix: Path | None = None,
    server: Mapping[str, Any] | None = None,
    backend: Mapping[str, Any] | None = None,
    backends: Mapping[str, Any] | None = None,
    frontend: Mapping[str, Any] | None = None,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """TOML for a balancer before `servers`; what is given is added to what every run needs.

    `unix` is a socket to listen on beside `bind`; `backends` are others.
    """
    more = dict(sections or {})
    process = {"max_connections": 4000, "drain_timeout": "1s", **more.get("process", {})}
    listed = [
        {"name": name, "address": f"{host}:{port}", **(server or {})}
        for name, (host, port) in servers.items()
    ]
    binds = [f"{bind}:{port}", *([f"unix:{unix}"] if unix else [])]
    public = {"name": "public", "bind": binds, "default_backend": BACKEND, **(frontend or {})}
    tables: dict[str, Any] = {
        **more,
        "process": process,
        "admin": {"bind": "127.0.0.1:0"},
        "log": {"access": str(access_log)},
        "frontends": [public],
        "backends": {BACKEND: {"servers": listed, **(backend or {})}, **(backends or {})},
    }
    return "".join(f"{key} = {_toml(value)}\n" for key, value in tables.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)  # JSON's strings, numbers and booleans are TOML's


@asynccontextmanager
async def running_balancer(
    config: Path,
    report: Report,
    *,
    access_log: Path,
    core: int | None,
    loop: str = "uvloop",
    open_files: int | None = None,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    make_socket: Callable[[], socket.socket] | None = None,
) -> AsyncIterator[Balancer]:
    """Run it beside a control process; at the end, judge what must hold after every scenario."""
    command = python_module("hermes_lb", "--config", str(config), "--loop", loop)
    process = Process(
        [*prefix, *command],
        core=core,
        log=config.with_suffix(".stderr"),
        environment=environment,
        open_files=open_files,
        orphan_signal=signal.SIGKILL,
    )
    with process:
        balancer = Balancer(process, config, access_log, make_socket)
        await balancer.wait_until_it_listens()
        command = python_module("bench.chaos.control", str(process.pid))
        with Process(command, core=core, log=config.with_suffix(".control")) as control:
            try:
                yield balancer
                balancer.hang_up()
                await _judge(balancer, report)
                lag = await balancer.loop_lag()
            finally:
                balancer.hang_up()
                balancer.hang_up_operator()
            control.stop()
            seen = Control.parse(control.log.read_text())
            # A look may come a little after what it sees.
            waited = seen.most_waited((lag or 0.0) + _SLACK)
            report.lags.append(Lag(lag, seen.late, waited, balancer.stopped))
    said = balancer.said
    exceptions = said.count("Traceback") - said.count(_ACCEPT_FAILED)
    about = said[max(said.find("Traceback") - _MOST_SAID // 4, 0) :][:_MOST_SAID]
    report.must(exceptions == 0, f"the balancer logs no exception ({loop})", about)


async def _judge(balancer: Balancer, report: Report) -> None:
    problem = ""
    try:
        await balancer.until_quiet()
    except (NeverCame, Cut, OSError) as error:  # a TimeoutError is an OSError
        problem = f"{error} {balancer.process.output()}"
    report.must(not problem, "in the end nothing is in flight, queued or connected", problem)
