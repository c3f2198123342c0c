"""The life of requests on the virtual clock: each ends once, and the same way each time."""

from __future__ import annotations

from array import array
from collections import Counter
from math import isnan

import pytest

from hermes_lb.balancing import STRATEGIES
from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.fleet import make_fleet
from hermes_lb.lab.pace import Pace
from hermes_lb.lab.scenarios import SCENARIOS
from hermes_lb.lab.workloads import Workload
from tests.support.laboratory import make_run


def work(*requests: tuple[float, float], first: float | None = None) -> Workload:
    """(arrival, length) of each; all of one user."""
    return Workload(
        array("d", [at for at, _ in requests]),
        array("d", [length if first is None else first for _, length in requests]),
        array("d", [length for _, length in requests]),
        array("L", [0] * len(requests)),
        ["10.0.0.1"],
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_request_ends_once_and_nothing_is_left(strategy: str, scenario: str) -> None:
    told = SCENARIOS[scenario]
    workload = told.workload(3, 1500, 8)
    fleet = told.fleet(8, workload.horizon)
    run = make_run(strategy, workload, fleet=fleet, sticky=told.sticky, queue_timeout=30.0)
    ended: Counter[int] = Counter()
    measures = run.measures
    failed = measures.failed

    def count(number: int, kind: str) -> None:
        ended[number] += 1
        failed(number, kind)

    measures.failed = count  # type: ignore[method-assign]
    run.play(fleet.changes)
    ended.update(i for i, latency in enumerate(measures.latencies) if not isnan(latency))
    assert ended == Counter(range(1500))
    assert measures.ended == 1500
    assert fleet.pool.in_flight == 0
    assert not fleet.pool.waiting
    assert all(s.in_flight == s.queued == 0 for s in fleet.pool.servers)
    assert all(m.running == 0 and not m.queue for m in fleet.machines)


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    def result(seed: int) -> object:
        return [Experiment(list(STRATEGIES), 5, 100, seed).scenario(name) for name in SCENARIOS]

    assert result(1) == result(1)
    assert result(1) != result(2)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_happens_to_many_servers_at_a_time_is_looked_at_once(scenario: str) -> None:
    """Else the time that a run takes would grow with the square of the servers."""

    def looks(servers: int) -> int:
        told = SCENARIOS[scenario]
        workload = told.workload(1, 20, servers)
        fleet = told.fleet(servers, workload.horizon)
        make_run("leastconn", workload, fleet=fleet).play(fleet.changes)
        return fleet.pool.version

    assert looks(400) <= looks(40)


def test_looking_changes_nothing() -> None:
    plain = Experiment(list(STRATEGIES), 7, 500).scenario("turns")
    explained = Experiment(list(STRATEGIES), 7, 500, why=300).scenario("turns")
    assert explained.pop("why").keys() == STRATEGIES.keys()
    assert explained == plain


def test_a_machine_works_on_its_slots_and_the_rest_wait_in_order() -> None:
    run = make_run("round_robin", work((0, 4), (1, 4), (2, 1), (3, 1)), slots=2)
    assert list(run.play().latencies) == [4.0, 4.0, 3.0, 3.0]
    assert list(run.measures.waits) == [0.0, 0.0, 2.0, 2.0]


def test_the_first_token_comes_before_the_end() -> None:
    measures = make_run("round_robin", work((0, 4), (1, 4), first=0.5)).play()
    assert list(measures.firsts) == [0.5, 3.5]
    assert list(measures.latencies) == [4.0, 7.0]


def test_a_limit_keeps_requests_at_the_balancer() -> None:
    run = make_run("leastconn", work((0, 4), (0, 2), (0, 1)), servers=2, slots=0, limit=1)
    measures = run.play()
    assert list(measures.latencies) == [4.0, 2.0, 3.0]
    assert measures.peak == 1


def test_who_waits_too_long_at_the_balancer_gets_an_error() -> None:
    run = make_run("leastconn", work((0, 9), (0, 1)), slots=0, limit=1, queue_timeout=3.0)
    assert run.play().errors == {"queue timeout": 1}
    assert run.measures.served == 1


def test_a_machine_that_stands_still_answers_later() -> None:
    fleet = make_fleet(1, 1)
    fleet.machines[0].pace = Pace([(1.0, 0.0), (6.0, 1.0)])
    assert list(make_run("round_robin", work((0, 2)), fleet=fleet).play().latencies) == [7.0]


def test_a_process_that_dies_takes_its_requests_with_it() -> None:
    fleet = make_fleet(1, 1)
    fleet.machines[0].gone = (3.0, 5.0)
    measures = make_run("round_robin", work((0, 4), (1, 1), (6, 1)), fleet=fleet).play()
    assert measures.errors == {"lost": 2}
    assert measures.served == 1


def test_who_is_refused_is_served_by_another() -> None:
    fleet = make_fleet(2, 1)
    fleet.machines[0].gone = (0.0, 9.0)
    measures = make_run("round_robin", work((1, 1), (3, 1)), fleet=fleet).play()
    assert measures.errors == {}
    assert measures.counts == [0, 2]
    assert measures.refused >= 1
    assert fleet.pool.servers[0].fails == measures.refused


def test_no_server_at_all_is_an_error_at_once() -> None:
    fleet = make_fleet(1, 1)
    fleet.pool.servers[0].set_up(False, "")
    assert make_run("random", work((0, 1)), fleet=fleet).play().errors == {"no server": 1}


def test_a_cookie_holds_until_its_server_is_out() -> None:
    fleet = make_fleet(3, 0)
    home = fleet.pool.servers[0]
    fleet.change(2.5, lambda _: home.set_up(False, ""))
    requests = work(*((float(i), 0.1) for i in range(5)))
    measures = make_run("round_robin", requests, fleet=fleet, sticky=True).play(fleet.changes)
    assert measures.counts == [3, 2, 0]
    assert measures.moved == 1


def test_a_server_that_fails_fast_answers_500() -> None:
    fleet = make_fleet(1, 1)
    fleet.machines[0].failing = (1.0, 2.0)
    measures = make_run("leastconn", work((0, 0.5), (1, 0.5), (2, 0.5)), fleet=fleet).play()
    assert measures.errors == {"500": 1}
    assert measures.served == 2
