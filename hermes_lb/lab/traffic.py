"""The traffic of a run and the fleet it is played to: a scenario, or a recording."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from random import Random
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab.engine import QUEUE_TIMEOUT
from hermes_lb.lab.fleet import Fleet, make_fleet
from hermes_lb.lab.llm import LlmMachine, Model
from hermes_lb.lab.machine import Machine
from hermes_lb.lab.recording import as_recorded, drawn
from hermes_lb.lab.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.backends import Server
    from hermes_lb.lab.recording import Recording
    from hermes_lb.lab.scenarios import Scenario
    from hermes_lb.lab.workloads import Workload

LOAD: Final = 0.7
_REQUESTS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Setup:
    """Options of the fleet and of its pace; None: the traffic's own."""

    balancers: int = 1
    share: float | None = None  # seconds between two exchanges of load; 0: at once; None: never
    sticky: bool | None = None
    slots: int | None = None
    speed: float | None = None  # of a recording, in its own pace
    rate: float | None = None  # sessions a second
    load: float | None = None
    limit: int = 0  # requests at a time that a balancer sends to a server; more wait in it
    queue_timeout: float = QUEUE_TIMEOUT  # seconds
    model: Model = field(default_factory=Model)

    def of_fleet(self) -> dict[str, Any]:
        """The options of `make_fleet`."""
        return {"balancers": self.balancers, "share": self.share, "limit": self.limit}


class Traffic:
    """`name`, and what can be said of it without running it."""

    name: str
    is_recorded: bool
    sticky: bool
    model: Model | None = None  # of the servers, if requests have tokens

    def workload(self, seed: int, servers: int, load: float | None, *, is_drawn: bool) -> Workload:
        """`load`: another one than its own. `is_drawn`: by chance, as several seeds need."""
        raise NotImplementedError

    def fleet(self, servers: int, horizon: float) -> Fleet:
        raise NotImplementedError

    def described(self, servers: int) -> dict[str, Any]:
        """As JSON."""
        raise NotImplementedError


class ScenarioTraffic(Traffic):
    is_recorded = False

    def __init__(self, name: str, requests: int = _REQUESTS, setup: Setup = Setup()) -> None:
        self.name = name
        self._requests = requests
        self._setup = setup
        scenario = SCENARIOS[name]
        own = {key: getattr(setup, key) for key in ("slots", "load", "sticky")}
        changed = {key: value for key, value in own.items() if value is not None}
        self._scenario: Scenario = replace(scenario, **changed)
        self.sticky = self._scenario.sticky

    def workload(self, seed: int, servers: int, load: float | None, *, is_drawn: bool) -> Workload:
        scenario = self._scenario if load is None else replace(self._scenario, load=load)
        return scenario.workload(seed, self._requests, servers)

    def fleet(self, servers: int, horizon: float) -> Fleet:
        return self._scenario.fleet(servers, horizon, **self._setup.of_fleet())

    def described(self, servers: int) -> dict[str, Any]:
        scenario = self._scenario
        return {
            "scenario": self.name,
            "text": scenario.text,
            "lengths": scenario.lengths.text,
            "load": scenario.load,
            "slots": scenario.slots,
        }


class RecordedTraffic(Traffic):
    """A recording as it was, or drawn from it.

    Its sessions start as recorded, times `speed`; or at `rate`; or so that the fleet has `load`,
    which is the rule where starts are not recorded.
    """

    is_recorded = True

    def __init__(self, recording: Recording, name: str, setup: Setup = Setup()) -> None:
        self.name = name
        self.recording = recording
        self.sticky = bool(setup.sticky)
        self._setup = setup
        self.model = setup.model if recording.is_llm else None

    def slots(self, servers: int) -> int:
        """Of each server. A log does not tell, so it is what makes its load `LOAD`."""
        setup, recording = self._setup, self.recording
        if setup.slots is not None:
            return setup.slots
        if recording.is_llm:
            return setup.model.slots
        work = recording.work(Model(slots=1)) * len(recording.sessions)
        busy = work * (setup.speed or 1.0) / max(recording.seconds, work / recording.requests)
        return max(1, ceil(busy / (LOAD * servers)))

    def workload(self, seed: int, servers: int, load: float | None, *, is_drawn: bool) -> Workload:
        setup, recording = self._setup, self.recording
        rng = Random(f"{seed} workload")
        load = setup.load if load is None else load
        if load is None and setup.rate is None and recording.has_starts:
            speed = setup.speed or 1.0
            if not is_drawn:
                return as_recorded(recording, speed)
            return drawn(recording, rng, speed=speed)
        if load is None and setup.rate is not None:
            rate = setup.rate
        else:
            slots = self.slots(servers)
            work = recording.work(replace(setup.model, slots=slots))
            rate = (load or LOAD) * servers / work
        return drawn(recording, rng, rate=rate * (setup.speed or 1.0))

    def fleet(self, servers: int, horizon: float) -> Fleet:
        slots = self.slots(servers)
        machine: Callable[[list[Server], int, int], Machine] = Machine
        if self.model is not None:
            machine = partial(LlmMachine, model=replace(self.model, slots=slots))
        return make_fleet(servers, slots, machine=machine, **self._setup.of_fleet())

    def described(self, servers: int) -> dict[str, Any]:
        recording, setup = self.recording, self._setup
        text = recording.text
        if setup.slots is None and not recording.is_llm:
            text += f" Slots are not logged: as many as make a load of {LOAD:g}; --slots sets them."
        result: dict[str, Any] = {
            "scenario": self.name,
            "text": text,
            "lengths": "by tokens" if recording.is_llm else "as they were",
            "slots": self.slots(servers),
        }
        if setup.load is not None or not (recording.has_starts or setup.rate):
            result["load"] = setup.load or LOAD
        if self.model is not None:
            result["model"] = self.model.as_json()
        if recording.servers:
            logged = Counter(recording.servers)
            result["logged_shares"] = {
                server: round(logged[server] / len(recording.servers), 6)
                for server in sorted(logged)
            }
        return result
