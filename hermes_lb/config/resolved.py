"""The names of servers at the addresses of a host name (`resolve`): pod-10.0.1.12 is one of pod.

The look-up itself is in `discovery.dns`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.options.units import Address

if TYPE_CHECKING:
    from hermes_lb.backends.options import Server


def name_at(name: str, address: str) -> str:
    """The name of the server `name` of the file at one of its addresses."""
    return f"{name}-{address.replace(':', '-')}"


def source_of(server: Server) -> str:
    """Where a server comes from: "config", "resolve", or the kind of a discovery."""
    if server.source == "config" and resolved_name(server) is not None:
        return "resolve"
    return server.source


def resolved_name(server: Server) -> str | None:
    """The name in the file of a server that is looked up, or of one that was made so.

    None for all others. A server that was made so has an address, a `server_name`, which is the
    host name, and a name that ends with the address.
    """
    if server.resolve is not None:
        return server.name
    address = server.address
    if isinstance(address, Address) and address.is_literal and server.server_name is not None:
        name = server.name.removesuffix(name_at("", address.host))
        if name != server.name:
            return name
    return None
