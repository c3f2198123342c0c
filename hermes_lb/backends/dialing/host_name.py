"""Look-ups of host names (`getaddrinfo`), in threads of their own.

While a name server is silent a look-up takes ten seconds or more, and can't be cancelled. The event
loop has few threads (uvloop: four): a few such names would block all others, even those of
/etc/hosts, and the end of the process. These threads are daemons, which the exit does not wait for.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from hermes_lb.signals import hold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohappyeyeballs import AddrInfoType


class HostName:
    """One name with a port, in one thread: calls during a look-up share its answer."""

    def __init__(self, host: str, port: int | None = None) -> None:
        self._host = host
        self._port = port
        self._answer: Future[Sequence[AddrInfoType]] | None = None

    async def look_up(self) -> Sequence[AddrInfoType]:
        """As `getaddrinfo` gives it, for TCP. Raises OSError."""
        if self._answer is None or self._answer.done():
            self._answer = self._asked()
        return await asyncio.wrap_future(self._answer)

    def _asked(self) -> Future[Sequence[AddrInfoType]]:
        answer: Future[Sequence[AddrInfoType]] = Future()
        answer.set_running_or_notify_cancel()  # no caller that leaves can cancel it
        thread = threading.Thread(
            target=self._ask, args=(answer,), name=f"look-up of {self._host}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            raise OSError(errno.EAGAIN, "no more threads can be started") from None
        return answer

    def _ask(self, answer: Future[Sequence[AddrInfoType]]) -> None:
        hold()  # a signal that this thread took would be lost with it
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except Exception as error:  # UnicodeError too
            answer.set_exception(error)
        else:
            answer.set_result(found)
