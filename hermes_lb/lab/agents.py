"""Real workers for a live run: `agent_worker` processes, with turns of given length.

A request is a turn without a session ("write 12 words"), so it needs no store except the embedded
one that workers require at their start. Workers take any number of turns at a time.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from array import array
from typing import TYPE_CHECKING, Final, Self

from hermes_lb.lab.workloads import Workload, exponential, poisson

if TYPE_CHECKING:
    from random import Random

#: Seconds between two words.
INTERVAL: Final = 0.05
#: Seconds, on average: the first word comes at once, apart from processes and sockets.
FIRST: Final = 0.01
_WORDS: Final = exponential(20.0)  # of a turn
_RATE: Final = 4.0  # turns per second and worker
_PATIENCE: Final = 30.0  # seconds for a process to start
_PLACE = re.compile(r"listening on (\S+)")
_WORKER = re.compile(rb"\r\nX-Hermes-Worker: s(\d+)\r\n", re.IGNORECASE)


def turns(rng: Random, requests: int, servers: int) -> Workload:
    """Poisson arrivals; the first word at once, then one per interval."""
    work = poisson(rng, requests, _RATE * servers, _WORDS, users=max(10, requests // 20))
    lengths = array("d", [INTERVAL * int(words) for words in work.lengths])
    return work._replace(firsts=array("d", [0.0] * requests), lengths=lengths)


def ask(address: str, length: float) -> bytes:
    """A turn of this many seconds, from the client of this address."""
    body = json.dumps({"content": f"write {round(length / INTERVAL) + 1} words"}).encode()
    head = (
        "POST /api/agent/ephemeral HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n"
        "Content-Type: application/json\r\nAccept: text/event-stream\r\n"
        f"X-Forwarded-For: {address}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def served_by(head: bytes) -> int:
    """The index of the worker that the response head names; -1: none."""
    found = _WORKER.search(head)
    return int(found[1]) if found is not None else -1


class Agents:
    """A number of workers, s0, s1, ..., and their store, while the block runs.

    Raises RuntimeError, with their output, if they do not start.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: list[asyncio.subprocess.Process] = []
        self.addresses: list[str] = []

    async def __aenter__(self) -> Self:
        try:
            store = await self._start("redis", "--port", "0")
            started = [self._start_worker(number, store) for number in range(self._count)]
            # All of them: one that is still starting would otherwise be left behind.
            urls = await asyncio.gather(*started, return_exceptions=True)
            for url in urls:
                if isinstance(url, BaseException):
                    raise url
                self.addresses.append(url.removeprefix("http://"))
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _start_worker(self, number: int, store: str) -> str:
        options = ("--port", "0", "--redis-url", store, "--name", f"s{number}", "--blobs", "off")
        return await self._start(*options, "--token-interval", f"{INTERVAL * 1000:.0f}ms")

    async def _start(self, *options: str) -> str:
        """Start a process -> its address."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent_worker",
            *options,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                line = (await process.stdout.readline()).decode()
                found = _PLACE.search(line)
                if found is None:
                    said = (await process.stderr.read()).decode().strip()
                    raise RuntimeError(f"a worker did not start: {said or line.strip()}")
        except TimeoutError:
            raise RuntimeError(f"a worker did not start within {_PATIENCE:g} s") from None
        return found[1]

    async def _end(self) -> None:
        """In order; at once if it is cancelled."""
        running = [process for process in self._processes if process.returncode is None]
        for process in running:
            process.terminate()
        try:
            await asyncio.gather(*(process.communicate() for process in running))
        except asyncio.CancelledError:
            for process in running:
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*(process.wait() for process in running))
            raise
