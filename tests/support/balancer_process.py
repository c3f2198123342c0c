"""Balancers in processes of their own, as a service manager runs them."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

START_TAKES = 30.0  # seconds, on a busy machine


class Running:
    """A balancer in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""  # on stderr
        self.url = ""

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until a line of stderr matches."""
        assert self.process.stderr is not None
        async with asyncio.timeout(START_TAKES):
            while not (match := re.search(pattern, self.said)):
                line = await self.process.stderr.readline()
                assert line, f"it has exited: {self.said}"
                self.said += line.decode()
        return match

    async def ended(self) -> int:
        """-> its exit status."""
        assert self.process.stderr is not None
        async with asyncio.timeout(START_TAKES):
            self.said += (await self.process.stderr.read()).decode()
            return await self.process.wait()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def workers(self) -> list[int]:
        """Process IDs of its workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


def run(
    file: Path, *options: str, before: str = "", pass_fds: tuple[int, ...] = ()
) -> AbstractAsyncContextManager[Running]:
    """Run a balancer with a configuration file; `before` is shell code that runs first."""
    return hermes_lb("--config", str(file), *options, before=before, pass_fds=pass_fds)


@asynccontextmanager
async def hermes_lb(
    *words: str, before: str = "", pass_fds: tuple[int, ...] = (), python: str = sys.executable
) -> AsyncIterator[Running]:
    """Run the command; `before` is shell code that runs first."""
    command = [python, "-m", "hermes_lb", *words]
    if before:
        command = ["bash", "-c", f'{before} && exec "$@"', "bash", *command]
    started = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=pass_fds,
    )
    try:
        yield Running(started)
    finally:
        with suppress(ProcessLookupError):
            started.kill()
        await started.communicate()


@asynccontextmanager
async def process(
    tmp_path: Path, port: int, *options: str, bind: str = "127.0.0.1:0", more: str = "",
    before: str = "", pass_fds: tuple[int, ...] = (),
) -> AsyncIterator[Running]:  # fmt: skip
    """Run a balancer in front of the server at `port`; `before` is shell code that runs first."""
    file = tmp_path / "lb.toml"
    if "[log]" not in more:
        more += '[log]\naccess = "off"\n'
    if "[process]" not in more:
        more += "[process]\nmax_connections = 100\n"
    file.write_text(
        f"{more}[admin]\nenabled = false\n"
        f'[[frontends]]\nname = "public"\nbind = "{bind}"\ndefault_backend = "agents"\n'
        f'[backends.agents]\nservers = [{{ name = "agent1", address = "127.0.0.1:{port}" }}]\n'
    )
    async with run(file, *options, before=before, pass_fds=pass_fds) as running:
        yield running


@contextmanager
def reserved_port() -> Iterator[int]:
    """A loopback port that the kernel assigns to nothing else, but that can be bound explicitly."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def until_it_listens(running: Running) -> None:
    running.url = (await running.says(r"listening on (http://\S+)"))[1]
