"""What a shared store of a session table implements."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

#: In the place of a server's name: an operator has cleared the pin. No server has it.
CLEARED: Final = ""


class SharedStore:
    """The session table of one backend, shared by several processes or balancers.

    It raises nothing: while it can't be reached, each process uses what it knows.
    """

    #: Seconds for which a process may use an entry without another look-up.
    freshness = inf

    @property
    def is_reachable(self) -> bool:
        """Whether a look-up makes sense now."""
        raise NotImplementedError

    async def look_up(self, key: bytes) -> str | None:
        """The server's name, or CLEARED; None: unknown, or no answer in time. It counts as a use
        of the key."""
        raise NotImplementedError

    def announce(self, key: bytes, name: str) -> asyncio.Future[bool] | None:
        """Assign the session to this server.

        Returns a future of whether other look-ups find that; None: they do already.
        """
        raise NotImplementedError

    def refresh(self, key: bytes, name: str) -> asyncio.Future[bool] | None:
        """Count a use of a session that this server had already, and bring it back if it is lost.

        Returns a future that is False if an operator has cleared it; it stays so then. None: the
        store needs none.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close its connections."""
