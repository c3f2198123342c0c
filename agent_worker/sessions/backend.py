"""Sessions on Redis: the client of the deployment that a URL names, and stores on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.sessions.client import Client
from agent_worker.sessions.options import DEFAULT_OPTIONS
from agent_worker.sessions.redis_url import read_url
from agent_worker.sessions.store import RedisSessionStore
from agent_worker.sessions.topology import Cluster, OneServer, SentinelMaster

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent_worker.sessions.options import StoreOptions
    from agent_worker.sessions.redis_url import RedisUrl
    from agent_worker.sessions.topology import Topology
    from agent_worker.sessions.turn_index import TurnIndex

_TOPOLOGIES: Mapping[str, Callable[[RedisUrl], Topology]] = {
    "": OneServer,
    "sentinel": SentinelMaster,
    "cluster": Cluster,
}


class RedisBackend(Client):
    """A SessionBackend."""

    def session_store(
        self, options: StoreOptions = DEFAULT_OPTIONS, *, index: TurnIndex | None = None
    ) -> RedisSessionStore:
        return RedisSessionStore(self, options, index=index)


def connect(url: str) -> RedisBackend:
    """The backend at `url` (`redis_url` lists the forms). Connects on first use.

    Raises ValueError with a message for the user if `url` is invalid.
    """
    read = read_url(url)
    return RedisBackend(_TOPOLOGIES[read.topology](read), min_replicas=read.min_replicas)
