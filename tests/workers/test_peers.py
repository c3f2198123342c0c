"""Leases and queues of several workers, in random orders of events and interleavings."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hermes_lb.workers.layout import server_row
from tests.support.examples import examples
from tests.support.pools import make_pool
from tests.workers.interleaved import Interleaved
from tests.workers.several import Request, Several, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Make = Any  # of a `Several`
LIMITS = {"a": 1, "b": 2, "c": 0, "d": 1}


@pytest.fixture
def several() -> Iterator[Callable[..., Several]]:
    """Make some workers, closed at the end."""
    made: list[Several] = []

    def make(count: int, **servers: int) -> Several:
        made.append(Several(count, servers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def in_flight(worker: Worker) -> list[int]:
    return [server.in_flight for server in worker.pool.servers]


# Leases of the others.


def test_a_look_tells_of_the_others_leases(several: Make):
    first, second, third = several(3, a=0, b=0).workers
    lease = first.pool.lease(first.server("a"), 1.0)
    second.pool.lease(second.server("a"), 1.0)
    second.pool.lease(second.server("b"), 1.0)
    third.peers.look(force=True)
    assert in_flight(third) == [2, 1]
    assert third.pool.in_flight == 3
    lease.release()
    third.peers.look(force=True)
    assert in_flight(third) == [1, 1]
    assert third.pool.in_flight == 2


def test_looks_are_not_too_close_together(several: Make):
    pair = several(2, a=0)
    first, second = pair.workers
    second.pool.lease(second.server("a"), 1.0)
    first.peers.look()
    assert in_flight(first) == [0]
    pair.now += 1.0
    first.peers.look()
    assert in_flight(first) == [1]


def test_who_looks_learns_of_what_has_come_and_gone_between_two_looks(several: Make):
    pair = several(2, a=2)
    first, second = pair.workers
    lease = second.pool.lease(second.server("a"), 1.0)
    assert first.pool.claim(first.server("a"), 1.0) is not None  # it has looked: 1 + 1
    lease.release()  # now its knowledge of the others is that of the last `look` again
    pair.now += 1.0
    first.peers.look()
    assert in_flight(first) == [1]


def test_the_touched_servers_are_those_whose_load_has_changed_elsewhere(several: Make):
    first, second = several(2, a=0, b=0).workers
    first.pool.touched = set()
    second.pool.lease(second.server("b"), 1.0)
    first.peers.look(force=True)
    assert first.pool.touched == {first.server("b")}


def test_a_last_place_is_given_once(several: Make):
    first, second = several(2, a=1).workers
    assert first.pool.claim(first.server("a"), 1.0) is not None
    assert in_flight(second) == [0]  # it has not looked
    assert second.pool.claim(second.server("a"), 1.0) is None
    assert in_flight(second) == [1]
    assert [worker.region.loads[worker.row(worker.server("a"))] for worker in (first, second)] == [
        1,
        0,
    ]


# Free places.


def test_who_gives_back_a_place_rings_who_has_waited_longest(several: Make):
    trio = several(3, a=1)
    holder = trio.workers[0].asks()
    trio.now = 2.0
    early = trio.workers[2].asks()
    trio.now = 3.0
    late = trio.workers[1].asks()
    holder.ends()
    assert [worker.is_woken() for worker in trio.workers] == [False, False, True]
    assert early.lease is not None
    early.ends()
    assert [worker.is_woken() for worker in trio.workers] == [False, True, False]
    assert late.lease is not None


def test_a_request_here_gives_way_to_one_that_has_waited_longer_elsewhere(several: Make):
    pair = several(2, a=1)
    first, second = pair.workers
    holder = first.asks()
    pair.now = 2.0
    early = second.asks()
    pair.now = 3.0
    late = first.asks()
    holder.ends()
    assert late.waits
    pair.settle()
    assert early.lease is not None
    early.ends()
    pair.settle()
    assert late.lease is not None


def test_two_places_that_are_given_back_at_once_serve_two_workers(several: Make):
    trio = several(3, a=2)
    holders = [trio.workers[0].asks() for _ in range(2)]
    waiting = [worker.asks() for worker in trio.workers[1:]]
    for holder in holders:
        holder.ends()  # both wake the same worker, which passes the second wakeup on
    trio.settle()
    assert all(request.lease is not None for request in waiting)


def test_who_is_rung_and_needs_nothing_any_more_passes_it_on(several: Make):
    trio = several(3, a=1)
    holder = trio.workers[0].asks()
    trio.now = 2.0
    early = trio.workers[1].asks()
    trio.now = 3.0
    late = trio.workers[2].asks()
    holder.ends()
    early.gives_up()
    trio.settle()
    assert late.lease is not None


def test_requests_that_can_not_use_a_place_do_not_ring_each_other_for_ever(several: Make):
    pair = several(2, a=1, b=1)
    first, second = pair.workers
    holders = [first.asks(), first.asks()]
    waiting = [worker.asks(tried=["a"]) for worker in (first, second)]
    next(holder for holder in holders if holder.lease.server.name == "a").ends()
    pair.settle()
    assert all(request.waits for request in waiting)


def test_who_can_use_a_place_that_another_was_rung_for_has_it_after_the_next_tick(several: Make):
    pair = several(2, a=1, b=1)
    first, second = pair.workers
    holder, _ = first.asks("a"), first.asks("b")
    pair.now = 2.0
    second.asks(tried=["a"])
    pair.now = 3.0
    able = first.asks()
    holder.ends()
    pair.settle()
    assert able.waits
    pair.pass_time()
    assert able.lease is not None


def test_a_place_of_a_worker_that_died_is_found(several: Make):
    pair = several(2, a=1)
    pair.workers[0].asks()
    waiting = pair.workers[1].asks()
    pair.settle()
    pair.dies(0)
    pair.pass_time()
    assert waiting.lease is not None


def test_a_wakeup_that_was_lost_costs_a_tick(several: Make):
    pair = several(2, a=1)
    first, second = pair.workers
    holder, waiting = first.asks(), second.asks()
    holder.ends()
    assert second.is_woken(loses=True)
    pair.settle()
    assert waiting.waits
    pair.pass_time()
    assert waiting.lease is not None


def test_two_that_back_off_from_one_another_do_not_both_wait(several: Make):
    pair = several(2, a=1)
    first, second = pair.workers
    holder = first.asks()
    waiting = [first.asks(), second.asks()]
    # Both write their leases before either looks, so each sees the other as a holder.
    row = second.row(second.server("a"))
    second.region.loads[row] += 1
    holder.ends()
    second.region.loads[row] -= 1
    second.is_woken(loses=True)
    pair.pass_time()
    assert sum(request.lease is not None for request in waiting) == 1


def test_who_waits_in_one_backend_is_not_forgotten_by_what_happens_in_another():
    one = Several(2, {"a": 1})
    first, second = one.workers
    other = make_pool({"max_connections": 1})
    rows = {**one.layout.rows, "test": 20, server_row("test", other.servers[0]): 21}
    second.peers.set_rows({"agents": second.pool, "test": other}, rows)
    second.rows = rows
    holder, waiting = first.asks(), second.asks("a")
    noted = second.region.waiting[second.row(second.server("a"))]
    assert noted
    other.wait(stranger := Request(second, other.servers[0], ()))
    assert second.region.waiting[second.row(second.server("a"))] == noted
    assert second.region.waiting[21]
    other.leave(stranger)
    assert not second.region.waiting[21]
    holder.ends()
    one.settle()
    assert waiting.lease is not None
    one.close()


def test_who_waited_for_a_server_that_is_out_waits_for_any_by_its_old_time(several: Make):
    pair = several(2, a=1, b=1)
    first, second = pair.workers
    holders = [first.asks("a"), first.asks("b")]
    pinned = second.asks("a")
    pair.now = 2.0
    unpinned = first.asks()
    for worker in pair.workers:
        worker.server("a").set_up(False, "")
    pair.pass_time()
    holders[1].ends()
    pair.settle()
    assert unpinned.waits
    assert pinned.lease is not None
    assert pinned.lease.server.name == "b"


def test_the_others_know_at_once_for_whom_a_request_waits_whose_server_is_out(several: Make):
    pair = several(2, a=1, b=1)
    first, second = pair.workers
    holders = [first.asks("a"), first.asks("b")]
    pinned = second.asks("a")
    pinned.heir = second.server("b")
    a, b = (second.row(second.server(name)) for name in "ab")
    assert (second.region.waiting[a], second.region.waiting[b]) == (1.0, 0.0)
    pair.now = 2.0
    later = first.asks()
    for worker in pair.workers:
        worker.server("a").set_up(False, "")
    assert (second.region.waiting[a], second.region.waiting[b]) == (0.0, 1.0)
    holders[1].ends()
    pair.settle()
    assert later.waits
    assert pinned.lease is not None
    assert pinned.lease.server.name == "b"


# Reconfiguration.


def test_rows_of_what_is_gone_are_clear_though_somebody_waits_still(several: Make):
    pair = several(1, a=1, b=1)
    [worker] = pair.workers
    pool_row, a = worker.rows["agents"], worker.row(worker.server("a"))
    worker.asks("a")
    pinned, free = worker.asks("a"), worker.asks(tried=["b"])
    pinned.heir = worker.server("a")  # it stays
    assert pinned.waits
    assert free.waits
    pair.reload({"b": 1})
    worker.reconfigure()
    assert pinned.waits
    assert worker.region.waiting[a] == 0.0
    worker.peers.set_rows({}, {})
    assert worker.region.waiting[pool_row] == 0.0


def test_leases_on_servers_that_are_gone_are_each_workers_own(several: Make):
    pair = several(2, a=2, b=0)
    held = [worker.asks("a") for worker in pair.workers]
    row = pair.workers[0].row(held[0].lease.server)
    for names in ({"b": 0}, {"b": 0, "new": 0}):
        pair.reload(names)
        for worker in pair.workers:
            worker.reconfigure()
            assert worker.pool.in_flight == 1  # its own
    assert row in pair.layout.rows.values()
    for request in held:
        request.ends()
    pair.check_cells()
    assert [worker.pool.in_flight for worker in pair.workers] == [0, 0]


def test_a_backend_that_is_gone_becomes_quiet(several: Make):
    pair = several(2, a=1)
    first = pair.workers[0]
    held, waiting = first.asks(), first.asks()
    first.peers.set_rows({}, {})
    assert not any(region.loads[0] for region in pair.memory.regions)
    held.ends()
    assert waiting.lease is not None
    waiting.ends()
    assert first.pool.in_flight == 0
    pair.check_cells()


def test_what_others_hold_of_a_backend_that_is_gone_is_forgotten(several: Make):
    first, second = several(2, a=0).workers
    held = first.asks()
    second.asks()
    first.peers.look(force=True)
    assert first.pool.in_flight == 2
    first.peers.set_rows({}, {})
    assert first.pool.in_flight == 1
    held.ends()
    assert first.pool.in_flight == 0


def test_places_on_a_new_server_are_shared_from_the_first(several: Make):
    pair = several(2, a=1)
    pair.workers[0].asks()
    waiting = [worker.asks() for worker in pair.workers for _ in range(2)]
    pair.reload({"a": 1, "b": 2})
    for worker in pair.workers:
        worker.reconfigure()
        pair.check_limits()
        pair.check_cells()
    pair.settle()
    assert [request.lease is not None for request in waiting] == [True, True, False, False]
    pair.check_sums()


# Random orders.


@examples(80)
@given(
    limits=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    events=st.lists(
        st.tuples(st.sampled_from(["ask", "ask", "end"]), st.integers(0, 99)), max_size=30
    ),
)
def test_with_wakeups_that_arrive_the_queue_is_one_over_all_workers(
    limits: tuple[int, int], events: list[tuple[str, int]]
):
    """Compared with a plain model: a place goes to the first request that can use it."""
    trio = Several(3, {"a": limits[0], "b": limits[1]})
    free = {"a": limits[0], "b": limits[1]}
    queue: list[Request] = []
    for event, number in events:
        trio.now += 0.001
        holding = [r for r in trio.requests if r.lease is not None]
        if event == "ask":
            pinned = (None, None, "a", "b")[number % 4]
            request = trio.workers[number % 3].asks(pinned)
            assert request.waits == (not (free[pinned] if pinned else any(free.values())))
            if request.waits:
                queue.append(request)
            else:
                free[request.lease.server.name] -= 1  # type: ignore[union-attr]
        elif holding:
            request = holding[number % len(holding)]
            name = request.lease.server.name  # type: ignore[union-attr]
            request.ends()
            trio.settle()
            able = [r for r in queue if r.pinned_to is None or r.pinned_to.name == name]
            if able:
                queue.remove(able[0])
                assert able[0].lease is not None, (able, name)
                assert able[0].lease.server.name == name
            else:
                free[name] += 1
        assert all(r.waits for r in queue)
        trio.check_cells()
        trio.check_sums()
    trio.close()


# Interleavings.


def live(worker: Worker, script: str) -> Callable[[], None]:
    """`a`sk, `e`nd the first, `g`ive up, handle the wakeup (`b`), loop `t`urn, tick (`T`)."""

    def run() -> None:
        for event in script:
            mine = [r for r in worker.several.requests if r.worker is worker]
            running = [r for r in mine if r.lease is not None]
            waiting = [r for r in mine if r.waits]
            match event:
                case "a":
                    worker.asks()
                case "e" if running:
                    running[0].ends()
                case "g" if waiting:
                    waiting[0].gives_up()
                case "b":
                    worker.is_woken()
                case "t":
                    worker.loop.turn()
                case "T":
                    worker.tick()

    return run


def play_at_once(limit: int, scripts: list[str], order: Iterable[int]) -> Several:
    """Each worker holds what it can at the start; then they run interleaved."""
    several = Several(len(scripts), {"a": limit}, rows=3)
    for worker in several.workers:
        worker.asks()
    Interleaved(several, order).run(
        *(live(worker, script) for worker, script in zip(several.workers, scripts, strict=True))
    )
    several.check_limits()
    several.check_cells()
    return several


@pytest.mark.parametrize("scripts", [["eae", "ae"], ["ea", "ga"]])
def test_no_order_gives_a_last_place_to_two(scripts: list[str]):
    for order in product((0, 1), repeat=8):
        several = play_at_once(1, scripts, order)
        several.settle()
        several.check_nobody_waits_in_vain()
        several.close()


@examples(80)
@given(
    limit=st.integers(1, 2),
    scripts=st.lists(st.text("aaeegbtT", max_size=6), min_size=2, max_size=3),
    order=st.lists(st.integers(0, 2), max_size=80),
)
# The first sees the second's lease just before the second backs off and gives it back.
@example(1, ["eaae", "b"], [int(c) for c in "000000110110110011110111001010111111011"])
def test_whatever_happens_at_the_same_time_wakeups_find_everybody(
    limit: int, scripts: list[str], order: list[int]
):
    several = play_at_once(limit, scripts, order)
    several.settle()
    several.check_limits()
    several.check_cells()
    several.check_sums()
    several.check_nobody_waits_in_vain()
    several.close()


class Life(RuleBasedStateMachine):
    """Requests, wakeups, ticks, deaths and reloads of three workers, in any order."""

    requests = Bundle("requests")
    workers = st.integers(0, 2)

    @initialize(names=st.sets(st.sampled_from("abcd"), min_size=1))
    def start(self, names: set[str]) -> None:
        self.several = Several(3, {name: LIMITS[name] for name in sorted(names)})
        self.to_reconfigure: set[int] = set()

    @rule(target=requests, worker=workers, data=st.data())
    def asks(self, worker: int, data: st.DataObject) -> Request:
        names = [server.name for server in self.several.workers[worker].pool.servers]
        pinned = data.draw(st.none() | st.sampled_from(names))
        tried = data.draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
        return self.several.workers[worker].asks(pinned, () if pinned else tried)

    @rule(request=requests)
    def ends(self, request: Request) -> None:
        if request in self.several.requests:
            if request.waits:
                request.gives_up()
            else:
                request.ends()

    @rule(worker=workers, loses=st.booleans())
    def wakeup(self, worker: int, loses: bool) -> None:
        self.several.workers[worker].is_woken(loses=loses)

    @rule(worker=workers)
    def turn(self, worker: int) -> None:
        self.several.workers[worker].loop.turn()
        self.several.workers[worker].peers.look()

    @rule(worker=workers)
    def tick(self, worker: int) -> None:
        self.several.workers[worker].tick()

    @rule(seconds=st.sampled_from([0.001, 0.3, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.several.now += seconds

    @rule(worker=workers)
    def dies(self, worker: int) -> None:
        self.several.dies(worker)
        self.to_reconfigure.discard(worker)

    @precondition(lambda self: not self.to_reconfigure)
    @rule(names=st.sets(st.sampled_from("abcd"), min_size=1))
    def reload(self, names: set[str]) -> None:
        self.several.reload({name: LIMITS[name] for name in sorted(names)})
        self.to_reconfigure = {0, 1, 2}

    @precondition(lambda self: self.to_reconfigure)
    @rule(data=st.data())
    def reconfigure(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.to_reconfigure)))
        self.to_reconfigure.discard(worker)
        self.several.workers[worker].reconfigure()

    @invariant()
    def cells_are_right(self) -> None:
        if hasattr(self, "several"):
            self.several.check_limits()
            self.several.check_cells()

    def teardown(self) -> None:
        if not hasattr(self, "several"):
            return
        for worker in self.to_reconfigure:
            self.several.workers[worker].reconfigure()
        for _ in range(2):
            self.several.pass_time()
        self.several.check_limits()
        self.several.check_sums()
        self.several.check_nobody_waits_in_vain()
        for request in list(self.several.requests):
            if request.waits:
                request.gives_up()
            else:
                request.ends()
        self.several.check_cells()
        self.several.check_sums()
        self.several.close()


TestLife = Life.TestCase
TestLife.settings = examples(60, stateful_step_count=40)
