"""Closes connections without a permitted request.

The listener may be on a network; a connection that sends its head byte by byte, or nothing, would
hold a descriptor for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp.web import RequestHandler

# Seconds between two sweeps: the limit is one to two of these.
EVERY = 30.0


class Strangers:
    """Tell it about connections that are `welcome`, and about all of them at each `sweep`."""

    def __init__(self) -> None:
        self._welcome: set[RequestHandler] = set()
        self._suspects: set[RequestHandler] = set()

    def welcome(self, connection: RequestHandler) -> None:
        """Exempt a connection."""
        self._welcome.add(connection)

    def sweep(self, connections: Iterable[RequestHandler]) -> None:
        """Close those that had made no permitted request at the last sweep either."""
        present = set(connections)
        self._welcome &= present
        strangers = present - self._welcome
        for connection in strangers & self._suspects:
            connection.force_close()
        self._suspects = strangers
