"""What operators see and clear of the pins that a shared store has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class StoreAway(Exception):
    """The store can't be reached, is too slow, or refuses. `str(error)` is a one-line message."""


class StoredPins:
    """The pins of one backend. Opened for one command: `close` it.

    Both iterators raise StoreAway, work in small parts, and may be left before their end. `server`
    and `pin` (`pin_id`) choose; None: any.
    """

    def pins(self, server: str | None, pin: str | None) -> AsyncGenerator[list[tuple[str, str]]]:
        """Ids and servers' names."""
        raise NotImplementedError

    def clear(self, server: str | None, pin: str | None) -> AsyncGenerator[int]:
        """Clear them -> their number, part by part. No balancer brings them back (CLEARED)."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close its connections."""
        raise NotImplementedError
