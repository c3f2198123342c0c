"""The addresses of one host name, by the answers so far."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.discovery.sources.base import Endpoint

GONE_AFTER = 3
"""Answers in a row without an address after which its server goes; as `fall` of health checks."""

MOST_ADDRESSES = 256
"""Of one name; the lowest count. A wrong answer must not make thousands of servers."""

_IP = IPv4Address | IPv6Address


class Known:
    """An address goes when several answers in a row lack it, since some DNS servers return a part
    of their addresses each time (HAProxy, `hold obsolete`). No I/O."""

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()  # lowest first
        self._missed: dict[str, int] = {}  # in how many answers in a row

    def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """The addresses of before. Those that are host names are no answers."""
        self.addresses = tuple(addresses_of(endpoints))

    def answered(self, answer: Iterable[str]) -> bool:
        """Apply an answer, in any order -> whether the addresses have changed.

        Report an empty answer as an error instead.
        """
        present = set(answer)
        self._missed = {
            address: self._missed.get(address, 0) + 1
            for address in self.addresses
            if address not in present
        }
        kept = {address for address, times in self._missed.items() if times < GONE_AFTER}
        before = self.addresses
        self.addresses = tuple(self.sorted(present | kept)[:MOST_ADDRESSES])
        return self.addresses != before

    @staticmethod
    def sorted(addresses: Iterable[str]) -> list[str]:
        """Lowest first, IPv4 before IPv6."""
        return sorted(addresses, key=_place)


def addresses_of(endpoints: Iterable[Endpoint]) -> list[str]:
    """Those that are no host names, lowest first."""
    return Known.sorted(one.address.host for one in endpoints if one.address.is_literal)


def _place(address: str) -> tuple[int, _IP]:
    parsed = ip_address(address)
    return parsed.version, parsed
