"""The interface between the admin listener and a running balancer.

Implemented by `LoadBalancer`, with everything in one process, and by the supervisor of several.
A command is applied where it is called and passed on from there; its effect is visible at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hermes_lb.backends import Pool, Server
    from hermes_lb.backends.server import Admin
    from hermes_lb.config import Config
    from hermes_lb.config.runtime import RuntimeServers
    from hermes_lb.control.shapes import Resolved, Session, Setting
    from hermes_lb.observe.observed import Observed
    from hermes_lb.observe.recent import Recent
    from hermes_lb.turns.store.embedded import EmbeddedStore

# A server's weight at run time; 0: only sessions pinned to it (`set weight` in HAProxy).
MAX_WEIGHT = 65_535
# Seconds that `settle` takes at most: less than the admin listener waits for responses when it
# stops (`control.admin`), so that a command is always answered.
SETTLE_TAKES = 0.7


class OperatorError(Exception):
    """Base of errors that commands raise. `str(error)` is a one-line message."""


class UnknownServer(OperatorError):
    """No backend or server has this name."""


class NotPossible(OperatorError):
    """This balancer can't do it, such as a reload without a file; the message says why."""


class KeptPin(NamedTuple):
    """A learned session: the digest of its key, which may be as good as a password."""

    id: str
    backend: str
    server: str


class Operator(Protocol):
    """A running balancer. Every method is called in its event loop."""

    @property
    def observed(self) -> Observed:
        """The counters; `observed.refresh()` updates them."""

    @property
    def config(self) -> Config:
        """The configuration in use."""

    @property
    def recent(self) -> Recent:
        """The last requests that ended abnormally."""

    @property
    def is_draining(self) -> bool:
        """True when it accepts no more clients and will end."""

    @property
    def missing_processes(self) -> Literal["none", "some", "all"]:
        """Worker slots without a process, in which none can be started."""

    def now(self) -> float:
        """The data path's clock: monotonic seconds."""

    def set_state(self, backend: str, server: str, state: Admin) -> None:
        """`Server.set_admin`, here and in every process. Raises UnknownServer."""

    def set_weight(self, backend: str, server: str, weight: int | None) -> None:
        """`Server.set_weight`, 0 to MAX_WEIGHT; None: as configured. Raises UnknownServer."""

    def set_health(self, backend: str, server: str, up: bool | None) -> None:
        """Up or down whatever its checks say; None: as they say. Raises UnknownServer."""

    async def change_servers(self, change: Callable[[RuntimeServers], RuntimeServers]) -> None:
        """Add, remove or change servers, in every process. Two operators take turns.

        `change` is called when it is this one's turn; what it raises is raised. Raises ConfigError
        or ValueError if the servers can't be so; nothing has changed then.
        """

    async def everywhere(self, command: str, **arguments: Any) -> list[Any]:
        """Call a method of `hermes_lb.process_commands` in every process -> what each returned."""

    def pins(self) -> list[KeptPin]:
        """Learned sessions, but not those of backends that keep theirs in a shared store."""

    async def clear_pins(self, backend: str | None, server: str | None, pin: str | None) -> int:
        """Forget those that fit in every process, also what it knows of a shared store (which
        `control.shared_pins` clears) -> the number of those that are in no store."""

    def resolvers(self) -> list[Resolved]:
        """Servers whose names are looked up."""

    def settings(self) -> list[Setting]:
        """The running configuration."""

    async def settle(self) -> bool:
        """Wait until all processes have applied changes and published their counters since.

        `observed` then knows all requests admitted before. False if a process has not answered
        within SETTLE_TAKES; it applies the changes as soon as it reads again.
        """

    async def end_sessions(self, backend: str, server: str) -> int:
        """Cut the requests on a server -> their number (HAProxy: `shutdown sessions server`).

        Also on one that a reload has removed. Their log lines have the termination code K. Raises
        UnknownServer if there is none of that name and nothing runs on one.
        """

    async def reload(self) -> list[str]:
        """Reload the configuration file -> the changes, as text.

        Raises ConfigError with every problem, or OSError if a new listener can't be opened; the
        old configuration stays in use then. Raises NotPossible without a file.
        """

    async def upgrade(self) -> None:
        """Replace the processes one by one by ones that run the code now on disk.

        The process ID and the sockets stay; live streams finish in the old workers. Returns when it
        has begun. Raises NotPossible if there is only this process, the new code refuses or can't
        read the configuration, an address in it is not available, or an upgrade is in progress.
        """

    async def sessions(self) -> list[Session]:
        """Requests in flight, longest first."""

    def turn_store_url(self) -> str:
        """Where turns are kept. Raises NotPossible if no route has turns."""


def store_url(config: Config, embedded: EmbeddedStore) -> str:
    """Of the store of turns. Raises NotPossible if no route has turns."""
    if not config.backends_with_turns:
        raise NotPossible("no route has turns")
    return config.store.url or embedded.url


def find_backend(pools: Mapping[str, Pool], backend: str) -> Pool:
    """The backend of that name. Raises UnknownServer with the names that exist."""
    pool = pools.get(backend)
    if pool is None:
        raise UnknownServer(f"there is no backend {backend!r}; there are {', '.join(pools)}")
    return pool


def find_server(pools: Mapping[str, Pool], backend: str, server: str) -> Server:
    """The server of that name. Raises UnknownServer with the names that exist."""
    pool = find_backend(pools, backend)
    found = pool.find(server)
    if found is None:
        names = ", ".join(s.name for s in pool.servers)
        raise UnknownServer(f"backend {backend} has no server {server!r}; it has {names}")
    return found


def carried_over(pools: Mapping[str, Pool]) -> Callable[[], None]:
    """Notes what operators have set -> sets it on servers that have another address by then.

    A pool takes the same name at another address for another server, which it is in a reload.
    """
    noted = {(name, server.name): server for name, pool in pools.items() for server in pool.servers}

    def carry() -> None:
        for name, pool in pools.items():
            for server in pool.servers:
                before = noted.get((name, server.name))
                if before is not None and before is not server:
                    server.set_admin(admins[name, server.name])
                    server.set_weight(before.operator_weight)

    # A pool puts the servers that it removes into maintenance.
    admins = {key: server.admin for key, server in noted.items()}
    return carry
