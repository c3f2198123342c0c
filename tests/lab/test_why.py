"""What `--why` shows is what decides, and looking changes nothing."""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import pytest

from hermes_lb.balancing import STRATEGIES
from hermes_lb.balancing.least_load import COMPARED
from hermes_lb.lab.scenarios import SCENARIOS, Scenario
from hermes_lb.lab.why import Why
from tests.support.laboratory import make_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.backends import Server
    from hermes_lb.lab.engine import Run
    from hermes_lb.lab.job import Job

REQUESTS = 300
_ROW = re.compile(r"  s(\d+) +(\d+) in flight, weight ([\d.]+)(.*)").fullmatch
_HOT = re.compile(r"hot: more than ([\d.]+) in flight").search
_OWN = re.compile(r"the session's server is (s\d+)").fullmatch


class Row(NamedTuple):
    """A server's line."""

    name: str
    number: int
    load: float  # in flight for its weight
    weight: float
    rest: str

    @property
    def can_take_it(self) -> bool:
        return not any(word in self.rest for word in ("cannot take it", "no room"))

    def figure(self, word: str) -> float:
        """The number after the word, or after its sum or before its product."""
        found = re.search(rf", {word} (?:[-\d.]+ \+ [\d.]+ = )?(-?[\d.]+(?:e[+-]\d+)?)", self.rest)
        assert found, (word, self.rest)
        return float(found[1])


def explain_all(run: Run) -> list[Why]:
    """Have each request of the run explained."""
    whys: list[Why] = []
    before: list[Callable[[Job, float], None]] = []
    after: list[Callable[[Job, Server | None], None]] = []
    for number in range(REQUESTS):
        whys.append(Why(run, number))
        assert run.before_pick is not None
        assert run.after_pick is not None
        before.append(run.before_pick)
        after.append(run.after_pick)

    def before_pick(job: Job, now: float) -> None:
        before[job.number](job, now)

    def after_pick(job: Job, server: Server | None) -> None:
        after[job.number](job, server)

    run.before_pick, run.after_pick = before_pick, after_pick
    return whys


def make(strategy: str, scenario: Scenario, servers: int, *, are_equal: bool = True) -> Run:
    workload = scenario.workload(2, REQUESTS, servers)
    fleet = scenario.fleet(servers, workload.horizon)
    if not are_equal:
        for machine in fleet.machines:
            machine.server.set_weight(1 + machine.place % 3)
    run = make_run(strategy, workload, fleet=fleet, sticky=scenario.sticky, queue_timeout=30.0)
    for time, change in fleet.changes:
        run.at(time, lambda _, now, change=change: change(now))
    return run


def follows(strategy: str, rows: list[Row], lines: list[str]) -> list[str]:
    """The servers that the figures in these lines favour; several if chance decided among them."""
    if strategy == "ip_hash" and " has the turn" in "".join(lines):
        strategy = "round_robin"
    if strategy in ("ip_hash", "consistent_hash", "maglev", "selective_push"):
        return [next(row.name for row in rows if row.can_take_it)]
    if strategy == "dual_map":
        is_second = len(rows) == 2 and rows[0].figure("load") - rows[1].figure("load") > 1.0
        return [rows[is_second].name]
    own = [found[1] for found in map(_OWN, lines) if found]
    if own and strategy == "session_stealing":
        loads = {row.name: row.figure("load") for row in rows}
        stays = own[0] in loads and loads[own[0]] - min(loads.values()) < 4.0
        stays |= "another request of it" in "".join(lines) or "came there lately" in "".join(lines)
        return own if stays else [name for name in loads if loads[name] == min(loads.values())]
    if strategy in ("least_sessions", "least_tokens"):
        figures = {row.name: row.figure(strategy[6:]) / row.weight for row in rows}
        if own and own[0] in figures:
            return own
        return [next(name for name in figures if figures[name] == min(figures.values()))]
    if strategy == "fair_queue":
        strategy = "leastconn"
    if strategy == "random":
        return [row.name for row in rows]
    if strategy == "peak_ewma" and len(rows) == 2:
        first, second = rows
        share = second.figure("cost") / (first.figure("cost") or inf)
        if share == pytest.approx(0.9, abs=1e-3):  # too close for figures of four digits
            return [first.name, second.name]
        return [(second if share < 0.9 and first.figure("cost") else first).name]
    if strategy == "prequal":
        (hot,) = [float(found[1]) for found in map(_HOT, lines) if found]
        for row in rows:
            assert ("hot" in row.rest) == (float(f"{row.load:.4g}") > hot)
        able = [row for row in rows if row.can_take_it and "it has failed" not in row.rest]
        cold = [row for row in able if "hot" not in row.rest] or able or rows
        least = min(cold, key=lambda row: (row.figure("latency"), row.load))
        return [least.name]
    if strategy == "round_robin":
        most = max(row.figure("credit") for row in rows)
        first = min((row for row in rows if row.figure("credit") == most), key=lambda r: r.number)
        return [first.name]
    least_load = min(row.load for row in rows)
    ties = [row for row in rows if row.load == least_load]
    if strategy == "leastconn" and len(ties) > 1:
        most = max(row.figure("credit") for row in ties)
        ties = [row for row in ties if row.figure("credit") == most]
        ties.sort(key=lambda row: row.number)
    by_lot = strategy == "least_load" and "drawn by lot" in "".join(lines)
    return [row.name for row in ties] if by_lot else [ties[0].name]


def read(lines: list[str]) -> tuple[list[Row], str]:
    """The lines of the compared servers, and the one that was picked."""
    compared = lines[: lines.index("not compared:")] if "not compared:" in lines else lines
    rows = []
    for found in map(_ROW, compared):
        if found:
            number, in_flight, weight, rest = found.groups()
            rows.append(
                Row(f"s{number}", int(number), int(in_flight) / float(weight), float(weight), rest)
            )
    return rows, lines[-1].removeprefix("picked: ")


@pytest.mark.parametrize("are_equal", [True, False], ids=["equal", "weights"])
@pytest.mark.parametrize("servers", [5, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_who_is_picked_follows_from_what_is_shown(
    strategy: str, servers: int, are_equal: bool
) -> None:
    run = make(strategy, SCENARIOS["crash"], servers, are_equal=are_equal)
    whys = explain_all(run)
    run.play()
    for why in whys:
        rows, picked = read(why.lines)
        text = "\n".join(why.lines)
        assert picked in [row.name for row in rows], text
        if "rendezvous" not in text:
            assert picked in follows(strategy, rows, why.lines), text
    assert any("cannot take it" in line or "(not s" in line for why in whys for line in why.lines)


@pytest.mark.parametrize("servers", [5, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scenario", ["crash", "scale-out", "sticky"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_looking_changes_nothing(strategy: str, scenario: str, servers: int) -> None:
    seen, unseen = (make(strategy, SCENARIOS[scenario], servers) for _ in range(2))
    whys = explain_all(seen)
    assert seen.play().summary() == unseen.play().summary()
    assert seen.rng.getstate() == unseen.rng.getstate()
    assert any(why.lines for why in whys)


def test_the_turn_among_many_is_reported() -> None:
    run = make("leastconn", SCENARIOS["turns"], 60)
    whys = explain_all(run)
    run.play()
    assert any(
        line.endswith(" with the least it has the most credit:")
        for why in whys
        for line in why.lines
    )
    assert (
        "s0 has the turn: of the 60 with the least, 60 have the most credit; "
        "it is configured first:"
    ) in whys[0].lines


def test_of_many_probed_the_one_that_was_picked_is_shown_with_its_latency() -> None:
    run = make("prequal", SCENARIOS["turns"], 60)
    why = Why(run, REQUESTS - 1)
    run.play()
    rows, picked = read(why.lines)
    assert rows[0].name == picked
    assert "latency" in rows[0].rest
    assert any(" were probed within 1 s, the last of them s" in line for line in why.lines)


def test_few_are_all_compared_and_more_are_drawn() -> None:
    for servers, is_drawn in ((COMPARED, False), (COMPARED + 1, True)):
        run = make("least_load", SCENARIOS["turns"], servers)
        why = Why(run, REQUESTS - 1)
        run.play()
        assert any(line.startswith("drawn: s") for line in why.lines) == is_drawn


def test_nobody_is_picked_where_nobody_can_take_it() -> None:
    run = make("leastconn", SCENARIOS["turns"], 3)
    for server in run.pool.servers:
        server.set_admin("drain")
    why = Why(run, 0)
    run.play()
    assert why.lines[1].endswith("0 of 3 servers can take it (not s0 s1 s2), 0 in flight")
    assert why.lines[-1] == "picked: no server; it fails"


def test_a_full_server_is_called_so() -> None:
    run = make("maglev", SCENARIOS["turns"], 3)
    for server in run.pool.servers:
        server.max_connections = 2
        server.when_changed()
    whys = explain_all(run)
    run.play()
    lines = [line for why in whys for line in why.lines]
    assert any(line.endswith(", cannot take it: full") for line in lines)
    assert "picked: no server; it waits" in lines
