"""What a run says of what is asked, and of what this machine can't show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.live.bench import Bench
from bench.live.cases import CASES
from bench.live.cases.base import Sample
from bench.live.peers import PEERS
from bench.live.requirements import REQUIREMENTS, Verdict, judge
from bench.live.results import Results
from bench.live.upstreams import Upstreams

TWO_CORES = Bench(Path(), 1, 0, 1, (), Upstreams((), (), (), "none", "", None, ()), 0, None)


def verdict(results: Results, title: str) -> Verdict:
    return next(each for each in judge(results) if each.requirement.title == title)


def found(case: str, metric: str, **peers: float) -> Results:
    results = Results()
    for peer, value in peers.items():
        results.add(case, peer.replace("_lb_", "_lb-"), Sample({metric: value}))
    return results


def test_two_workers_are_held_against_one() -> None:
    enough = found("processes", "per_second", hermes_lb=100.0, hermes_lb_2=185.0)
    too_few = found("processes", "per_second", hermes_lb=100.0, hermes_lb_2=175.0)

    assert verdict(enough, "two workers").is_met
    assert verdict(too_few, "two workers").is_met is False


def test_without_a_figure_of_two_workers_there_is_no_verdict() -> None:
    cost_only = found("processes", "cpu_us", hermes_lb=40.0, hermes_lb_2=41.0)

    assert verdict(cost_only, "two workers").is_met is None


def test_one_worker_may_not_cost_more_than_an_embedded_balancer() -> None:
    same = found("processes", "cpu_us", hermes_lb=41.0, hermes_lb_embedded=40.0)
    more = found("processes", "cpu_us", hermes_lb=44.0, hermes_lb_embedded=40.0)

    assert verdict(same, "one worker, CPU per request").is_met
    assert verdict(more, "one worker, CPU per request").is_met is False


def test_two_cores_are_said_to_be_too_few_for_the_throughput_of_two_workers() -> None:
    said = CASES["processes"].left_out(TWO_CORES)

    assert said is not None
    assert "not measured, 2 more cores" in said
    assert CASES["get"].left_out(TWO_CORES) is None


def test_one_more_core_is_still_too_few() -> None:
    said = CASES["processes"].left_out(replace(TWO_CORES, spare_cores=(2,)))

    assert said is not None
    assert "not measured, 1 more core would" in said


def test_a_peer_that_is_there_for_some_cases_is_in_no_other() -> None:
    for case in CASES.values():
        accepted = {name for name, peer in PEERS.items() if peer.cases and case.accepts(peer)}

        assert accepted == {name for name, peer in PEERS.items() if case.name in peer.cases}


def test_every_requirement_is_about_a_figure_that_is_measured() -> None:
    for wanted in REQUIREMENTS:
        assert wanted.metric in {metric.key for metric in CASES[wanted.case].metrics}
        for name in {wanted.peer, wanted.against, wanted.aim_against} - {None}:
            assert CASES[wanted.case].accepts(PEERS[str(name)])
