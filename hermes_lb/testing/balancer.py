"""A balancer that records each request, and a configuration for it."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING

from hermes_lb.balancer import LoadBalancer
from hermes_lb.config import Config
from hermes_lb.observe.access_log import AccessLog
from hermes_lb.plane import request_log
from hermes_lb.testing.collected import Collected
from hermes_lb.testing.record import Record
from hermes_lb.testing.servers import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from hermes_lb.config import Log
    from hermes_lb.observe.request_log import RequestLog

_TABLES = Config.model_fields.keys() - {"frontends", "backends"}

_AS_RECORDS_ARE_READ = {"format": "httplog", "capture_trace": False, "sample": 1.0}


class WatchedBalancer(LoadBalancer):
    """A `LoadBalancer` that keeps a `Record` of each finished request, in order.

    Requests on a route with `access_log = false` have none.
    """

    def __init__(self, config: Config | Mapping[str, Any] | str | Path) -> None:
        super().__init__(config)
        self._records: Collected[Record] = Collected("records of the balancer")

    def _request_log(self, configured: Log) -> RequestLog:
        with_all = configured.model_copy(update=_AS_RECORDS_ARE_READ)
        return request_log(with_all, partial(_Recording, self._records))

    @property
    def records(self) -> list[Record]:
        """Records of requests finished so far."""
        return self._records.items

    async def record(self, index: int = 0) -> Record:
        """The record with this index, from 0, once it exists.

        Raises AssertionError if it does not come, and ValueError for an index below 0.
        """
        if index < 0:
            raise ValueError(
                f"record({index}) cannot wait: which record is the last is not known before all "
                f"are there; `records[{index}]` is of those that are there now"
            )
        return (await self._records.wait(index + 1))[index]

    async def served(self, count: int = 1) -> list[str | None]:
        """Names of the servers of all finished requests, once there are `count`.

        None: no server was reached.
        """
        return [record.server for record in await self._records.wait(count)]

    @property
    def in_flight(self) -> dict[str, int]:
        """Requests in flight by server."""
        return {
            server.name: server.in_flight for pool in self.pools.values() for server in pool.servers
        }


class _Recording(AccessLog):
    """An access log, on or off, that also keeps each line as a record."""

    def __init__(self, records: Collected[Record], target: str, **options: Any) -> None:
        super().__init__(target, **options)
        self._is_on, self.enabled = self.enabled, True
        write = self.write

        def record(line: str) -> None:
            records.add(Record.parse(line))
            write(line)

        self.write = record

    async def start(self, *, may_be_late: bool = False) -> None:
        if self._is_on:
            await super().start(may_be_late=may_be_late)


def config_for(
    *servers: Server | str,
    frontend: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    each: Sequence[Mapping[str, Any]] = (),
    **options: Any,
) -> dict[str, Any]:
    """A configuration: one frontend on any free port, one backend `servers`, no access log.

    A server may also be an address such as `127.0.0.1:9`. `server` has keys for all servers, `each`
    a table for each of them. Options named like tables of the configuration (`timeouts`, `limits`,
    `log`, ...) are those tables; all others are keys of the backend.

    Raises TypeError for what is neither server nor address, ValueError if `each` does not have one
    table per server.
    """
    if each and len(each) != len(servers):
        raise ValueError(
            f"each has {len(each)} tables for {len(servers)} servers: give one for each server, "
            "in their order, and {} for one without keys of its own"
        )
    listed: list[dict[str, Any]] = []
    for number, one in enumerate(servers):
        listed.append({**_who(one, number), **(server or {}), **(each[number] if each else {})})
    tables = {name: options.pop(name) for name in _TABLES & options.keys()}
    return {
        "admin": {"enabled": False},
        "log": {"access": "off"},
        **tables,
        "frontends": [
            {
                "name": "public",
                "bind": "127.0.0.1:0",
                "default_backend": "servers",
                **(frontend or {}),
            }
        ],
        "backends": {"servers": {"servers": listed, **options}},
    }


def _who(server: object, number: int) -> dict[str, str]:
    if isinstance(server, str):
        return {"name": f"address{number + 1}", "address": server}
    if isinstance(server, Server):
        return {"name": server.name, "address": server.address}
    hint = ""
    if isinstance(server, list | tuple):
        hint = "; give them one by one: load_balancer(*servers)"
    elif inspect.isawaitable(server):
        hint = "; await it first: load_balancer(*await balanced_servers(2))"
    raise TypeError(f"a server is one of balanced_servers, or an address; not {server!r}{hint}")
