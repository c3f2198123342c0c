"""Nobody hangs at a seat that nobody can take.

The kernel goes on to deal clients out to a seat's sockets whether or not anybody accepts there.
While its worker is being replaced they wait; if no worker can be started, they shall not.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from hermes_lb.listen.sockets import BACKLOG
from hermes_lb.transport.kernel import reset_socket_when_closed

if TYPE_CHECKING:
    from collections.abc import Collection

    from hermes_lb.workers.listening import Key, Listening

# Of one socket at a time; the loop has other things to do.
_AT_ONCE = 64


class VacantSeats:
    """What becomes of the clients there: others serve them, or they are refused at once."""

    def __init__(self, listening: Listening) -> None:
        self._listening = listening
        self._refusing: list[socket.socket] = []

    def update(self, vacant: Collection[int], *, others_serve: bool) -> None:
        """These seats have nobody. To be called again whenever seats or sockets have changed.

        A worker that listens there later makes good for all that is done here.
        """
        self.close()
        for seat in vacant:
            for key, sock in self._listening.of_seat(seat):
                if not others_serve:
                    self._refuse(sock)
                elif self._seats_of(key, sock) <= set(vacant):
                    stop_listening(sock)

    def take_back(self, seat: int) -> None:
        """A worker listens there, but `update` may have been called since it began to."""
        for _, sock in self._listening.of_seat(seat):
            if not _listens(sock):
                sock.listen(BACKLOG)

    def close(self) -> None:
        """Refuse nobody any more."""
        loop = asyncio.get_running_loop()
        for sock in self._refusing:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._refusing.clear()

    def _seats_of(self, key: Key, sock: socket.socket) -> set[int]:
        """Those that have this very socket, or a duplicate: all, if it is in the file system or
        systemd's; several, if an upgrade has made more seats of fewer."""
        group, seats = self._listening.groups[key], self._listening.seats
        inode = os.fstat(sock.fileno()).st_ino
        return {n % seats for n, one in enumerate(group) if os.fstat(one.fileno()).st_ino == inode}

    def _refuse(self, sock: socket.socket) -> None:
        ours = sock.dup()
        with suppress(OSError):  # a seat that was left to the others before: nobody listens there
            ours.listen(BACKLOG)
        self._refusing.append(ours)
        asyncio.get_running_loop().add_reader(ours.fileno(), _refuse_all, ours)


def stop_listening(sock: socket.socket) -> None:
    """Until somebody calls `listen` again, on it or a duplicate. Idempotent.

    Who comes is refused, or goes to others at the same port; who waits in the backlog is reset.
    HAProxy pauses listeners so. The port stays ours; one that is closed could be taken by others.
    """
    if _listens(sock):  # shut down twice, it is spoilt for good: whom it accepts seem to have ended
        sock.shutdown(socket.SHUT_RD)


def _refuse_all(sock: socket.socket) -> None:
    with suppress(OSError):  # nobody else, or nobody that we have a descriptor for
        for _ in range(_AT_ONCE):
            client, _ = sock.accept()
            with client:  # who gets a reset, as from a port where nobody listens
                reset_socket_when_closed(client)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
