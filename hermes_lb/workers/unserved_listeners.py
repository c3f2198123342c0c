"""Listeners of slots in which no worker can be started.

The kernel keeps distributing clients to a slot's sockets whether or not a process accepts there.
They wait while the worker is being replaced; if no worker can be started, they are reset.
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

# Clients reset per socket and event, to bound the time in the loop.
_AT_ONCE = 64


class UnservedListeners:
    """Moves their clients to the other slots, or refuses them if no slot has a worker."""

    def __init__(self, listening: Listening) -> None:
        self._listening = listening
        self._refusing: list[socket.socket] = []

    def update(self, unserved: Collection[int], *, others_serve: bool) -> None:
        """`unserved` slots have no worker. Call it whenever slots or sockets have changed.

        A worker that listens there later undoes all that is done here.
        """
        self.close()
        for slot in unserved:
            for key, sock in self._listening.of_slot(slot):
                if not others_serve:
                    self._refuse(sock)
                elif self._slots_of(key, sock) <= set(unserved):
                    stop_listening(sock)

    def restore(self, slot: int) -> None:
        """A worker now listens there; `update` may have stopped the listeners since its start."""
        for _, sock in self._listening.of_slot(slot):
            if not _listens(sock):
                sock.listen(BACKLOG)

    def close(self) -> None:
        """Refuse no more clients."""
        loop = asyncio.get_running_loop()
        for sock in self._refusing:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._refusing.clear()

    def _slots_of(self, key: Key, sock: socket.socket) -> set[int]:
        """Slots that share this socket or a duplicate: all, for a Unix socket or one of systemd;
        several, if an upgrade has added slots."""
        group, slots = self._listening.groups[key], self._listening.slots
        inode = os.fstat(sock.fileno()).st_ino
        return {n % slots for n, one in enumerate(group) if os.fstat(one.fileno()).st_ino == inode}

    def _refuse(self, sock: socket.socket) -> None:
        ours = sock.dup()
        with suppress(OSError):  # `stop_listening` may have been called on it
            ours.listen(BACKLOG)
        self._refusing.append(ours)
        asyncio.get_running_loop().add_reader(ours.fileno(), _refuse_all, ours)


def stop_listening(sock: socket.socket) -> None:
    """Stop until `listen` is called on it or a duplicate. Idempotent.

    New clients are refused or go to other sockets of the port; those in the backlog are reset.
    HAProxy pauses listeners this way. The port stays ours; a closed one could be taken by others.
    """
    if _listens(sock):  # after a second shutdown it accepts only connections that are at EOF
        sock.shutdown(socket.SHUT_RD)


def _refuse_all(sock: socket.socket) -> None:
    with suppress(OSError):  # the backlog is empty, or no descriptor is left
        for _ in range(_AT_ONCE):
            client, _ = sock.accept()
            with client:  # reset, as a closed port would
                reset_socket_when_closed(client)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
