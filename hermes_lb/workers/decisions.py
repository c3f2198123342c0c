"""State that one generation of the supervisor restores from the previous one."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hermes_lb.config import Config
from hermes_lb.config.runtime import RuntimeServers, checked
from hermes_lb.errors import reason
from hermes_lb.workers.found import found_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hermes_lb.backends import Server
    from hermes_lb.backends.options import DiscoveredServer
    from hermes_lb.control.history import History
    from hermes_lb.discovery.discoveries import Discoveries
    from hermes_lb.observe.observed import Upkeep
    from hermes_lb.workers.kept_files import KeptFiles
    from hermes_lb.workers.shared_state import SharedState

    Found = Callable[[str], Mapping[str, DiscoveredServer]]

logger = logging.getLogger("hermes_lb")

# Fields of `Upkeep` that an upgrade keeps.
_KEPT = ("started_at", "reloads", "failed_reloads", "process_restarts")


class Decisions:
    """Server states, pins, valid files, discoveries, numbers: `state` feeds `restore`."""

    def __init__(
        self,
        shared: SharedState,
        kept_files: KeptFiles,
        discoveries: Discoveries,
        upkeep: Upkeep,
        history: History | None,
    ) -> None:
        self._shared = shared
        self._kept_files = kept_files
        self._discoveries = discoveries
        self._upkeep = upkeep
        self._history = history

    def state(self, config: Config) -> dict[str, Any]:
        """As JSON. `config` is the file's; that of the pools has operators' changes, too."""
        return {
            **config.state(),
            "applied": self._shared.config.model_dump(mode="json"),
            **self._shared.state(),
            "tls_files": self._kept_files.state,
            "found": self._shared.discovered(),
            "discovered": self._discoveries.state,
            "history": self._history.state() if self._history is not None else None,
            **{key: getattr(self._upkeep, key) for key in _KEPT},
        }

    def restore(self, inherited: Mapping[str, Any] | None) -> list[Server]:
        """Restore the previous generation's state, if there was one -> the servers that it knew.

        The pools must have its configuration (`applied`); changes of the file since then are for
        the `reconfigure` that follows.
        """
        if inherited is None:
            return []
        for key in _KEPT:
            setattr(self._upkeep, key, inherited.get(key, getattr(self._upkeep, key)))
        if self._history is not None:
            self._history.restore(inherited.get("history") or {})
        return self._shared.restore(inherited)


def applied(inherited: Mapping[str, Any] | None) -> tuple[Config, Found] | None:
    """The previous generation's configuration of pools, and what its discoveries had found, by
    backend. None if there was none, or this code can't reconstruct it.

    Older code hands over the file's only, or keeps resolved addresses in it: then there is none,
    unless no name of a server was resolved.
    """
    if inherited is None:
        return None
    with suppress(ValueError):
        if inherited.get("addresses"):
            return None
        tables = inherited.get("applied", inherited["config"])
        config = Config.restored({**inherited, "config": tables})
        has = {(name, s.name) for name, one in config.backends.items() for s in one.servers}
        found = found_in(inherited.get("found", {}))
        has |= {(backend, name) for backend, servers in found.items() for name in servers}
        if all((backend, server) in has for backend, server, _ in inherited["servers"]):
            return config, lambda backend: found.get(backend, {})
    return None


def inherited_servers(inherited: Mapping[str, Any] | None, config: Config) -> RuntimeServers:
    """What operators had changed about the servers, where `config` is not newer."""
    if inherited is None or "runtime" not in inherited:
        return RuntimeServers()
    try:
        before = Config.restored(inherited).backends
        runtime = RuntimeServers.restored(inherited["runtime"])
        kept = runtime.after_reload(before, config.backends)
        checked(config, kept, config.backends)
    except ValueError as error:
        logger.error("servers that were set at run time are lost: %s", reason(error))
        return RuntimeServers()
    return kept
