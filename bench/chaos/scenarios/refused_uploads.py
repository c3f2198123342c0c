"""m. Uploads that a server refuses from their heads, beside clients that ask for something else."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from bench.chaos.arena import own_host
from bench.chaos.caller import Cut
from bench.chaos.scenario import Scenario

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer

_GET = b"GET / HTTP/1.1\r\nHost: chaos.test\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large"
_PIECE = 64 * 1024  # bytes


class _Refusing(asyncio.Protocol):
    """A server that reads heads only. It closes with the body unread, so its kernel resets.

    gunicorn, hypercorn and granian do the same with 401, 413 and 429.
    """

    def __init__(self) -> None:
        self._head = b""
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head or self._transport.is_closing():
            return
        is_upload = self._head.startswith(b"POST")
        self._head = b""
        self._transport.write(_TOO_LARGE if is_upload else _OK)
        if is_upload:
            self._transport.pause_reading()
            # When more of it has come, which is not read.
            asyncio.get_running_loop().call_later(0.005, self._transport.abort)


@dataclass
class RefusedUploads(Scenario):
    """Two servers that refuse uploads, and clients that get from them."""

    name: ClassVar[str] = "refused-uploads"
    title: ClassVar[str] = "m. Uploads that are refused from their heads"

    uploads: int = 300
    clients: int = 14  # at a time, of uploads; and half as many that get
    size: int = 1_000_000  # bytes

    async def run(self, arena: Arena) -> None:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            servers = {}
            for number in (1, 2):
                server = await loop.create_server(_Refusing, own_host(), 0)
                stack.callback(server.close)
                servers[f"agent{number}"] = server.sockets[0].getsockname()
            balancer = await stack.enter_async_context(arena.balancer(servers))
            uploads, gets = await self._measure(balancer)
            afterwards: Counter[int] = Counter()
            await self._get(balancer, afterwards, 100)
            await balancer.until_quiet()
        self._judge(arena, uploads, gets, afterwards)

    async def _measure(self, balancer: Balancer) -> tuple[Counter[int], Counter[int]]:
        uploads: Counter[int] = Counter()
        gets: Counter[int] = Counter()
        left = iter(range(self.uploads))

        async def upload_all() -> None:
            for _ in left:
                uploads[await self._upload(balancer)] += 1

        async def get_all() -> None:
            while uploads.total() < self.uploads:
                await self._get(balancer, gets, 1)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.clients):
                group.create_task(upload_all())
            for _ in range(self.clients // 2):
                group.create_task(get_all())
        return uploads, gets

    async def _upload(self, balancer: Balancer) -> int:
        """-> the status; 0: there was none."""
        head = f"POST / HTTP/1.1\r\nHost: chaos.test\r\nContent-Length: {self.size}\r\n\r\n"
        async with await balancer.connect() as caller:

            async def send() -> None:
                with suppress(Cut):
                    await caller.send(head.encode())
                    for _ in range(self.size // _PIECE):
                        await caller.send(b"x" * _PIECE)

            sending = asyncio.get_running_loop().create_task(send())
            try:
                return (await caller.read_response()).status
            except Cut:
                return 0
            finally:
                sending.cancel()

    async def _get(self, balancer: Balancer, statuses: Counter[int], count: int) -> None:
        async with await balancer.connect() as caller:
            for _ in range(count):
                await caller.send(_GET)
                statuses[(await caller.read_response()).status] += 1

    def _judge(
        self, arena: Arena, uploads: Counter[int], gets: Counter[int], afterwards: Counter[int]
    ) -> None:
        figure, must = arena.report.figure, arena.report.must
        figure("uploads", uploads.total())
        figure("... answered with 413", uploads[413])
        figure("other requests meanwhile", gets.total())
        figure("... answered with 200", gets[200])
        must(uploads == {413: self.uploads}, "each upload gets the server's own answer", uploads)
        must(set(gets) == {200}, "all others are served meanwhile", gets)
        must(
            set(afterwards) == {200}, "... and afterwards: no server has been taken out", afterwards
        )
