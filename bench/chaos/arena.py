"""Where one scenario runs: a folder, addresses of its own, and processes that end with it."""

from __future__ import annotations

import itertools
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from bench.chaos.balancer import configuration, running_balancer
from bench.chaos.flood import READY
from bench.chaos.journal import Journal
from bench.chaos.waiting import NeverCame, until
from bench.chaos.workers import Worker
from bench.live.processes import Process, python_module

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from bench.chaos.balancer import Balancer
    from bench.chaos.report import Report

_PORTS = itertools.count(8001)


def own_host() -> str:
    """A loopback address that no other process uses: all of 127.0.0.0/8 is ours on Linux.

    A port there is free, and stays free while its worker is dead: no other test can take it, nor
    does the kernel give it to an outgoing connection, whose address is 127.0.0.1.
    """
    pid = os.getpid()
    return f"127.{64 + (pid >> 16) % 64}.{pid >> 8 & 255}.{pid & 255}"


def own_address() -> tuple[str, int]:
    """One that stays free while nothing listens there."""
    return own_host(), next(_PORTS)


class Arena:
    """The workers and balancers of one scenario; leaving it ends them all.

    `core` is the balancer's and the control process's, `load_core` that of everyone else that is
    started; None: any.
    """

    def __init__(
        self,
        folder: Path,
        report: Report,
        *,
        core: int | None = None,
        load_core: int | None = None,
    ) -> None:
        self.folder = folder
        self.report = report
        self.journal = Journal(folder / "journal")
        self._core = core
        self._load_core = load_core
        self._workers: list[Worker] = []
        self._balancers = itertools.count(1)
        self._floods = itertools.count(1)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()
        said = {worker.name: worker.said for worker in self._workers if "Trace" in worker.said}
        self.report.must(not said, "the workers understood every request", said)

    async def worker(
        self, name: str, *, host: str | None = None, prefix: Sequence[str] = ()
    ) -> Worker:
        """A worker that listens. `prefix`: a command that runs it in another network."""
        worker = Worker(
            name,
            (host, next(_PORTS)) if host else own_address(),
            folder=self.folder,
            journal=self.journal.path,
            core=self._load_core,
            prefix=prefix,
        )
        self._workers.append(worker)
        self._stack.callback(worker.kill)
        await worker.start()
        return worker

    async def workers(self, count: int) -> list[Worker]:
        return [await self.worker(f"agent{number}") for number in range(1, count + 1)]

    @asynccontextmanager
    async def flood(self, *arguments: str) -> AsyncIterator[Process]:
        """`python -m bench.chaos.flood`, once it says that it is ready."""
        log = self.folder / f"flood{next(self._floods)}.log"
        command = python_module("bench.chaos.flood", *arguments)
        with Process(
            command, core=self._load_core, log=log, orphan_signal=signal.SIGKILL
        ) as process:

            async def is_ready() -> bool:
                if not process.is_running():
                    raise NeverCame(process.output())
                return READY in log.read_text()

            await until(is_ready, f"flood {arguments[0]} is ready")
            yield process

    @asynccontextmanager
    async def flood_server(self) -> AsyncIterator[tuple[str, int]]:
        """Its address."""
        host, port = own_address()
        async with self.flood("serve", host, str(port)):
            yield host, port

    @asynccontextmanager
    async def balancer(
        self,
        servers: Iterable[Worker] | Mapping[str, tuple[str, int]],
        *,
        server: Mapping[str, Any] | None = None,
        backend: Mapping[str, Any] | None = None,
        backends: Mapping[str, Any] | None = None,
        frontend: Mapping[str, Any] | None = None,
        bind: str = "127.0.0.1",
        port: int = 0,
        unix: Path | None = None,
        loop: str = "uvloop",
        open_files: int | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        make_socket: Callable[[], socket.socket] | None = None,
        **sections: Mapping[str, Any],
    ) -> AsyncIterator[Balancer]:
        """A balancer before these servers. `sections`: more tables of its configuration.

        `port`: of `bind`, for one that is killed and comes back; see `own_address`.
        """
        if not isinstance(servers, dict):
            servers = {worker.name: worker.address for worker in servers}  # type: ignore[union-attr]
        number = next(self._balancers)
        config = self.folder / f"balancer{number}.toml"
        access_log = self.folder / f"balancer{number}.access"
        config.write_text(
            configuration(
                servers,
                access_log=access_log,
                bind=bind,
                port=port,
                unix=unix,
                server=server,
                backend=backend,
                backends=backends,
                frontend=frontend,
                sections=sections,
            )
        )
        async with running_balancer(
            config,
            self.report,
            access_log=access_log,
            core=self._core,
            loop=loop,
            open_files=open_files,
            environment=environment,
            prefix=prefix,
            make_socket=make_socket,
        ) as balancer:
            yield balancer
