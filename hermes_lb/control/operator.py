"""What the admin listener may see and do: the balancer's side of it.

Two implement it: `LoadBalancer`, all in one process, and the supervisor of several processes. A
command is applied where it is called and passed on from there; who looks sees its effect at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb.backends import Pool, Server
    from hermes_lb.backends.server import Admin
    from hermes_lb.observe.observed import Observed
    from hermes_lb.observe.recent import Recent

# A server's weight at run time; 0: only those pinned to it still come (`set weight` in HAProxy).
MAX_WEIGHT = 65_535
# Seconds that `settle` takes at most: less than a listener that stops waits for its answers
# (`control.admin`), so that who has set something is told, whatever comes next.
SETTLE_TAKES = 0.7


class OperatorError(Exception):
    """The root of what a command may raise. `str(error)` is one line for a person."""


class UnknownServer(OperatorError):
    """No backend or server has this name."""


class NotPossible(OperatorError):
    """Not in this balancer, such as a reload without a file; the message says why."""


class Session(TypedDict):
    """A request that runs: one row of `sessions`. Made of plain values, to cross processes."""

    process: int  # the number of the process that serves it, from 0
    client: str | None  # "192.0.2.7:40312"; None: it has left
    frontend: str
    backend: str
    server: str | None  # None: it has none yet
    # "detached": its client has left, and its server finishes it (`on_disconnect` of the route).
    kind: Literal["request", "stream", "tunnel", "detached"]
    phase: str  # the letter of `observe.termination.PHASE`: R Q C H D L
    seconds: float  # since its head arrived
    method: str
    target: str  # without the query, which may hold secrets
    bytes_in: int  # from the client
    bytes_out: int  # to the client
    pinned_by: Literal["cookie", "stick"] | None  # what brought it to its server


class Operator(Protocol):
    """A running balancer, as its operator has it. Every method is called in its event loop."""

    @property
    def observed(self) -> Observed:
        """The numbers; `observed.refresh()` makes them current."""

    @property
    def recent(self) -> Recent:
        """The last requests that ended abnormally."""

    @property
    def is_draining(self) -> bool:
        """True as soon as it takes no new work, since it is about to end."""

    @property
    def missing_processes(self) -> Literal["none", "some", "all"]:
        """Of those of the data path: they have ended, and can't be started again."""

    def now(self) -> float:
        """The data path's clock: monotonic seconds."""

    def set_state(self, backend: str, server: str, state: Admin) -> None:
        """`Server.set_admin`, here and in every process. Raises UnknownServer."""

    def set_weight(self, backend: str, server: str, weight: int | None) -> None:
        """`Server.set_weight`, 0 to MAX_WEIGHT; None: as configured. Raises UnknownServer."""

    async def settle(self) -> bool:
        """Wait until what was set holds in every process, and each has told its numbers since.

        So `observed` knows of all requests that were let in before. False: a process has not
        answered within SETTLE_TAKES; it applies what was set as soon as it listens again.
        """

    async def end_sessions(self, backend: str, server: str) -> int:
        """Cut what runs on a server -> how many (HAProxy: `shutdown sessions server`).

        It may be one that a reload has removed. Their log lines have the termination code K. Raises
        UnknownServer if there is none of that name and nothing runs on one.
        """

    async def reload(self) -> list[str]:
        """Read the configuration's file anew and apply it -> the changes, each in words.

        Raises ConfigError with every problem, or OSError for a new listener that can't be had:
        the old configuration goes on then. Raises NotPossible without a file.
        """

    async def upgrade(self) -> None:
        """Replace the processes one by one by new ones, which load the code anew.

        Returns once it has begun. Raises NotPossible if there is only this process.
        """

    async def sessions(self) -> list[Session]:
        """The requests that run now, the longest first."""


def find_server(pools: Mapping[str, Pool], backend: str, server: str) -> Server:
    """The server of that name. Raises UnknownServer, which says what there is instead."""
    pool = pools.get(backend)
    if pool is None:
        raise UnknownServer(f"there is no backend {backend!r}; there are {', '.join(pools)}")
    found = pool.find(server)
    if found is None:
        names = ", ".join(s.name for s in pool.servers)
        raise UnknownServer(f"backend {backend} has no server {server!r}; it has {names}")
    return found
