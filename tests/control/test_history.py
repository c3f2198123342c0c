"""Samples of the last minutes, on a fake clock."""

from __future__ import annotations

import json

import pytest

from hermes_lb.backends import Pool
from hermes_lb.backends.server import STATES
from hermes_lb.config import Backend
from hermes_lb.control.history import FIELDS, SHOWN_STATES, SPANS, History, reason
from tests.support.operator import agents

WALL = 1_000_000.0  # Unix time at 0 on the clock


def sample(history: History, now: float) -> None:
    for _ in history.sample(now, WALL + now):
        pass


def serve(pool: Pool, took: float, *, status: int = 200, count: int = 1) -> None:
    """Requests end at the first server."""
    counters = pool.servers[0].counters
    for _ in range(count):
        counters.responses[status // 100] += 1
        counters.at_once.observe(took)


@pytest.fixture
def pool() -> Pool:
    return agents()


@pytest.fixture
def history(pool: Pool) -> History:
    return History({"agents": pool})


AGENT1 = ("agents", "agent1")
BACKEND = ("agents", None)


def test_rates_are_of_the_time_that_has_passed(pool: Pool, history: History) -> None:
    sample(history, 0.0)
    serve(pool, 0.01, count=10)
    serve(pool, 0.01, status=500, count=2)
    sample(history, 2.0)
    for key in (AGENT1, BACKEND):
        latest = history.spans["5m"].latest(key)
        assert (latest["requests"], latest["errors"]) == (6.0, 1.0)
    sample(history, 3.0)
    assert history.spans["5m"].latest(AGENT1)["requests"] == 0.0


def test_the_first_sample_has_no_rates(pool: Pool, history: History) -> None:
    assert history.spans["5m"].latest(AGENT1) == {}
    serve(pool, 0.01, count=1000)  # since the start, however long ago
    sample(history, 0.0)
    latest = history.spans["5m"].latest(AGENT1)
    assert (latest["requests"], latest["latency_p50"]) == (None, None)
    assert latest["in_flight"] == 0


def test_requests_without_a_server_are_the_backends(pool: Pool, history: History) -> None:
    sample(history, 0.0)
    pool.unserved.responses[5] += 3
    sample(history, 1.0)
    assert history.spans["5m"].latest(BACKEND)["errors"] == 3.0
    assert history.spans["5m"].latest(AGENT1)["errors"] == 0.0


def test_an_abort_that_was_answered_with_502_is_one_error(pool: Pool, history: History) -> None:
    sample(history, 0.0)
    serve(pool, 0.01, status=502)
    pool.servers[0].counters.aborted_by_server += 1
    sample(history, 1.0)
    assert history.spans["5m"].latest(AGENT1)["errors"] == 1.0


def test_gauges_are_those_of_the_moment(pool: Pool, history: History) -> None:
    agent1 = pool.servers[0]
    pool.lease(agent1, 0.0)
    agent1.queued = 2
    agent1.set_admin("drain")
    sample(history, 0.0)
    latest = history.spans["5m"].latest(AGENT1)
    assert (latest["in_flight"], latest["queued"]) == (1, 2)
    assert STATES[int(latest["state"] or 0)] == "drain"
    assert history.spans["5m"].latest(BACKEND)["state"] == 1  # available servers


def test_percentiles_are_of_the_last_interval_only(pool: Pool, history: History) -> None:
    serve(pool, 100.0, count=1000)
    sample(history, 0.0)
    serve(pool, 0.02, count=100)
    sample(history, 1.0)
    latest = history.spans["5m"].latest(AGENT1)
    for name in ("latency_p50", "latency_p99", "first_byte_p95"):
        assert 0.01 < (latest[name] or 0.0) <= 0.025


def test_turns_of_half_a_minute_are_shown_as_such(pool: Pool, history: History) -> None:
    sample(history, 0.0)
    serve(pool, 31.0, count=100)
    sample(history, 1.0)
    for key in (AGENT1, BACKEND):
        latest = history.spans["5m"].latest(key)
        for name in FIELDS[5:]:
            assert round(latest[name] or 0.0) == 31, name


def test_a_sample_without_ended_requests_costs_no_new_totals(pool: Pool, history: History) -> None:
    serve(pool, 1.0)
    sample(history, 0.0)
    span = history.spans["5m"]
    before = {key: span._totals[key] for key in (AGENT1, BACKEND)}
    sample(history, 1.0)
    assert all(span._totals[key] is totals for key, totals in before.items())
    serve(pool, 1.0)
    sample(history, 2.0)
    assert all(span._totals[key].requests == 2 for key in before)


def test_old_samples_are_overwritten_in_order(pool: Pool, history: History) -> None:
    step, size = SPANS["5m"]
    for n in range(size + 7):
        pool.servers[0].queued = n
        sample(history, n * step)
    span = history.spans["5m"]
    assert span.times() == [WALL + n for n in range(7, size + 7)]
    assert span.read(AGENT1, ["queued"])["queued"] == list(range(7, size + 7))
    coarse = history.spans["1h"]
    assert coarse.times() == [WALL + n for n in range(0, size + 7, 10)]
    assert set(coarse.read(BACKEND, FIELDS)) == set(FIELDS)


@pytest.mark.parametrize("before", [0, 1, SPANS["5m"][1] + 5], ids=["none", "one", "full"])
def test_a_sample_is_shown_when_it_is_whole(pool: Pool, history: History, before: int) -> None:
    span = history.spans["5m"]
    for second in range(before):
        pool.servers[1].in_flight = second
        sample(history, float(second))
    keys: list[tuple[str, str | None]] = [AGENT1, ("agents", "agent2"), BACKEND]

    def shown() -> object:
        newest = [
            value
            for key in keys
            for column in span.read(key, FIELDS).values()
            for value in column[-1:]
        ]
        return span.wall, span.times()[-1:], newest, [span.latest(key) for key in keys]

    last = shown()
    pool.servers[1].in_flight = 4711
    for _ in history.sample(float(before), WALL + before):
        assert shown() == last  # other tasks run here
    assert span.wall == WALL + before
    assert span.latest(("agents", "agent2"))["in_flight"] == 4711


def test_servers_come_and_go(pool: Pool) -> None:
    pools = {"agents": pool}
    history = History(pools)
    sample(history, 0.0)
    pools["agents"] = Pool("agents", _one_server("agent3"))
    sample(history, 1.0)
    span = history.spans["5m"]
    assert span.read(AGENT1, FIELDS) == {}
    assert span.read(("agents", "agent3"), ["queued"]) == {"queued": [None, 0.0]}
    del pools["agents"]
    sample(history, 2.0)
    assert span.read(BACKEND, FIELDS) == {}


def _one_server(name: str) -> Backend:
    return Backend.model_validate({"servers": [{"name": name, "address": "127.0.0.1:1"}]})


def test_a_server_that_returned_under_its_old_name_has_no_negative_rate(pool: Pool) -> None:
    pools = {"agents": pool}
    history = History(pools)
    serve(pool, 0.01, count=100)
    sample(history, 0.0)
    pools["agents"] = agents()
    sample(history, 1.0)
    assert history.spans["5m"].latest(AGENT1)["requests"] is None


def test_changes_have_their_reasons(pool: Pool, history: History) -> None:
    agent1, agent2 = pool.servers
    history.look(WALL)
    agent1.set_up(False, "connection refused")
    agent2.eject(9.0, "5 failures in a row")
    history.look(WALL + 1)
    agent2.readmit()
    agent2.set_admin("maint")
    history.look(WALL + 2)
    agent2.set_admin("ready")
    history.look(WALL + 3)
    history.look(WALL + 4)
    assert [(c.number, c.time - WALL, c.server, c.state, c.because) for c in history.changes] == [
        (1, 1.0, "agent1", "down", "connection refused"),
        (2, 1.0, "agent2", "ejected", "5 failures in a row"),
        (3, 2.0, "agent2", "maint", "set to maint"),
        (4, 3.0, "agent2", "up", "set to ready"),
    ]


def test_changes_are_bounded_and_go_on_counting(pool: Pool, history: History) -> None:
    history.look(WALL)
    for n in range(300):
        pool.servers[0].set_admin("ready" if n % 2 else "drain")
        history.look(WALL)
    assert (len(history.changes), history.changes[-1].number) == (200, 300)


def test_a_drain_remembers_what_it_began_with(pool: Pool, history: History) -> None:
    agent1 = pool.servers[0]
    agent1.in_flight = 5
    agent1.set_admin("drain")
    history.look(WALL)
    agent1.in_flight = 3
    agent1.set_admin("maint")  # running requests continue
    history.look(WALL + 9)
    assert history.drains[AGENT1] == (WALL, 5)
    agent1.set_admin("ready")
    history.look(WALL + 10)
    assert history.drains == {}


@pytest.mark.parametrize("above", ["down", "ejected"])
def test_a_drain_goes_on_while_another_state_ranks_above_it(
    pool: Pool, history: History, above: str
) -> None:
    agent1 = pool.servers[0]
    agent1.in_flight = 5
    agent1.set_admin("drain")
    history.look(WALL)
    if above == "down":
        agent1.set_up(False, "connection refused")
    else:
        agent1.eject(1e9, "3 failures in a row")
    history.look(WALL + 9)
    assert agent1.state == above
    assert history.drains[AGENT1] == (WALL, 5)


def test_without_a_check_up_is_only_assumed(pool: Pool, history: History) -> None:
    agent1 = pool.servers[0]
    sample(history, 0.0)
    agent1.set_up(True, "200 in 3 ms")
    sample(history, 1.0)
    agent1.set_up(False, "connection refused")
    sample(history, 2.0)
    states = history.spans["5m"].read(AGENT1, ["state"])["state"]
    assert [SHOWN_STATES[int(state or 0)] for state in states] == ["unchecked", "up", "down"]


def test_why_a_server_without_checks_is_up_again(pool: Pool, history: History) -> None:
    agent1 = pool.servers[0]
    history.look(WALL)
    assert reason(agent1) == "not checked"
    for _ in range(3):
        agent1.failed(0.0, "connection refused")
    history.look(WALL)
    agent1.recovered()
    history.look(WALL)
    agent1.eject(30.0, "5 failures in a row")
    history.look(WALL)
    agent1.readmit()
    history.look(WALL)
    assert [(change.state, change.because) for change in history.changes] == [
        ("failing", "3 failures: connection refused"),
        ("up", "it has answered a request"),
        ("ejected", "5 failures in a row"),
        ("up", "its time is over"),
    ]


def test_an_announced_drain_says_so(pool: Pool, history: History) -> None:
    history.look(WALL)
    pool.servers[0].announce_drain("503 with X-Hermes-Draining")
    history.look(WALL)
    assert history.changes[-1].because == "announced by itself"


def test_a_reason_is_of_the_state_that_holds(pool: Pool) -> None:
    agent1 = pool.servers[0]
    agent1.set_up(False, "connection refused")
    agent1.set_admin("drain")
    assert (agent1.state, reason(agent1)) == ("down", "connection refused")
    agent1.set_up(True, "200 in 1 ms")
    assert (agent1.state, reason(agent1)) == ("drain", "set to drain")


# Over an upgrade.


def restored(history: History, pool: Pool) -> History:
    """Restored in another process."""
    again = History({"agents": pool})
    again.restore(json.loads(json.dumps(history.state())))
    return again


def test_another_process_goes_on_with_the_samples(pool: Pool, history: History) -> None:
    for now in (0.0, 1.0):
        serve(pool, 0.01, count=5)
        sample(history, now)
    again = restored(history, pool)
    sample(again, 2.0)
    serve(pool, 0.01, count=7)
    sample(again, 3.0)
    span = again.spans["5m"]
    assert span.times() == [WALL, WALL + 1, WALL + 2, WALL + 3]
    for key in (AGENT1, BACKEND):
        assert span.read(key, ["requests"])["requests"] == [None, 5.0, None, 7.0]
    assert again.spans["1h"].times() == [WALL]


def test_another_process_knows_changes_and_drains(pool: Pool, history: History) -> None:
    history.look(WALL)
    pool.servers[0].in_flight = 5
    pool.servers[0].set_admin("drain")
    history.look(WALL + 1)
    pool.servers[0].in_flight = 2
    again = restored(history, pool)
    again.look(WALL + 2)
    assert list(again.changes) == list(history.changes)
    assert again.drains == history.drains == {AGENT1: (WALL + 1, 5)}


def test_a_server_that_is_gone_when_another_process_goes_on_is_forgotten(
    pool: Pool, history: History
) -> None:
    sample(history, 0.0)
    again = restored(history, Pool("agents", _one_server("agent3")))
    sample(again, 1.0)
    assert again.spans["5m"].read(AGENT1, FIELDS) == {}


def test_what_other_code_has_kept_is_left_out(pool: Pool, history: History) -> None:
    sample(history, 0.0)
    again = History({"agents": pool})
    again.restore({**history.state(), "layout": ["another"]})
    again.restore({})
    assert again.spans["5m"].times() == []
