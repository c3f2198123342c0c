"""Servers that an operator has added, removed or changed at run time, over those of the file.

One mechanism for every change of a set of servers: whatever decides on it (the file, discovery, an
operator) makes another list of `config.Server`, which `Pool.reconfigure` applies. Here the list of
an operator is made from the others.

The changes survive a reload and an upgrade, and end with the balancer. A reload whose file differs
in the very server or key that an operator has changed is newer, and wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from hermes_lb.backends.options import Server
from hermes_lb.config.loader import load_config
from hermes_lb.discovery.sources.resolve import name_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from hermes_lb.backends.options import DiscoveredServer
    from hermes_lb.config.backend import Backend
    from hermes_lb.config.models import Config
    from hermes_lb.options.section import Section

    Backends = Mapping[str, Backend]
    # Of each changed key: the value, and the one that it replaced. As in the JSON of a `Server`.
    Changed = dict[str, tuple[Any, Any]]

CHANGEABLE = (
    "address", "server_name", "max_connections", "max_fails", "fail_timeout", "slow_start",
)  # fmt: skip
"""Keys of a server that can be changed at run time. Its weight has a command of its own."""

_AnyServer = TypeVar("_AnyServer", bound=Server)


class RuntimeServers:
    """The changes, by backend and server. Immutable: each command gives another one."""

    def __init__(
        self,
        added: Mapping[tuple[str, str], Server] | None = None,
        removed: frozenset[tuple[str, str]] = frozenset(),
        changed: Mapping[tuple[str, str], Changed] | None = None,
    ) -> None:
        self._added = dict(added or {})
        self._removed = removed
        self._changed = dict(changed or {})

    def __repr__(self) -> str:
        counts = f"{len(self._added)} added, {len(self._removed)} removed"
        return f"<RuntimeServers: {counts}, {len(self._changed)} changed>"

    def with_added(self, backend: str, server: Server) -> RuntimeServers:
        """It may have the name of one of the file that was removed."""
        key = backend, server.name
        return RuntimeServers({**self._added, key: server}, self._removed, self._without(key))

    def with_removed(self, backend: str, name: str) -> RuntimeServers:
        key = backend, name
        added = {one: server for one, server in self._added.items() if one != key}
        return RuntimeServers(added, self._removed | {key}, self._without(key))

    def with_changed(
        self, backend: str, configured: Server, values: Mapping[str, Any]
    ) -> RuntimeServers:
        """Other values of keys of `configured`, which has the changes so far. Raises ValueError for
        a value that is not allowed for a discovered server."""
        key = backend, configured.name
        before = configured.model_dump(mode="json")
        changed = dict(self._changed.get(key, {}))
        for name, value in values.items():
            _, original = changed.get(name, (None, before[name]))
            changed[name] = value, original
        if configured.is_discovered:
            _with(configured, changed)  # the others are `checked`
        return RuntimeServers(self._added, self._removed, {**self._changed, key: changed})

    def _without(self, key: tuple[str, str]) -> dict[tuple[str, str], Changed]:
        return {one: changed for one, changed in self._changed.items() if one != key}

    def applied(self, backends: Backends) -> dict[str, Backend]:
        """The backends with these changes. Raises ValueError for a value that is not allowed."""
        if not (self._added or self._removed or self._changed):
            return dict(backends)
        return {
            name: backend.model_copy(update={"servers": list(self._servers(name, backend))})
            for name, backend in backends.items()
        }

    def _servers(self, name: str, backend: Backend) -> Iterator[Server]:
        present = [s for s in backend.servers if (name, s.name) not in self._removed]
        names = {server.name for server in present}
        present += [
            server
            for (owner, _), server in self._added.items()
            if owner == name and server.name not in names
        ]
        # A file may leave only those that were removed: better these than none.
        is_empty = not present and backend.discovery is None
        for server in backend.servers if is_empty else present:
            changed = self._changed.get((name, server.name))
            yield server if changed is None else _with(server, changed)

    def over(
        self, backend: str, found: Mapping[str, DiscoveredServer]
    ) -> Mapping[str, DiscoveredServer]:
        """Servers of discoveries, by name, with these changes."""
        changed = {
            name: _with(found[name], values)
            for (owner, name), values in self._changed.items()
            if owner == backend and name in found
        }
        return {**found, **changed} if changed else found

    def after_reload(self, before: Backends, after: Backends) -> RuntimeServers:
        """What still holds when the file has changed; both without these changes."""
        old, new = _by_key(before), _by_key(after)

        def is_newer(key: tuple[str, str]) -> bool:
            """The file has the server now, and had not, or the reverse."""
            return key[0] not in after or (key in old) != (key in new)

        changed: dict[tuple[str, str], Changed] = {}
        for key, values in self._changed.items():
            if key in self._added and not is_newer(key):
                changed[key] = values
            elif (configured := _options_of(after, *key)) is not None:
                kept = {k: pair for k, pair in values.items() if configured.get(k) == pair[1]}
                if kept:
                    changed[key] = kept
        return RuntimeServers(
            {key: server for key, server in self._added.items() if not is_newer(key)},
            frozenset(key for key in self._removed if not is_newer(key)),
            changed,
        )

    def origin_of(self, backend: str, name: str) -> frozenset[str] | None:
        """The keys that an operator has set; None: the whole server was added."""
        key = backend, name
        return None if key in self._added else frozenset(self._changed.get(key, ()))

    # For the next generation.

    def state(self) -> dict[str, Any]:
        """JSON for `restored`."""
        return {
            "added": [[key[0], one.model_dump(mode="json")] for key, one in self._added.items()],
            "removed": sorted(self._removed),
            "changed": [[*key, changed] for key, changed in self._changed.items()],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """Raises ValueError for servers that this code does not accept."""
        servers = [(backend, Server.model_validate(one)) for backend, one in state["added"]]
        return cls(
            {(backend, server.name): server for backend, server in servers},
            frozenset((backend, name) for backend, name in state["removed"]),
            {
                (backend, name): {key: (value, before) for key, (value, before) in changed.items()}
                for backend, name, changed in state["changed"]
            },
        )


def checked(config: Config, runtime: RuntimeServers, resolved: Backends) -> dict[str, Backend]:
    """`runtime.applied(resolved)`, valid as if it were in the file of `config`.

    Raises ConfigError, or ValueError for a value that is not allowed.
    """
    applied = runtime.applied(resolved)
    if any(applied[name].servers != resolved[name].servers for name in applied):
        written = {name: one.model_dump(mode="json") for name, one in applied.items()}
        tables = {**config.model_dump(mode="json"), "backends": written}
        load_config(tables, strategy_modules=config.strategy_modules)
    return applied


def _with(server: _AnyServer, changed: Changed) -> _AnyServer:
    values = {name: value for name, (value, _) in changed.items()}
    return type(server).model_validate({**server.model_dump(mode="json"), **values})


def _options_of(backends: Backends, backend: str, name: str) -> dict[str, Any] | None:
    """What the file says of a server, or of those that are discovered. None: nothing."""
    if backend not in backends:
        return None
    servers, discovery = backends[backend].servers, backends[backend].discovery
    found: list[Section] = [one for one in servers if one.name == name]
    found += [s for s in servers if s.resolve and name.startswith(name_at(s.name, ""))]
    if discovery is not None:
        found.append(discovery.defaults)
    return found[0].model_dump(mode="json") if found else None


def _by_key(backends: Backends) -> dict[tuple[str, str], Server]:
    return {(name, s.name): s for name, backend in backends.items() for s in backend.servers}
