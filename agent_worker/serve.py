"""A worker as a process: listen, wait for a signal, drain, exit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from typing import TYPE_CHECKING

from aiohttp import web

from agent_worker.app import build_runner
from agent_worker.errors import StoreUnavailable
from agent_worker.tasks import cancel_and_wait, spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.app import Worker

# Connections of one burst; with asyncio's default of 100, clients wait for SYN retries.
_BACKLOG = 4096
# Seconds, for a Redis that was started at the same time.
_STORE_START_S = 3.0
_STORE_POLL_S = 0.1


class StartError(Exception):
    """The worker cannot start; the text gives the reason and the remedy."""


async def wait_for_store(worker: Worker, shown_url: str) -> None:
    """Return when Redis answers. Raises StartError after 3 s."""
    failure = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STORE_START_S):
            while True:
                try:
                    await worker.store.ping()
                except StoreUnavailable as error:
                    failure = str(error.__cause__).rstrip(".")
                    await asyncio.sleep(_STORE_POLL_S)
                else:
                    return
    raise StartError(
        f"cannot reach Redis at {shown_url} ({failure or 'no answer'}). "
        "Start one (python -m agent_worker redis --port 6379), correct --redis-url, "
        "or leave it out for an embedded one."
    )


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to the address (port 0: a free one), and not listening yet.

    Bound early, so that a worker can be named after its port. Raises StartError.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    return sock


async def serve(
    worker: Worker,
    sock: socket.socket,
    *,
    drain_timeout_s: float,
    on_listening: Callable[[str], None],
    on_stopping: Callable[[int], None],
) -> bool:
    """Serve on a bound socket until SIGTERM or SIGINT, then drain; a second signal ends the drain.

    `on_listening` gets the URL, `on_stopping` the number of running turns. Returns whether all
    turns have ended by themselves. Raises StartError if it cannot listen.
    """
    runner = build_runner(worker)
    await runner.setup()
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        host, port = sock.getsockname()[:2]
        site = web.SockSite(runner, sock, backlog=_BACKLOG)
        try:
            await site.start()
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        on_listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        await signals.get()
        on_stopping(len(worker.turns))
        return await _drain(worker, runner, site, signals, drain_timeout_s)
    finally:
        await runner.cleanup()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _cannot_listen(host: str, port: int, error: OSError) -> StartError:
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"port {port} on {host} is already in use; "
            "choose another with --port (0 finds a free one)"
        )
    return StartError(f"cannot listen on {host}:{port} ({error.strerror or error})")


async def _drain(
    worker: Worker,
    runner: web.AppRunner,
    site: web.BaseSite,
    signals: asyncio.Queue[int],
    timeout_s: float,
) -> bool:
    await site.stop()
    if runner.server is not None:
        await worker.connections.drain(runner.server)
    await worker.drain()
    idle = spawn(_idle(worker), name="drain")
    second_signal = spawn(signals.get(), name="second signal")
    try:
        await asyncio.wait(
            {idle, second_signal}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        return not worker.turns
    finally:
        await cancel_and_wait(idle, second_signal)


async def _idle(worker: Worker) -> None:
    """Return once no turn is open, all ends are delivered, and no request can begin one."""
    while True:
        await worker.connections.wait_answered()
        await worker.turns.wait_idle()
        await worker.websocket.wait_delivered()
        if worker.connections.are_answered:
            return
