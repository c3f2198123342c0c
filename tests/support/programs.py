"""Servers and programs around the balancer: each wait is bounded, and nothing is left running."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import ClientError, ClientSession, web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path


class Ran(NamedTuple):
    """How a program has ended."""

    status: int
    said: str  # on stdout and stderr


async def run(*command: str, within: float) -> Ran:
    """Run a program to its end. After `within` seconds it is killed, and the test fails."""
    process = await _start(*command, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(within):
            said, _ = await process.communicate()
    except TimeoutError:
        raise AssertionError(f"still running after {within} s: {command}") from None
    finally:
        await _end(process)
    assert process.returncode is not None
    return Ran(process.returncode, said.decode(errors="replace"))


def listen() -> socket.socket:
    """On a free port. A client that connects before a server runs waits in the backlog."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


class ServerProcess:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def kill(self) -> None:
        """kill -9: its connections are lost, and its port refuses others."""
        await _end(self._process)


@asynccontextmanager
async def server_process(module: str, *arguments: str) -> AsyncIterator[ServerProcess]:
    """Run a module that calls `child.serve`."""
    with listen() as sock:
        port: int = sock.getsockname()[1]
        command = [sys.executable, "-m", module, str(sock.fileno()), *arguments]
        process = await _start(*command, inherited=sock.fileno())
    try:
        yield ServerProcess(process, port)
    finally:
        await _end(process)


@asynccontextmanager
async def program(
    *command: str, log: Path, folder: Path | None = None, environment: Mapping[str, str]
) -> AsyncIterator[None]:
    """Run a server that opens its own port, until the end of the block; `log` gets its output."""
    with log.open("wb") as output:
        process = await _start(
            *command, stdout=output.fileno(), folder=folder, environment=environment
        )
        try:
            yield
        finally:
            await _end(process)


async def is_ready(session: ClientSession, url: str) -> bool:
    """True once a server answers there with 200."""
    try:
        async with session.get(url) as response:
            return response.status == 200
    except ClientError:
        return False


def free_port() -> int:
    """For a server that takes no socket: free now, and probably when it listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def serving(app: web.Application, bound: socket.socket | None = None) -> AsyncIterator[int]:
    """Serve an application in this loop -> its port. Handlers are cancelled when a client leaves.

    `bound`: on this socket, which does not listen yet; else on one of its own.
    """
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.SockSite(runner, bound) if bound else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port: int = runner.addresses[0][1]
        yield port
    finally:
        await runner.cleanup()


async def _start(
    *command: str,
    stdout: int | None = None,
    inherited: int | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> asyncio.subprocess.Process:
    # setpriv becomes the program: it ends with us, even if we are killed.
    with_parent = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    return await asyncio.create_subprocess_exec(
        *with_parent,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=asyncio.subprocess.STDOUT if stdout is not None else None,
        pass_fds=[] if inherited is None else [inherited],
        cwd=folder,
        env=environment,
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
