"""Accepted connections on their way to the worker of a slot, in a pair of Unix sockets.

A message is a connection's descriptor (`SCM_RIGHTS`) and the listener's digest (`workers.spread`).
As with listening sockets the supervisor keeps both ends open: what a worker that dies has not read
is read by its replacement.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress

from hermes_lb.listen.sockets import handed_over
from hermes_lb.transport.kernel import reset_socket_when_closed
from hermes_lb.workers.channel import receive

DIGEST_SIZE = 8
"""Bytes. All messages have this size."""


class Inbox:
    """Both ends: every worker sends, the worker of the slot receives."""

    def __init__(self, receiving: socket.socket, sending: socket.socket) -> None:
        self._receiving = receiving
        self._sending = sending

    @classmethod
    def create(cls) -> Inbox:
        # SOCK_DGRAM queues 10 messages by default (net.unix.max_dgram_qlen); this one some 270.
        receiving, sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        receiving.setblocking(False)
        sending.setblocking(False)
        return cls(receiving, sending)

    @classmethod
    def of(cls, receiving: int, sending: int) -> Inbox:
        """Of descriptors that were received or inherited."""
        return cls(handed_over(receiving), handed_over(sending))

    def __repr__(self) -> str:
        return f"<Inbox {self._receiving.fileno()}>"

    def fileno(self) -> int:
        """Readable when there are messages."""
        return self._receiving.fileno()

    @property
    def descriptors(self) -> tuple[int, int]:
        """For `of`."""
        return self._receiving.fileno(), self._sending.fileno()

    def waiting(self) -> int:
        """The number of messages in it. One system call."""
        size = fcntl.ioctl(self._receiving, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", size)[0]) // DIGEST_SIZE

    def send(self, digest: bytes, descriptor: int) -> bool:
        """False if it can't: the inbox or the limit of descriptors in flight is full."""
        try:
            socket.send_fds(self._sending, [digest], [descriptor])
        except OSError:
            return False
        return True

    def receive(self) -> tuple[bytes, socket.socket] | None:
        """The next digest and connection; None: there is none.

        Raises OSError if no descriptor is left; nothing is lost then.
        """
        # The kernel drops a descriptor for which there is no place.
        os.close(os.dup(self._receiving.fileno()))
        try:
            digest, descriptors = receive(self._receiving, DIGEST_SIZE, 1)
        except BlockingIOError:
            return None
        return (digest, handed_over(descriptors[0])) if descriptors else None

    def refuse_all(self) -> None:
        """Reset the connections in it, as those in the backlog of a slot without a worker."""
        with suppress(OSError):  # no descriptor is left
            while (found := self.receive()) is not None:
                with found[1] as client:
                    reset_socket_when_closed(client)

    def close(self) -> None:
        self._receiving.close()
        self._sending.close()
