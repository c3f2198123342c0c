"""Requests that wait are served by client: the one that has got the fewest tokens is next.

The virtual token counter (VTC; Sheng et al., "Fairness in Serving Large Language Models", OSDI
2024): each client (`hash_on`) has a counter of the tokens that it has got, those of input and,
weighted, those of output; of the clients that wait the one with the lowest counter is served. A
client that comes back is lifted to the lowest counter of those that wait, or to that of the last
one served: idle time is no credit for a burst. Tokens are expected ones (`expected_work`) from the
beginning of a request, and corrected at its end: the paper counts each as it is generated. A
request that its client cancels is not corrected: it costs what was expected.

Servers are picked by `leastconn`. The order only matters while requests wait, so servers need a
`max_connections`. Costs a look-up and, while requests wait, a heap. Best for several tenants, of
which one sends much more than its share. Misleads where a client can choose its key: each key has
a share. Each process of the balancer has counters and an order of its own; between processes, turns
go by arrival.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.balancing.base import Tracker
from hermes_lb.balancing.expected_work import DEFAULTS, ExpectedWork, WorkOptions
from hermes_lb.balancing.leastconn import LeastConn

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server, Waiter
    from hermes_lb.backends.pool import Ticket
    from hermes_lb.balancing.expected_work import Cost
    from hermes_lb.balancing.explanation import Explanation, View
    from hermes_lb.balancing.request import Request

    Entry = tuple[int, int, "_Client"]  # counter, serial, client

# Clients without a request whose counters are remembered; 400 bytes each.
MOST_IDLE: Final = 8192
_FEW: Final = 32


class _Client:
    """One client: its counter, and its requests that wait, in order of arrival."""

    __slots__ = ("counter", "entry", "key", "running", "waiting")

    def __init__(self, key: int) -> None:
        self.key = key
        self.counter = 0
        self.running = 0
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        self.entry: Entry | None = None  # the valid one in the heap


class FairQueue(Tracker):
    """`balance = "fair_queue"`."""

    options = WorkOptions
    rule = (
        "the fewest in flight for its weight, as leastconn; of the requests that wait, one of the "
        "client that has got the fewest tokens"
    )

    def __init__(self, options: WorkOptions = DEFAULTS) -> None:
        self._work = ExpectedWork(options)
        self._least = LeastConn()
        self._active: dict[int, _Client] = {}  # with a request that waits or runs
        self._idle: OrderedDict[int, _Client] = OrderedDict()
        self._waiting: dict[Waiter, _Client] = {}
        self._heap: list[Entry] = []
        self._serial = 0
        self._last = 0  # counter of the client that was served last

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        self.follow(pool)
        return self._least.pick(pool, request, now, rng)

    def started(self, server: Server, request: Request, now: float) -> Ticket | None:
        cost = self._work.of(request)
        client = self._client(cost.session)
        if not client.waiting:
            self._lift(client)
        client.running += 1
        self._last = client.counter
        self._charge(client, cost.tokens)
        return _Served(self, client, cost)

    def ended(self, client: _Client, cost: Cost, output: int) -> None:
        client.running -= 1
        if output >= 0:
            self._charge(client, self._work.learn(cost, output) - cost.tokens)
        self._rest(client)

    def joined(self, waiter: Waiter) -> None:
        request: Any = waiter
        client = self._client(hash(self._work.key(request)))
        if not client.waiting:
            self._lift(client)
        client.waiting[waiter] = None
        self._waiting[waiter] = client
        self._place(client)

    def left(self, waiter: Waiter) -> None:
        client = self._waiting.pop(waiter, None)
        if client is not None:
            del client.waiting[waiter]
            if not client.waiting:
                client.entry = None
            self._rest(client)

    def next_waiter(self, first: Waiter, accepts: Callable[[Waiter], bool]) -> Waiter:
        """In O(log clients) as long as servers differ in nothing; in O(waiters) at most."""
        heap = self._heap
        aside: list[Entry] = []
        found = first
        while heap:
            entry = heap[0]
            client = entry[2]
            if client.entry is not entry:
                heappop(heap)
                continue
            waiter = next(filter(accepts, client.waiting), None)
            if waiter is not None:
                found = waiter
                break
            aside.append(heappop(heap))
        for entry in aside:
            heappush(heap, entry)
        return found

    def detach(self, pool: Pool) -> None:
        self._least.detach(pool)
        super().detach(pool)

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        return self._least.explain(view)

    def _client(self, key: int) -> _Client:
        client = self._active.get(key)
        if client is None:
            client = self._idle.pop(key, None) or _Client(key)
            self._active[key] = client
        return client

    def _rest(self, client: _Client) -> None:
        if client.running or client.waiting or self._active.pop(client.key, None) is None:
            return
        self._idle[client.key] = client
        if len(self._idle) > MOST_IDLE:
            self._idle.popitem(last=False)

    def _lift(self, client: _Client) -> None:
        heap = self._heap
        while heap and heap[0][2].entry is not heap[0]:
            heappop(heap)
        client.counter = max(client.counter, heap[0][0] if heap else self._last)

    def _charge(self, client: _Client, tokens: int) -> None:
        client.counter += tokens
        if client.waiting:
            self._place(client)

    def _place(self, client: _Client) -> None:
        """Its place in the order; of equals the first to get there."""
        if client.entry is not None and client.entry[0] == client.counter:
            return
        self._serial += 1
        client.entry = entry = (client.counter, self._serial, client)
        heap = self._heap
        heappush(heap, entry)
        if len(heap) > 2 * len(self._active) + _FEW:
            heap[:] = [entry for entry in heap if entry[2].entry is entry]
            heapify(heap)


class _Served:
    """The ticket of one lease."""

    __slots__ = ("_client", "_cost", "_strategy")

    def __init__(self, strategy: FairQueue, client: _Client, cost: Cost) -> None:
        self._strategy = strategy
        self._client = client
        self._cost = cost

    def ended(self, output: int) -> None:
        self._strategy.ended(self._client, self._cost, output)
