"""Messages between the supervisor and a worker, over a pair of Unix sockets.

A message is a length-prefixed JSON object and may carry file descriptors (`SCM_RIGHTS`). `do` names
its kind; one with an `ask` number expects an `answer` with the same number. Both ends are trusted,
so input is not validated.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from array import array
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Message = dict[str, Any]

logger = logging.getLogger("hermes_lb.workers")

_HEAD = struct.Struct(">IH")  # bytes of the body, descriptors that come with it
_AT_ONCE = 256 * 1024
# The kernel's limit per `sendmsg` (SCM_MAX_FD), and ours per `recvmsg`.
_MOST_FDS = 253


class ChannelClosed(Exception):
    """The other end has closed: there will be no answer."""


class Channel:
    """One end, in the running loop. `heard(message, descriptors)` owns the descriptors.

    `send` never blocks: unsent data is buffered.
    """

    def __init__(
        self,
        sock: socket.socket,
        heard: Callable[[Message, list[int]], None],
        closed: Callable[[], None] = lambda: None,
        *,
        asked: int = 0,
    ) -> None:
        """`asked`: the last question number that a previous owner of the socket used."""
        sock.setblocking(False)
        self._socket = sock
        self._heard = heard
        self._when_closed = closed
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._fds: deque[int] = deque()
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self.asked = asked
        self._loop.add_reader(sock, self._readable)

    @property
    def is_closed(self) -> bool:
        return self._socket.fileno() < 0

    @property
    def is_amid_message(self) -> bool:
        """A message is sent or received in part: the socket can't be handed over now."""
        return bool(self._unsent or self._received)

    def fileno(self) -> int:
        """The socket's descriptor, for a handover."""
        return self._socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send duplicates of `descriptors` along. On a closed channel: does nothing."""
        if self.is_closed:
            return
        body = json.dumps(message, separators=(",", ":")).encode()
        data = memoryview(_HEAD.pack(len(body), len(descriptors)) + body)
        is_first = not self._unsent
        # Duplicated until they are sent: the caller may close its own at once.
        ours = [os.dup(fd) for fd in descriptors]
        while len(ours) > _MOST_FDS:  # spread over the first bytes
            self._unsent.append((data[:1], ours[:_MOST_FDS]))
            data, ours = data[1:], ours[_MOST_FDS:]
        self._unsent.append((data, ours))
        if is_first:
            self._flush()

    async def ask(
        self, message: Message, descriptors: Sequence[int] = (), *, timeout: float
    ) -> Message:
        """Send, and wait for the answer. Raises ChannelClosed or TimeoutError."""
        if self.is_closed:
            raise ChannelClosed
        self.asked = number = self.asked + 1
        self._asked[number] = answer = self._loop.create_future()
        try:
            self.send({**message, "ask": number}, descriptors)
            async with asyncio.timeout(timeout):
                message = await answer
                return message
        finally:
            del self._asked[number]

    def answer(self, question: Message, answer: Message) -> None:
        """Answer a message that had an `ask`."""
        self.send({**answer, "answer": question["ask"]})

    def close(self) -> None:
        """Unsent and partly received messages are dropped. Idempotent."""
        if self.is_closed:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for _, descriptors in self._unsent:
            _close_all(descriptors)
        self._unsent.clear()
        _close_all(self._fds)
        self._fds.clear()
        self._received.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ChannelClosed())

    def hear_out(self) -> None:
        """The other end has closed: deliver what it sent, then close. Idempotent."""
        while not self.is_closed and self._readable():
            pass
        self.close()

    def _flush(self) -> None:
        try:
            while self._unsent:
                data, descriptors = self._unsent[0]
                sent = socket.send_fds(self._socket, [data], descriptors)
                _close_all(descriptors)  # sent with the first byte
                if sent < len(data):
                    self._unsent[0] = data[sent:], []
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._flush)
            return
        except OSError:
            self._end()
            return
        self._loop.remove_writer(self._socket)

    def _readable(self) -> bool:
        """Read up to `_AT_ONCE` bytes -> whether there were any."""
        try:
            data, descriptors = receive(self._socket, _AT_ONCE, _MOST_FDS)
        except BlockingIOError:
            return False
        except OSError:
            self._end()
            return False
        self._fds.extend(descriptors)
        if not data:
            self._end()
            return False
        self._received += data
        while (message := self._next()) is not None:
            self._deliver(*message)
        return True

    def _next(self) -> tuple[Message, list[int]] | None:
        """The next complete message."""
        received = self._received
        if len(received) < _HEAD.size:
            return None
        size, fd_count = _HEAD.unpack_from(received)
        end = _HEAD.size + size
        if len(received) < end:
            return None
        message: Message = json.loads(bytes(received[_HEAD.size : end]))
        del received[:end]
        return message, [self._fds.popleft() for _ in range(fd_count)]

    def _deliver(self, message: Message, descriptors: list[int]) -> None:
        if "answer" in message:
            waiting = self._asked.get(message["answer"])
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        try:
            self._heard(message, descriptors)
        except Exception:  # a bug in one handler must not end the channel
            logger.exception("while dealing with %r", message.get("do"))

    def _end(self) -> None:
        if not self.is_closed:
            self.close()
            self._when_closed()


def receive(sock: socket.socket, size: int, descriptors: int) -> tuple[bytes, array[int]]:
    """Up to `size` bytes, and descriptors.

    `socket.recv_fds` ignores its flags (3.11), so its descriptors would be inheritable.
    """
    found = array("i")
    room = socket.CMSG_SPACE(descriptors * found.itemsize)
    data, ancillary, _, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, packed in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(packed)
    return data, found


def _close_all(descriptors: Any) -> None:
    for fd in descriptors:
        with suppress(OSError):
            os.close(fd)
    if isinstance(descriptors, list):
        descriptors.clear()
