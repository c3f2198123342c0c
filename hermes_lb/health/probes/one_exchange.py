"""One request of a check and its response, on a connection of their own, by either version."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from hermes_lb.backends.dialing import ServerDialer

Answer = TypeVar("Answer")


class OneExchange(asyncio.Protocol, Generic[Answer]):
    """`run` it once, in the event loop in which it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Answer] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None

    async def run(self, dialer: ServerDialer) -> Answer:
        """Raises NoAnswer or OSError."""
        try:
            await dialer.dial(self._loop, lambda: self)
            return await self._answer
        finally:
            if not self._answer.cancel() and not self._answer.cancelled():
                self._answer.exception()  # retrieved, or asyncio reports it: no task may be waiting
            if self._transport is not None:
                self._hang_up(self._transport)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """End the connection, with or without an answer."""
        raise NotImplementedError

    @property
    def _is_over(self) -> bool:
        return self._answer.done()

    def _finish(self, answer: Answer) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self.eof_received()
        else:
            self._fail(error)
