"""Counters of all workers, added up in the supervisor."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hermes_lb.backends import FrontendCounters, RequestCounters
from hermes_lb.observe.observed import ProcessView
from hermes_lb.workers.gathered import Gathered
from hermes_lb.workers.shared_memory import SharedMemory
from tests.support.examples import examples
from tests.support.pools import make_pool

ROWS = {"test": 0, "test/a 10.0.0.1:80": 1, "test/b 10.0.0.2:80": 2, "frontend public": 3}
A, B, FRONTEND = 1, 2, 3


class Supervisor:
    """Pools and counters over shared memory with this number of regions."""

    def __init__(self, regions: int = 3) -> None:
        self.memory = SharedMemory.create(regions, rows=10)
        self.pool = make_pool({}, {})
        self.frontend = FrontendCounters()
        self.gathered = Gathered(self.memory)

    def fill(self) -> None:
        self.gathered.fill({"test": self.pool}, {"public": self.frontend}, ROWS)

    def count(self, number: int, row: int, **counted: int) -> None:
        """Worker `number` has counted so much in total."""
        counters: Any = FrontendCounters() if row == FRONTEND else RequestCounters()
        for name, value in counted.items():
            setattr(counters, name, value)
        self.memory.regions[number].write_counters(row, counters.cells())

    @property
    def bytes_in(self) -> list[int]:
        self.fill()
        return [server.counters.bytes_in for server in self.pool.servers]


@pytest.fixture
def supervisor() -> Any:
    made = Supervisor()
    yield made
    made.memory.close()


def test_only_counters_that_have_changed_are_summed(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
):
    loaded: list[int] = []
    load = RequestCounters.load

    def noted(counters: RequestCounters, cells: list[float]) -> None:
        loaded.append(len(cells))
        load(counters, cells)

    monkeypatch.setattr(RequestCounters, "load", noted)
    supervisor.gathered.joined(0, 100)
    supervisor.count(0, A, bytes_in=10)
    assert supervisor.bytes_in == [10, 0]
    loaded.clear()
    assert supervisor.bytes_in == [10, 0]
    assert loaded == []
    supervisor.count(0, A, bytes_in=11)
    assert supervisor.bytes_in == [11, 0]
    assert len(loaded) == 1
    supervisor.gathered.left(0, ROWS)
    assert supervisor.bytes_in == [11, 0]


def test_a_worker_that_counts_the_same_as_the_one_before_it_is_added(supervisor: Supervisor):
    supervisor.gathered.joined(0, 100)
    supervisor.count(0, A, bytes_in=10)
    assert supervisor.bytes_in == [10, 0]
    supervisor.gathered.left(0, ROWS)
    supervisor.gathered.joined(0, 101)
    supervisor.count(0, A, bytes_in=10)
    assert supervisor.bytes_in == [20, 0]


def test_living_workers_are_added_up(supervisor: Supervisor):
    for number in (0, 2):
        supervisor.gathered.joined(number, 100 + number)
        supervisor.count(number, A, bytes_in=10)
        supervisor.count(number, FRONTEND, connections=2, requests=5)
        supervisor.memory.regions[number].loads[B] = 3
        supervisor.memory.regions[number].queued[A] = 1
        supervisor.memory.regions[number].queued[0] = 4
    supervisor.count(1, A, bytes_in=1000)  # no such worker
    assert supervisor.bytes_in == [20, 0]
    pool = supervisor.pool
    assert [server.in_flight for server in pool.servers] == [0, 6]
    assert [server.queued for server in pool.servers] == [2, 0]
    assert (pool.in_flight, pool.queue_length) == (6, 8)
    assert (supervisor.frontend.connections, supervisor.frontend.requests) == (4, 10)


def test_who_has_died_is_counted_but_has_nothing_in_flight(supervisor: Supervisor):
    supervisor.gathered.joined(0, 100)
    supervisor.count(0, A, bytes_in=10)
    supervisor.count(0, FRONTEND, connections=2, connections_total=9)
    supervisor.memory.regions[0].loads[A] = supervisor.memory.regions[0].queued[A] = 1
    supervisor.gathered.left(0, ROWS)
    assert supervisor.bytes_in == [10, 0]
    assert (supervisor.pool.in_flight, supervisor.pool.servers[0].queued) == (0, 0)
    assert (supervisor.frontend.connections, supervisor.frontend.connections_total) == (0, 9)
    supervisor.gathered.joined(0, 101)
    supervisor.count(0, A, bytes_in=1)
    assert supervisor.bytes_in == [11, 0]


def test_what_a_gone_server_has_counted_is_forgotten(supervisor: Supervisor):
    supervisor.gathered.joined(0, 100)
    supervisor.count(0, A, bytes_in=10)
    supervisor.count(0, B, bytes_in=10)
    supervisor.gathered.left(0, ROWS)
    supervisor.gathered.forget([A])
    assert supervisor.bytes_in == [0, 10]


def test_refusals_are_added_up_by_reason(supervisor: Supervisor):
    gathered = supervisor.gathered
    for number in (0, 1):
        gathered.joined(number, 100)
    gathered.refused(0, "public", [[400, "bad head", 2], [404, "no route", 1]])
    gathered.refused(0, "public", [[400, "bad head", 3], [404, "no route", 1]])
    gathered.refused(1, "public", [[400, "bad head", 1]])
    gathered.refused(1, "other", [[400, "bad head", 99]])
    supervisor.fill()
    assert supervisor.frontend.refused == {(400, "bad head"): 4, (404, "no route"): 1}
    gathered.left(0, ROWS)
    gathered.joined(0, 102)
    gathered.refused(0, "public", [[400, "bad head", 1]])
    supervisor.fill()
    assert supervisor.frontend.refused == {(400, "bad head"): 5, (404, "no route"): 1}


def test_processes_are_listed_by_number_and_known_by_what_they_wrote(supervisor: Supervisor):
    gathered = supervisor.gathered
    for number in (2, 0):
        gathered.joined(number, 100 + number)
    written = ProcessView(2, 102, clients=7)
    for place, cell in enumerate(written.cells()):
        supervisor.memory.regions[2].gauges[place] = cell
    supervisor.fill()
    seen = [(process.number, process.pid, process.clients) for process in gathered.processes]
    assert seen == [(0, 100, 0), (2, 102, 7)]
    gathered.left(2, ROWS)
    supervisor.fill()
    assert [process.number for process in gathered.processes] == [0]


def test_the_next_generation_counts_on(supervisor: Supervisor):
    gathered = supervisor.gathered
    for number in (0, 1):
        gathered.joined(number, 100)
        supervisor.count(number, A, bytes_in=10)
        gathered.refused(number, "public", [[400, "bad head", 2]])
    gathered.left(0, ROWS)
    following = Gathered(supervisor.memory)
    following.restore(json.loads(json.dumps(gathered.state())))
    supervisor.gathered = following
    following.joined(1, 100)  # alive, without new counts
    assert supervisor.bytes_in == [20, 0]
    assert supervisor.frontend.refused == {(400, "bad head"): 4}
    following.left(1, ROWS)
    assert supervisor.bytes_in == [20, 0]
    assert supervisor.frontend.refused == {(400, "bad head"): 4}


class Deaths(RuleBasedStateMachine):
    """Workers die and are replaced; no counter ever decreases."""

    numbers = st.integers(0, 2)

    @initialize()
    def start(self) -> None:
        self.supervisor = Supervisor()
        self.counted = [0, 0, 0]  # by living workers
        self.sums = [0, 0]  # of all time: bytes, refusals
        for number in range(3):
            self.supervisor.gathered.joined(number, 100)

    @rule(number=numbers, more=st.integers(1, 100))
    def counts(self, number: int, more: int) -> None:
        self.counted[number] += more
        self.sums[0] += more
        self.supervisor.count(number, B, bytes_in=self.counted[number])

    @rule(number=numbers)
    def refuses(self, number: int) -> None:
        told = self.supervisor.gathered._refused[number].get("public", {})
        self.supervisor.gathered.refused(
            number, "public", [[400, "bad head", told.get((400, "bad head"), 0) + 1]]
        )
        self.sums[1] += 1

    @rule(number=numbers)
    def dies(self, number: int) -> None:
        self.counted[number] = 0
        self.supervisor.gathered.left(number, ROWS)
        self.supervisor.gathered.joined(number, 101)

    @rule()
    def upgrade(self) -> None:
        state = json.loads(json.dumps(self.supervisor.gathered.state()))
        self.supervisor.gathered = Gathered(self.supervisor.memory)
        self.supervisor.gathered.restore(state)
        for number in range(3):
            self.supervisor.gathered.joined(number, 100)

    @invariant()
    def all_is_there(self) -> None:
        if hasattr(self, "supervisor"):
            assert self.supervisor.bytes_in == [0, self.sums[0]]
            assert sum(self.supervisor.frontend.refused.values()) == self.sums[1]

    def teardown(self) -> None:
        if hasattr(self, "supervisor"):
            self.supervisor.memory.close()


TestDeaths = Deaths.TestCase
TestDeaths.settings = examples(30, stateful_step_count=20)
