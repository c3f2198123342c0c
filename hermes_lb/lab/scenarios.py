"""Scenarios for a fleet: load, and changes at known times.

A scenario says what arrives and what changes, for any number of servers and requests. Its times are
shares of the run, so a thousand requests and a million see the same events.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from hermes_lb.lab.fleet import Fleet, make_fleet
from hermes_lb.lab.pace import Pace
from hermes_lb.lab.workloads import Lengths, exponential, lognormal, pareto, poisson

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.lab.machine import Machine
    from hermes_lb.lab.workloads import Workload

# A new process works at a quarter of its speed for the first 5 % of the run: caches, compilation.
_COLD_SPEED = 0.25
_COLD_SHARE = 0.05
# How long active checks need to notice a dead server, as a share of the run.
_DETECTION_SHARE = 0.01

# Tokens come at the model's pace: a turn's length depends on the turn, not on the worker.
_TURNS = pareto(20.0, 1.5, 3600.0)
_FIRST_TOKEN = lognormal(0.8, 1.0)
_CALLS = exponential(0.5)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`load`: the average share of all slots that the work needs."""

    text: str
    lengths: Lengths = _CALLS
    first: Lengths | None = None
    load: float = 0.7
    slots: int = 4
    sticky: bool = False
    happens: Callable[[Fleet, float], None] | None = None  # the fleet, the run's seconds

    def workload(self, seed: int, requests: int, servers: int) -> Workload:
        mean = self.lengths.mean + (self.first.mean if self.first else 0.0)
        return poisson(
            Random(f"{seed} workload"),
            requests,
            self.load * servers * self.slots / mean,
            self.lengths,
            first=self.first,
            users=max(10, min(65_536, requests // 20)),
        )

    def fleet(self, servers: int, horizon: float, **options: Any) -> Fleet:
        """`options` as of `make_fleet`."""
        fleet = make_fleet(servers, self.slots, **options)
        if self.happens is not None:
            self.happens(fleet, horizon)
        return fleet


# Events. `horizon` is the length of the run in seconds.


def _slow(fleet: Fleet, horizon: float) -> None:
    fleet.machines[0].pace = Pace([(0.25 * horizon, 1 / 3), (0.75 * horizon, 1.0)])
    fleet.mark(0.25 * horizon, "s0 slow")
    fleet.mark(0.75 * horizon, "s0 well")


def _fails_fast(fleet: Fleet, horizon: float) -> None:
    fleet.machines[0].failing = (0.4 * horizon, 0.6 * horizon)
    fleet.mark(0.4 * horizon, "s0 fails")
    fleet.mark(0.6 * horizon, "s0 well")


def _pauses(fleet: Fleet, horizon: float) -> None:
    """Too short for active checks to notice."""
    starts = [share * horizon for share in (0.2, 0.4, 0.6, 0.8)]
    ends = [start + 0.02 * horizon for start in starts]
    fleet.machines[0].pace = Pace([*((t, 0.0) for t in starts), *((t, 1.0) for t in ends)])
    for start in starts:
        fleet.mark(start, "s0 pauses")


def _crash(fleet: Fleet, horizon: float) -> None:
    machine, died, back = fleet.machines[0], 0.4 * horizon, 0.6 * horizon
    machine.gone = (died, back)
    _goes_and_comes(fleet, machine, died + _DETECTION_SHARE * horizon, back)
    machine.pace = _cold_from(back, horizon)
    fleet.mark(died, "s0 dies")
    fleet.mark(back, "s0 back, cold")


def _cold_start(fleet: Fleet, horizon: float) -> None:
    machine, starts = fleet.machines[0], 0.4 * horizon
    machine.server.set_up(False, "not started")
    machine.pace = _cold_from(starts, horizon)
    fleet.change(starts, lambda _: machine.server.set_up(True, "started"))
    fleet.mark(starts, "s0 starts cold")


def _scale_out(fleet: Fleet, horizon: float) -> None:
    """At 4/3 of the stated load, until a third more servers join."""
    at = 0.4 * horizon
    with fleet.pool.many_changing():
        for machine in _last_quarter(fleet):
            machine.server.set_weight(0)
            _weighs(fleet, machine, at, 1)
    fleet.mark(at, "servers come")


def _scale_in(fleet: Fleet, horizon: float) -> None:
    at = 0.4 * horizon
    for machine in _last_quarter(fleet):
        _weighs(fleet, machine, at, 0)
    fleet.mark(at, "servers go")


def _deploy(fleet: Fleet, horizon: float) -> None:
    """A tenth at a time: no new requests for 3 %, then down for 1 %, then back and cold."""
    groups = min(10, len(fleet.machines))
    for group in range(groups):
        drains = (0.2 + 0.6 * group / groups) * horizon
        goes, back = drains + 0.03 * horizon, drains + 0.04 * horizon
        for machine in fleet.machines[group::groups]:
            _weighs(fleet, machine, drains, 0)
            machine.gone = (goes, back)
            _goes_and_comes(fleet, machine, goes, back)
            _weighs(fleet, machine, back, 1)
            machine.pace = _cold_from(back, horizon)
    fleet.mark(0.2 * horizon, "deploy")
    fleet.mark(0.8 * horizon, "done")


def _last_quarter(fleet: Fleet) -> list[Machine]:
    return fleet.machines[-max(1, len(fleet.machines) // 4) :]


def _weighs(fleet: Fleet, machine: Machine, at: float, weight: int) -> None:
    fleet.change(at, lambda _: machine.server.set_weight(weight))


def _goes_and_comes(fleet: Fleet, machine: Machine, down: float, up: float) -> None:
    fleet.change(down, lambda _: machine.server.set_up(False, "the checks fail"))
    fleet.change(up, lambda _: machine.server.set_up(True, "the checks pass"))


def _cold_from(at: float, horizon: float) -> Pace:
    return Pace([(at, _COLD_SPEED), (at + _COLD_SHARE * horizon, 1.0)])


SCENARIOS: dict[str, Scenario] = {
    "short": Scenario("Short requests, answered whole.", exponential(0.05), load=0.8),
    "turns": Scenario(
        "Agent turns, heavy-tailed, minutes long; few at a time on a server.",
        _TURNS,
        first=_FIRST_TOKEN,
    ),
    "sticky": Scenario(
        "Agent turns of users whose cookie keeps them on a server.",
        _TURNS,
        first=_FIRST_TOKEN,
        load=0.5,
        sticky=True,
    ),
    "slow": Scenario("One server at a third of its speed for half of the run.", happens=_slow),
    "fails-fast": Scenario("One server answers 500 at once, for a while.", happens=_fails_fast),
    "pauses": Scenario("One server stands still now and then.", happens=_pauses),
    "crash": Scenario(
        "One server dies; checks see it late; it comes back cold.", load=0.6, happens=_crash
    ),
    "cold-start": Scenario("One server joins, slow at first.", load=0.6, happens=_cold_start),
    "scale-out": Scenario("A third more servers come.", load=0.65, happens=_scale_out),
    "scale-in": Scenario("A quarter of the servers go.", load=0.5, happens=_scale_in),
    "deploy": Scenario("All servers are restarted, a tenth at a time.", load=0.5, happens=_deploy),
}
