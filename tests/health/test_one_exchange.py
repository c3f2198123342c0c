"""One exchange of a check, before a dialer that fails behind the server's back."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.health.probes.one_exchange import OneExchange

if TYPE_CHECKING:
    from collections.abc import Callable


class Exchange(OneExchange[bytes]):
    def _hang_up(self, transport: asyncio.Transport) -> None:
        pass


class LateDialer:
    """The connection fails before `dial` has returned, and so does that."""

    async def dial(
        self, loop: asyncio.AbstractEventLoop, connection: Callable[[], asyncio.Protocol]
    ) -> None:
        connection().connection_lost(OSError("reset"))
        raise OSError("no route")


async def test_an_answer_that_is_not_waited_for_is_not_reported() -> None:
    """By asyncio, as an exception that was never retrieved."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    dialer: Any = LateDialer()
    with pytest.raises(OSError, match="no route"):
        await Exchange().run(dialer)
    gc.collect()
    assert reported == []
