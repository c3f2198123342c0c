"""The servers in the EndpointSlices of a service (`discovery.k8s.io/v1`). No I/O.

    conditions                      the server
    ready                           up
    serving and terminating         drains: those pinned to it still come
    neither                         is gone; what runs on it may end

As the API has it, `ready` is true if it is absent, and `serving` is `ready` if it is absent. A pod
that terminates and is still ready (`publishNotReadyAddresses`) drains as well.

A pod's name is its server's name, so cookies, counters and logs survive a new address. An endpoint
without a pod has the name of its address.

An endpoint may be in two slices while they are rebalanced, and in one for each address family: of
several the best state counts, then the first slice by name. A change costs the endpoints of its
slice (100 by default) and not those of the service.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hermes_lb.discovery.sources.base import MOST_SERVERS, Answer, DiscoveryFailed, Endpoint
from hermes_lb.discovery.sources.names import name_of_address, server_name
from hermes_lb.options.units import Address

if TYPE_CHECKING:
    from collections.abc import Mapping

OtherZones = Literal["equal", "less", "backup"]

# Of the servers of the own zone, where others have less weight.
_OWN_ZONE = 10

_Found = dict[str, Endpoint]


class Wanted(NamedTuple):
    """The service whose slices are read. `port`: its name or number; None: the only one."""

    service: str
    namespace: str
    port: str | int | None
    family: Literal["IPv4", "IPv6"]
    zone: str | None
    other_zones: OtherZones


class EndpointSlices:
    """The slices of a service, and the servers in them."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._slices: dict[str, _Found] = {}
        self._unready: dict[str, int] = {}  # endpoints of a slice that are no servers
        self._ports: dict[str, list[str]] = {}  # of slices without the port: those that they have
        self._refused: dict[str, str] = {}  # of a slice: an endpoint that can't be used
        self._holders: dict[str, list[str]] = {}  # of a server: the slices that have it

    def __repr__(self) -> str:
        return f"<EndpointSlices {len(self._slices)}, {len(self._holders)} servers>"

    @property
    def all(self) -> Answer:
        """All servers."""
        return Answer({name: self._best(name) for name in self._holders}, problem=self.problem)

    def put(self, item: Any) -> Answer:
        """A slice that was added or modified -> what it changes. Raises DiscoveryFailed."""
        name = _name_of(item)
        if len(self._slices) >= MOST_SERVERS and name not in self._slices:
            raise DiscoveryFailed(f"there are more than {MOST_SERVERS} EndpointSlices")
        return self._changed(name, self._read(name, item))

    def remove(self, item: Any) -> Answer:
        """A slice that was deleted -> what it changes. Raises DiscoveryFailed."""
        name = _name_of(item)
        for register in (self._unready, self._ports, self._refused):
            register.pop(name, None)
        answer = self._changed(name, {})
        self._slices.pop(name, None)
        return answer

    @property
    def problem(self) -> str:
        """One line for the operator; empty if there are servers."""
        wanted = self._wanted
        service = f"service {wanted.service} in namespace {wanted.namespace}"
        if self._refused:
            return f"{service}: {next(iter(self._refused.values()))}"
        if self._holders:
            return ""
        if not self._slices:
            return f"{service} has no EndpointSlice: check both names"
        if self._ports and not self._unready:
            has = sorted({port for ports in self._ports.values() for port in ports})
            if wanted.port is None:
                return f"{service} has several ports, name one: {', '.join(has) or 'none'}"
            return f"{service} has no port {wanted.port}; it has {', '.join(has) or 'none'}"
        return f"{service} has no ready endpoint, {sum(self._unready.values())} not ready"

    def _changed(self, slice_name: str, found: _Found) -> Answer:
        before = self._slices.get(slice_name, {})
        self._slices[slice_name] = found
        if found == before:
            return Answer({}, is_complete=False, problem=self.problem)
        present: _Found = {}
        gone: list[str] = []
        for name in before.keys() - found.keys():
            holders = self._holders[name]
            holders.remove(slice_name)
            if holders:
                present[name] = self._best(name)
            else:
                del self._holders[name]
                gone.append(name)
        for name, endpoint in found.items():
            if before.get(name) == endpoint:
                continue
            holders = self._holders.setdefault(name, [])
            if slice_name not in holders:
                holders.append(slice_name)
                holders.sort()
            present[name] = self._best(name)
        if len(self._holders) > MOST_SERVERS:
            raise DiscoveryFailed(f"there are more than {MOST_SERVERS} endpoints")
        return Answer(present, gone, is_complete=False, problem=self.problem)

    def _best(self, name: str) -> Endpoint:
        found = [self._slices[holder][name] for holder in self._holders[name]]
        return min(found, key=lambda endpoint: endpoint.leaves)

    def _read(self, name: str, item: Any) -> _Found:
        """The servers of a slice; notes what stands against the others."""
        for register in (self._unready, self._ports, self._refused):
            register.pop(name, None)
        if item.get("addressType") != self._wanted.family:
            return {}
        endpoints = _list(item, "endpoints")
        port = self._port(name, _list(item, "ports"))
        if port is None:
            return {}
        found: _Found = {}
        for endpoint in endpoints:
            if not isinstance(endpoint, dict):
                raise DiscoveryFailed(f"EndpointSlice {name} has an endpoint that is no object")
            leaves = _leaves(_table(endpoint, "conditions"))
            if leaves is None:
                self._unready[name] = self._unready.get(name, 0) + 1
                continue
            server, host = self._identity(name, endpoint, port)
            if server is not None:
                weight, is_backup = self._by_zone(endpoint)
                made = Endpoint(Address(host, port), weight, is_backup, leaves)
                # Of two with one name, that which is no longer leaving.
                if server not in found or found[server].leaves:
                    found[server] = made
        return found

    def _port(self, slice_name: str, ports: list[Any]) -> int | None:
        wanted = self._wanted.port
        known: list[str] = []
        matching: list[int] = []
        for port in ports:
            name, number = _value(port, "name"), _value(port, "port")
            if not isinstance(number, int) or not 0 < number <= 65_535:
                continue  # none: the endpoints have all ports
            known.append(f"{name} ({number})" if isinstance(name, str) and name else str(number))
            if wanted is None or wanted in (name, number):
                matching.append(number)
        if len(matching) == 1 or (matching and wanted is not None):
            return matching[0]
        self._ports[slice_name] = [ascii(one)[1:-1][:80] for one in known]
        return None

    def _identity(
        self, slice_name: str, endpoint: dict[str, Any], port: int
    ) -> tuple[str | None, str]:
        """The name and the address of an endpoint; the name is None if one of them is no such."""
        host = next(iter(_list(endpoint, "addresses")), None)
        try:
            is_address = isinstance(host, str) and bool(ip_address(host))
        except ValueError:
            is_address = False
        if not is_address or not isinstance(host, str):
            self._refused[slice_name] = f"{ascii(host)[:60]} is no address"
            return None, ""
        target = _table(endpoint, "targetRef")
        if target.get("kind") != "Pod":
            return name_of_address(host, port), host
        name = server_name(target.get("name"))
        if name is None:
            self._refused[slice_name] = f"{ascii(target.get('name'))[:60]} is no name of a pod"
        return name, host

    def _by_zone(self, endpoint: dict[str, Any]) -> tuple[int | None, bool]:
        """Weight, and whether it is a backup. The hints say for which zones an endpoint is; without
        hints it is for its own."""
        zone, others = self._wanted.zone, self._wanted.other_zones
        if zone is None or others == "equal":
            return None, False
        hints = _list(_table(endpoint, "hints"), "forZones")
        zones = [_value(hint, "name") for hint in hints] or [endpoint.get("zone")]
        is_own = zone in zones
        if others == "backup":
            return None, not is_own
        return (_OWN_ZONE if is_own else 1), False


def _leaves(conditions: Mapping[str, Any]) -> bool | None:
    """False: up; True: it drains; None: it is no server."""
    ready = conditions.get("ready")
    is_ready = ready is None or ready is True
    serving = conditions.get("serving")
    is_serving = is_ready if serving is None else serving is True
    if conditions.get("terminating") is True:
        return True if is_serving else None
    return False if is_ready else None


def _name_of(item: Any) -> str:
    if not isinstance(item, dict):
        raise DiscoveryFailed("the API server sent an EndpointSlice that is no object")
    name = _table(item, "metadata").get("name")
    if not isinstance(name, str):
        raise DiscoveryFailed("the API server sent an EndpointSlice without a name")
    return name


def _value(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None


def _list(item: Any, key: str) -> list[Any]:
    """The API omits empty lists, or sends null."""
    found = _value(item, key)
    return found if isinstance(found, list) else []


def _table(item: Any, key: str) -> dict[str, Any]:
    found = _value(item, key)
    return found if isinstance(found, dict) else {}
