"""What a strategy may know of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from hermes_lb.backends.server import Server


class Request(Protocol):
    """A request, as far as a pick may depend on it."""

    @property
    def client_address(self) -> str:
        """The client's IP address, as text; empty where there is none (a Unix socket)."""

    @property
    def request_head(self) -> bytes:
        """Its head as the server will get it, from the first line to the empty one; its body may
        follow."""

    @property
    def tried(self) -> Collection[Server]:
        """Servers that this request has already failed on."""
