"""A scripted peer under TLS: every record leaves when the test says so."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.support.http_peer import Ended, Peer

if TYPE_CHECKING:
    import socket


class TlsPeer(Peer):
    """Reads and writes as a `Peer` does, through TLS.

    `wire` has what really travels, `tls` what the ssl module knows of the connection.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_name: str | None = None,
    ) -> None:
        super().__init__(sock)
        self.wire = Peer(sock)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=server_name
        )
        self.was_told_goodbye = False  # by a close_notify

    async def shake_hands(self) -> None:
        """Raises ssl.SSLError if it comes to nothing, and tells the other side why; or Ended."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._take_in()
            except ssl.SSLError:
                with suppress(OSError):  # it may have left, after an alert of its own
                    await self._flush()
                raise
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self._flush()

    async def say_goodbye(self) -> None:
        """close_notify: we send no more, and go on reading."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self._flush()

    async def send_and_end(self, data: bytes) -> None:
        """`data` and a close_notify, in one segment."""
        self.tls.write(data)
        await self.say_goodbye()

    async def _flush(self) -> None:
        if self.outgoing.pending:
            await self.wire.send(self.outgoing.read())

    async def _take_in(self) -> None:
        try:
            self.incoming.write(await self.wire.read_some())
        except Ended as end:
            raise Ended(self.unread, by_reset=end.by_reset) from None

    async def _receive(self) -> None:
        while True:
            try:
                data = self.tls.read(64 * 1024)
            except ssl.SSLWantReadError:
                await self._take_in()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self.was_told_goodbye = True
                raise Ended(self.unread, by_reset=False)
            self.received += data
            return
