"""`least_tokens` and `fair_queue`: expected work, and an order of the queue by it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing.expected_work import ExpectedWork, WorkOptions
from hermes_lb.balancing.fair_queue import MOST_IDLE, FairQueue
from hermes_lb.balancing.least_tokens import LeastTokens
from tests.support.pools import FakeRequest, FakeWaiter, make_pool
from tests.support.strategies import many

if TYPE_CHECKING:
    from hermes_lb.backends import Lease, Pool


def asks(client: str, length: int | None = 400, path: str = "/v1/chat") -> FakeRequest:
    line = b"" if length is None else b"Content-Length: %d\r\n" % length
    head = b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (path.encode(), line)
    return FakeRequest(client, request_head=head)


class TestExpectedWork:
    """Input by its length, output by the average of the session or the route."""

    def test_input_and_output(self) -> None:
        work = ExpectedWork(WorkOptions())
        cost = work.of(asks("a"))
        assert cost.tokens == 1 + 100 + 512  # 256 tokens of output are assumed, at 2 each
        for _ in range(60):
            work.learn(cost, 4000)
        assert work.of(asks("a")).tokens == pytest.approx(1 + 100 + 2000, abs=2)
        # A new session has its route's, another route what all have.
        assert work.of(asks("b")).tokens == pytest.approx(1 + 100 + 2000, abs=2)
        assert work.of(asks("b", path="/v2/x?y")).tokens == pytest.approx(2101, abs=2)

    @pytest.mark.parametrize("line", [b"content-length: 40", b"Content-Length:\t40"])
    def test_the_field_in_any_case(self, line: bytes) -> None:
        work = ExpectedWork(WorkOptions(output_weight=0.0))
        request = FakeRequest(request_head=b"POST / HTTP/1.1\r\n" + line + b"\r\n\r\n")
        assert work.of(request).tokens == 11
        # The body may follow the head, and is not searched.
        body = b"POST / HTTP/1.1\r\nHost: a\r\n\r\nx\r\n" + line + b"\r\n\r\n"
        assert ExpectedWork(WorkOptions()).of(FakeRequest(request_head=body)).input == 0

    def test_a_body_without_a_length_has_the_average(self) -> None:
        work = ExpectedWork(WorkOptions(output_weight=0.0))
        for _ in range(60):
            work.of(asks("a", 4000))
        assert work.of(asks("a", None)).input == pytest.approx(1000, abs=2)
        get = FakeRequest(request_head=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert work.of(get).input == 0

    def test_a_client_of_short_answers_is_not_free(self) -> None:
        work = ExpectedWork(WorkOptions(output_bytes=1.0, output_weight=1.0))
        cheap, usual = work.of(asks("cheap")), work.of(asks("usual"))
        for _ in range(50):
            work.learn(cheap, 0)
            for _ in range(9):
                work.learn(usual, 1000)
        assert work.of(asks("cheap")).tokens > 101 + 150

    @pytest.mark.parametrize("length", [0, 10**17, 999_999_999_999_999_999])
    def test_any_length_costs_a_bounded_number_of_tokens(self, length: int) -> None:
        cost = ExpectedWork(WorkOptions()).of(asks("a", length))
        assert 1 <= cost.tokens <= 1 + (1 << 24) + 512


def test_long_requests_are_spread_where_their_number_says_nothing() -> None:
    pool, strategy = many(2), LeastTokens()
    for length in (40_000, 400, 400, 400):
        server = strategy.pick(pool, asks("a", length), 0.0, Random(0))
        assert server is not None
        pool.lease(server, 0.0, asks("a", length))
    assert sorted(server.in_flight for server in pool.servers) == [1, 3]


@given(events=st.lists(st.tuples(st.integers(0, 20), st.sampled_from([-1, 0, 5000])), max_size=80))
def test_what_begins_ends(events: list[tuple[int, int]]) -> None:
    """Whatever ends, and however: no server keeps tokens of requests that are over."""
    pool, strategy = many(3), LeastTokens()
    running: list[Lease] = []
    for number, output in events:
        request = asks(str(number % 5), number * 1000)
        server = strategy.pick(pool, request, 0.0, Random(0))
        assert server is not None
        running.append(pool.lease(server, 0.0, request))
        if output:
            running.pop(number % len(running)).release(output)
        assert all((strategy.tokens(s) > 0) == (s.in_flight > 0) for s in pool.servers)
    for lease in running:
        lease.release()
    assert strategy._tokens == {}


class Waiter(FakeWaiter):
    """A request in the queue, of a client."""

    def __init__(self, client: str, length: int = 400, **options: Any) -> None:
        super().__init__(**options)
        self.client_address = client
        self.request_head = asks(client, length).request_head


class Queue:
    """One server that works on one request at a time, and clients that keep it busy."""

    def __init__(self, *weights: int) -> None:
        self.pool: Pool = make_pool(*[{"max_connections": 1} for _ in weights or (1,)])
        self.strategy = FairQueue(WorkOptions(output_weight=1.0, output_bytes=1.0))
        request = asks("first")
        server = self.strategy.pick(self.pool, request, 0.0, Random(0))
        assert server is not None
        self.lease = self.pool.lease(server, 0.0, request)
        self.waiters: list[Waiter] = []
        self.served: list[str] = []

    def ask(self, client: str, length: int = 400, **options: Any) -> Waiter:
        waiter = Waiter(client, length, **options)
        self.waiters.append(waiter)
        self.pool.wait(waiter)
        return waiter

    def serve(self, output: int = 100) -> str:
        """End the present request -> the client of the next one."""
        self.lease.release(output)
        (waiter,) = (one for one in self.waiters if one.leases)
        self.waiters.remove(waiter)
        self.lease = waiter.leases[0]
        self.served.append(waiter.client_address)
        return waiter.client_address


class TestFairQueue:
    """Tokens are shared, and not requests."""

    def test_a_client_with_a_hundred_requests_delays_another_by_one(self) -> None:
        queue = Queue()
        for _ in range(100):
            queue.ask("greedy")
        assert queue.serve() == "greedy"
        queue.ask("modest")  # it begins where the lowest of those that wait is, and is behind it
        assert (queue.serve(), queue.serve()) == ("greedy", "modest")

    def test_shares_are_of_tokens(self) -> None:
        queue = Queue()
        for _ in range(200):
            queue.ask("long", 40_000)
            queue.ask("short", 400)
        for _ in range(110):
            queue.serve()
        counts = Counter(queue.served)
        assert counts["short"] > 10 * counts["long"]

    def test_idle_time_is_no_credit(self) -> None:
        queue = Queue()
        for _ in range(60):
            queue.ask("busy")
        for _ in range(30):
            queue.serve()
        for _ in range(20):
            queue.ask("late")
        served = [queue.serve() for _ in range(20)]
        assert 8 <= served.count("late") <= 12

    def test_requests_that_are_cancelled_cost_what_was_expected(self) -> None:
        queue = Queue()
        for _ in range(40):
            queue.ask("cancels")
            queue.ask("waits")
        for _ in range(40):
            queue.serve(-1 if queue.served and queue.served[-1] == "cancels" else 256)
        assert abs(Counter(queue.served)["cancels"] - 20) <= 2

    def test_a_request_that_gives_up_leaves_nothing(self) -> None:
        queue = Queue()
        waiters = [queue.ask(f"c{number}") for number in range(20)]
        for waiter in waiters:
            queue.pool.leave(waiter)
        queue.lease.release()
        assert not queue.strategy._waiting
        assert not queue.strategy._active

    def test_of_requests_that_this_server_can_serve(self) -> None:
        queue = Queue(1, 1)
        server = queue.lease.server
        queue.ask("tried", tried=[server])
        waiter = queue.ask("can")
        for other in queue.pool.servers:
            if other is not server:
                other.set_up(False, "")
        assert queue.serve() == "can"
        assert waiter.server == server.name

    @given(
        arrivals=st.lists(
            st.tuples(st.integers(0, 4), st.integers(0, 4000), st.integers(-1, 500)), max_size=120
        )
    )
    def test_no_client_starves(self, arrivals: list[tuple[int, int, int]]) -> None:
        """While a client waits, each other one gets at most what the most expensive two requests
        cost more than it (VTC bounds the difference of two that are backlogged)."""
        queue = Queue()
        most = 1 + 1000 + 512
        for client in "abcde":
            queue.ask(client)
        for client, length, output in arrivals:
            queue.ask("abcde"[client], length)
            queue.serve(output)
            counters = [one.counter for one in queue.strategy._active.values() if one.waiting]
            if counters:
                assert max(counters) - min(counters) <= 2 * most
        while queue.waiters:
            queue.serve()
        queue.lease.release()
        assert not queue.strategy._active
        assert queue.pool.in_flight == 0

    def test_clients_that_are_gone_are_forgotten(self) -> None:
        pool, strategy = many(1), FairQueue()
        for number in range(MOST_IDLE + 500):
            request = asks(f"c{number}")
            server = strategy.pick(pool, request, 0.0, Random(0))
            assert server is not None
            pool.lease(server, 0.0, request).release(1)
        assert len(strategy._idle) == MOST_IDLE
        assert not strategy._active

    def test_a_strategy_that_comes_later_orders_those_that_wait(self) -> None:
        queue = Queue()
        for client in ("a", "a", "a", "b"):
            queue.ask(client)
        queue.strategy.detach(queue.pool)
        queue.strategy = FairQueue()
        queue.strategy.follow(queue.pool)
        assert [queue.serve() for _ in range(4)] == ["a", "b", "a", "a"]
