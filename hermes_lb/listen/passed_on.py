"""A connection that another process serves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable


class PassedOn(asyncio.Protocol):
    """Passes it on as it was accepted: nothing of it is read here.

    `send(descriptor)` passes a duplicate; False: it can't, and the protocol that `make` returns
    serves the connection here.
    """

    __slots__ = ("_make", "_send")

    def __init__(self, send: Callable[[int], bool], make: Callable[[], Any]) -> None:
        self._send = send
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        if self._send(transport.get_extra_info("socket").fileno()):
            transport.abort()  # closes this descriptor, and sends nothing
        else:
            protocol = self._make()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
