"""The heap of figures picks what a loop over all candidates would."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from hermes_lb.balancing.live_sessions import LiveSessions
from hermes_lb.balancing.ranking import Ranking
from tests.support.pools import make_pool
from tests.support.strategies import many

EVENTS = st.lists(
    st.tuples(st.sampled_from(["pick", "figure", "fail", "down", "weight"]), st.integers(0, 99)),
    max_size=60,
)


@given(size=st.integers(1, 30), events=EVENTS)
def test_the_least_of_the_candidates(size: int, events: list[tuple[str, int]]) -> None:
    pool = many(size, max_fails=1)
    figures: Counter[Any] = Counter()
    ranking = Ranking(lambda server: figures[server])
    for now, (event, number) in enumerate(events):
        server = pool.servers[number % size]
        if event == "pick":
            tried = [server] if number % 3 == 0 else []
            candidates = list(pool.candidates(tried, now))
            first = ranking.in_order(pool, candidates)
            found = ranking.least(pool, tried, now)
            assert found is (first[0] if first else None)
            if found is not None:
                assert found in candidates
                assert figures[found] == min(figures[one] for one in candidates)
        elif event == "figure":
            figures[server] = number
            ranking.changed(server)
        elif event == "fail":
            server.failed(now)
        elif event == "down":
            server.set_up(number % 2 == 0, "")
        else:
            server.set_weight(number % 4)


def test_equals_share_by_weight() -> None:
    pool = make_pool({"weight": 1}, {"weight": 2}, {"weight": 5})
    ranking = Ranking(lambda server: 0.0)
    picked = Counter(ranking.least(pool, (), 0.0).name for _ in range(800))  # type: ignore[union-attr]
    assert picked == {"a": 100, "b": 200, "c": 500}


def test_the_heap_stays_small() -> None:
    pool = many(40)
    ranking = Ranking(lambda server: server.in_flight)
    for number in range(5000):
        ranking.changed(pool.servers[number % 40])
        if number % 50 == 0:
            ranking.least(pool, (), 0.0)
    assert len(ranking._heap) <= 2 * 40 + 33


KEYS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), st.integers(0, 40)), max_size=120)


@given(requests=KEYS)
@example(requests=[*((key, 0, 0) for key in (0, 1, 3, 4, 5, 6, 7, 8)), (0, 0, 10), (2, 0, 40)])
def test_sessions_are_counted_once_each_and_bounded(requests: list[tuple[int, int, int]]) -> None:
    pool = many(3)
    counts: Counter[Any] = Counter()

    def changed(server: Any, change: int) -> None:
        counts[server] += change

    sessions = LiveSessions(8, 50.0, changed)
    now, running = 0.0, []
    for key, place, wait in requests:
        now += wait
        running.append(sessions.started(b"%d" % key, pool.servers[place], now))
        assert sessions.find(b"%d" % key, now) is running[-1]
        if wait % 2:
            running.pop(0).ended(-1)
        kept = [*sessions._new.values(), *sessions._returning.values()]
        assert len(kept) == len(sessions) <= 8
        assert counts == Counter(session.server for session in kept)
    for session in running:
        session.ended(-1)
        assert session.running >= 0


def test_a_flood_of_new_keys_displaces_no_session_that_has_returned() -> None:
    pool = many(2)
    sessions = LiveSessions(1000, 600.0, lambda server, change: None)
    for _ in range(2):
        for number in range(500):
            sessions.started(b"mine %d" % number, pool.servers[0], 1.0).ended(-1)
    for number in range(20_000):
        sessions.started(b"flood %d" % number, pool.servers[1], 2.0).ended(-1)
    assert all(sessions.find(b"mine %d" % number, 3.0) for number in range(500))
    assert len(sessions) <= 1000


def test_a_session_expires_after_its_last_request_and_not_before_that_ends() -> None:
    (server,) = many(1).servers
    changes: list[int] = []
    sessions = LiveSessions(100, 10.0, lambda server, change: changes.append(change))
    running = sessions.started(b"a", server, 0.0)
    sessions.started(b"b", server, 11.0).ended(-1)
    assert sessions.find(b"a", 11.0) is running
    running.ended(-1)
    assert sessions.find(b"b", 20.9) is not None
    assert sessions.find(b"b", 21.0) is None
    sessions.started(b"c", server, 30.0)
    assert len(sessions) == 1
    assert sum(changes) == 1
