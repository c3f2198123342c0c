"""Sets of networks, which clients' addresses are in or not."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from hermes_lb.transport.addresses import UNIX, plain_network

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network
    from typing import Literal


class Networks:
    """Of plain addresses (`transport.addresses`); "unix:" for clients of a Unix socket."""

    __slots__ = ("_has_unix", "_networks")

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network | Literal["unix:"]]) -> None:
        networks = list(networks)
        self._has_unix = "unix:" in networks
        self._networks = [plain_network(one) for one in networks if one != "unix:"]

    def __contains__(self, address: str) -> bool:
        if address == UNIX:
            return self._has_unix
        if not self._networks:
            return False
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)
