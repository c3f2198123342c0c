"""A TCP proxy in front of Redis with network faults: lost replies, silence, resets, refusals.

Without pytest, since others use it as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Self

import hiredis

from agent_worker.tasks import cancel_and_wait, spawn

if TYPE_CHECKING:
    import ssl

HOST = "127.0.0.1"
_CHUNK = 64 * 1024


class DroppingProxy:
    """Forwards to `port` of 127.0.0.1; with `tls`, clients must speak TLS to it."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = port
        self.port = 0
        #: Commands of clients, counted by name ("EVALSHA"), and scripts also by digest.
        self.commands: Counter[str] = Counter()
        #: The number of accepted connections.
        self.accepted = 0
        #: Close every new connection at once; and the number of those.
        self.refuses = False
        self.refused = 0
        self._tls = tls
        self._to_lose: Counter[str] = Counter()
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._hears = asyncio.Event()
        self._hears.set()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await cancel_and_wait(*self._tasks)

    @property
    def url(self) -> str:
        return f"redis{'s' if self._tls else ''}://{HOST}:{self.port}/0"

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def lose_replies(self, command: str, times: int = 1) -> None:
        """The next `times` commands of that name are executed, and their connections closed.

        `command` may be the digest of a script.
        """
        self._to_lose[command] += times

    def go_mute(self) -> None:
        """Forward nothing in either direction; connections stay open, and new ones are accepted."""
        self._speaks.clear()
        self._hears.clear()

    def go_deaf(self) -> None:
        """Forward no command; replies are still forwarded."""
        self._hears.clear()

    def speak(self) -> None:
        """Forward what was held back, and everything after it."""
        self._speaks.set()
        self._hears.set()

    def cut(self) -> None:
        """Close all connections."""
        for link in list(self._links):
            link.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            self.refused += 1
            writer.close()
            return
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            upstream = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.close()
            return
        finally:
            task.add_done_callback(self._tasks.discard)
        link = _Link(self, (reader, writer), upstream)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def may_speak(self) -> None:
        await self._speaks.wait()

    async def may_hear(self) -> None:
        await self._hears.wait()

    def sees(self, words: list[bytes]) -> bool:
        """Count the command. Whether its reply is to be lost."""
        is_lost = False
        for name in words[:2] if words[0] == b"EVALSHA" else words[:1]:
            command = name.decode()
            self.commands[command] += 1
            if self._to_lose[command]:
                self._to_lose[command] -= 1
                is_lost = True
        return is_lost


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """The connections of a client and to the server."""

    def __init__(self, proxy: DroppingProxy, client: _Stream, server: _Stream) -> None:
        self._proxy = proxy
        self._client_reader, self._client_writer = client
        self._server_reader, self._server_writer = server
        # Commands have the form of replies: arrays of strings.
        self._parser = hiredis.Reader()
        self._loses_next_reply = False

    async def run(self) -> None:
        """Until either side closes; then both are closed."""
        up = spawn(self._up(), name="proxy up")
        down = spawn(self._down(), name="proxy down")
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.close()
            await cancel_and_wait(up, down)
            for writer in (self._client_writer, self._server_writer):
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def close(self) -> None:
        self._client_writer.close()
        self._server_writer.close()

    async def _up(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._client_reader.read(_CHUNK):
                self._parser.feed(data)
                while (words := self._parser.gets()) is not False:
                    self._loses_next_reply |= self._proxy.sees(words)
                await self._proxy.may_hear()
                self._server_writer.write(data)
                await self._server_writer.drain()

    async def _down(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._server_reader.read(_CHUNK):
                if self._loses_next_reply:
                    return
                await self._proxy.may_speak()
                self._client_writer.write(data)
                await self._client_writer.drain()
