"""Machines, the pools of the balancers in front of them, and changes to come."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from hermes_lb.backends import Pool
from hermes_lb.balancing import make
from hermes_lb.config import Address, Backend
from hermes_lb.config import Server as Configured
from hermes_lb.lab.balancer import Balancer
from hermes_lb.lab.engine import QUEUE_TIMEOUT, Run
from hermes_lb.lab.machine import Machine
from hermes_lb.lab.sharing import share_load

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.backends import Server
    from hermes_lb.balancing import Strategy
    from hermes_lb.lab.engine import Change
    from hermes_lb.lab.workloads import Workload


@dataclass(slots=True)
class Fleet:
    """`pools`: one of each balancer, with the same servers in the same order."""

    pools: list[Pool]
    machines: list[Machine]
    changes: list[Change] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)  # for the plots
    share: float | None = None  # seconds between two exchanges of load; 0: at once; None: never

    @property
    def pool(self) -> Pool:
        """The first balancer's."""
        return self.pools[0]

    def change(self, at: float, act: Callable[[float], None]) -> None:
        self.changes.append((at, act))

    def mark(self, at: float, text: str) -> None:
        self.marks.append((round(at, 6), text))

    def run(
        self,
        make: Callable[[], Strategy],
        workload: Workload,
        rng: Random,
        *,
        sticky: bool = False,
        queue_timeout: float = QUEUE_TIMEOUT,
    ) -> Run:
        """A run in which each balancer has a strategy and random numbers of its own."""
        balancers = [
            Balancer(i, pool, make(), Random(f"{i} {rng.random()}") if i else rng, queue_timeout)
            for i, pool in enumerate(self.pools)
        ]
        run = Run(balancers, self.machines, workload, sticky=sticky)
        if self.share is not None and len(self.pools) > 1:
            share_load(run, self.pools, self.share)
        return run


def maker(name: str) -> Callable[[], Strategy]:
    """A maker of the strategy of this name, with its default options."""
    return partial(make, name)


def make_fleet(
    servers: int,
    slots: int,
    *,
    limit: int = 0,
    balancers: int = 1,
    share: float | None = None,
    machine: Callable[[list[Server], int, int], Machine] = Machine,
) -> Fleet:
    """Equal servers, s0, s1, ...; `limit`: each one's `max_connections`; `share`: as of `Fleet`."""
    configured = [
        Configured(name=f"s{i}", address=Address("10.0.0.1", i + 1), max_connections=limit)
        for i in range(servers)
    ]
    pools = [Pool("lab", Backend(servers=configured)) for _ in range(balancers)]
    known = zip(*(pool.servers for pool in pools), strict=True)
    machines = [machine(list(servers), i, slots) for i, servers in enumerate(known)]
    return Fleet(pools, machines, share=share)
