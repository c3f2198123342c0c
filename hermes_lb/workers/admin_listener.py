"""The supervisor's admin listener: retried until it opens; its sockets survive an upgrade."""

from __future__ import annotations

import asyncio
import errno
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from hermes_lb.control.admin import AdminServer, listening_sockets
from hermes_lb.errors import reason
from hermes_lb.tasks import Tasks
from hermes_lb.workers.unserved_listeners import stop_listening

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from hermes_lb import config
    from hermes_lb.control.history import History
    from hermes_lb.control.operator import Operator
    from hermes_lb.options.units import Address

logger = logging.getLogger("hermes_lb")

# Seconds between two attempts to open it.
_AGAIN = 1.0


class AdminSockets:
    """Kept open over an upgrade: clients that connect meanwhile wait in the backlog."""

    def __init__(self, bind: str = "", sockets: Sequence[socket.socket] = ()) -> None:
        self.bind = bind
        self.sockets = list(sockets)

    def check(self, bind: Address) -> None:
        """Raises OSError if the address is in use by anything but these sockets."""
        if self.bind == str(bind):
            return
        try:
            opened = listening_sockets(bind)
        except OSError as error:
            if not self._may_be_in_the_way(bind, error):
                raise
        else:
            _close_all(opened)

    def at(self, bind: Address) -> list[socket.socket]:
        """Duplicates of the sockets of that address, opened if necessary. Raises OSError."""
        if self.bind != str(bind):
            try:
                opened = listening_sockets(bind)
            except OSError as error:
                if not self._may_be_in_the_way(bind, error):
                    raise
                self.close()
                opened = listening_sockets(bind)
            self.close()
            self.bind, self.sockets = str(bind), opened
        return [sock.dup() for sock in self.sockets]

    def _may_be_in_the_way(self, bind: Address, error: OSError) -> bool:
        """As 127.0.0.1:9900 is for 0.0.0.0:9900."""
        ports = {sock.getsockname()[1] for sock in self.sockets}
        return error.errno == errno.EADDRINUSE and bind.port in ports

    def refuse(self) -> None:
        """Refuse clients until `listen` is called on the sockets again. Idempotent."""
        for sock in self.sockets:
            stop_listening(sock)

    def close(self) -> None:
        """Idempotent."""
        _close_all(self.sockets)
        self.bind, self.sockets = "", []


class AdminListener:
    """`await open()` or `await open_when_possible()`; `await close()`. It can be opened again."""

    def __init__(self, configured: config.Admin, operator: Operator, sockets: AdminSockets) -> None:
        self._bind = configured.bind
        self._server = AdminServer(configured, operator)
        self._sockets = sockets
        self._tasks = Tasks()
        self._is_open = False

    def __repr__(self) -> str:
        return f"<AdminListener {self.url or 'closed'}>"

    @property
    def url(self) -> str | None:
        """None while it is not open."""
        return self._server.url if self._is_open else None

    @property
    def history(self) -> History:
        """Of the servers' loads. Kept by `close`."""
        return self._server.history

    async def open(self) -> None:
        """Raises OSError or ValueError as `AdminServer.start` does; clients are refused then."""
        try:
            await self._server.start(self._sockets.at(self._bind))
        except (OSError, ValueError):
            self._sockets.refuse()
            raise
        self._is_open = True

    async def open_when_possible(self) -> None:
        """Open now or retry: while clients are served, a missing admin listener is no reason to
        end."""
        try:
            await self.open()
        except (OSError, ValueError) as error:
            logger.error(
                "the admin listener can't be opened, and is tried again: %s", reason(error)
            )
            self._tasks.spawn(self._keep_trying(), name="open the admin listener")

    async def _keep_trying(self) -> None:
        while not self._is_open:
            await asyncio.sleep(_AGAIN)
            with suppress(OSError, ValueError):
                await self.open()
        logger.info("admin on %s", self.url)

    async def close(self) -> None:
        """Clients then wait in the backlog of the sockets, which stay open. Idempotent."""
        await self._tasks.cancel_all()
        self._is_open = False
        await self._server.stop()


def _close_all(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
