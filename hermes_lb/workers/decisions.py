"""State that one generation of the supervisor restores from the previous one."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hermes_lb.config import Config
from hermes_lb.config.runtime import RuntimeServers, checked
from hermes_lb.errors import reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb.backends import Server
    from hermes_lb.control.history import History
    from hermes_lb.discovery.discoveries import Discoveries
    from hermes_lb.discovery.dns import Resolver
    from hermes_lb.observe.observed import Upkeep
    from hermes_lb.workers.kept_files import KeptFiles
    from hermes_lb.workers.shared_state import SharedState

logger = logging.getLogger("hermes_lb")

# Fields of `Upkeep` that an upgrade keeps.
_KEPT = ("started_at", "reloads", "failed_reloads", "process_restarts", "dns_failures")


class Decisions:
    """Server states, pins, valid files, addresses, numbers: `state` feeds `restore`."""

    def __init__(
        self,
        shared: SharedState,
        kept_files: KeptFiles,
        resolver: Resolver,
        discoveries: Discoveries,
        upkeep: Upkeep,
        history: History | None,
    ) -> None:
        self._shared = shared
        self._kept_files = kept_files
        self._resolver = resolver
        self._discoveries = discoveries
        self._upkeep = upkeep
        self._history = history

    def state(self, config: Config) -> dict[str, Any]:
        """As JSON. `config` is the file's; that of the pools also has a server for each resolved
        address."""
        return {
            "config": config.model_dump(mode="json"),
            "applied": self._shared.config.model_dump(mode="json"),
            **self._shared.state(),
            "tls_files": self._kept_files.state,
            "addresses": self._resolver.state,
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


def applied(inherited: Mapping[str, Any] | None) -> Config | None:
    """The previous generation's configuration of pools. None if there was none, or this code
    can't reconstruct it.

    Older code hands over the file's only: enough, unless names of servers were resolved.
    """
    if inherited is None:
        return None
    with suppress(ValueError):
        config = Config.inherited(inherited.get("applied", inherited["config"]))
        has = {(name, s.name) for name, one in config.backends.items() for s in one.servers}
        for backend, _, _, _, endpoints in inherited.get("discovered", ()):
            has |= {(backend, name) for name, _ in endpoints}
        if all((backend, server) in has for backend, server, _ in inherited["servers"]):
            return config
    return None


def inherited_servers(inherited: Mapping[str, Any] | None, config: Config) -> RuntimeServers:
    """What operators had changed about the servers, where `config` is not newer."""
    if inherited is None or "runtime" not in inherited:
        return RuntimeServers()
    try:
        before = Config.inherited(inherited["config"]).backends
        runtime = RuntimeServers.restored(inherited["runtime"])
        kept = runtime.after_reload(before, config.backends)
        checked(config, kept, config.backends)
    except ValueError as error:
        logger.error("servers that were set at run time are lost: %s", reason(error))
        return RuntimeServers()
    return kept
