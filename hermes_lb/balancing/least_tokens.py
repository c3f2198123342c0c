"""The server with the least expected work in flight, in tokens, for its weight.

PreServe (arXiv 2504.03702, ICSE 2026) routes by the load that an instance will have, from a
prediction of each request's tokens by a model. Here the prediction is what a balancer knows without
one: the length of the input and running averages of outputs (`expected_work`). A request counts as
its whole expectation until it has ended. Costs two searches in the head, and a heap. Best where
lengths differ much and are foreseeable, by route or by session. Misleads where they are neither:
then it is `leastconn` with errors; and by cached prefixes, which cost a server next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.base import Tracker
from hermes_lb.balancing.expected_work import DEFAULTS, ExpectedWork, WorkOptions
from hermes_lb.balancing.explanation import Explanation
from hermes_lb.balancing.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.backends.pool import Ticket
    from hermes_lb.balancing.expected_work import Cost
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request


class LeastTokens(Tracker):
    """`balance = "least_tokens"`."""

    options = WorkOptions
    rule = (
        "the least expected tokens in flight for its weight, of equals the next by weight; "
        "expected: the input by its length, the output by the average of the session or the route"
    )

    def __init__(self, options: WorkOptions = DEFAULTS) -> None:
        self._work = ExpectedWork(options)
        self._tokens: dict[Server, int] = {}  # in flight
        self._ranking = Ranking(self._figure)

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        self.follow(pool)
        return self._ranking.least(pool, request.tried, now)

    def started(self, server: Server, request: Request, now: float) -> Ticket | None:
        cost = self._work.of(request)
        self._add(server, cost.tokens)
        return _Sent(self, server, cost)

    def ended(self, server: Server, cost: Cost, output: int) -> None:
        self._add(server, -cost.tokens)
        if output >= 0:
            self._work.learn(cost, output)

    def tokens(self, server: Server) -> int:
        """Expected in flight."""
        return self._tokens.get(server, 0)

    def _add(self, server: Server, tokens: int) -> None:
        self._tokens[server] = total = self._tokens.get(server, 0) + tokens
        if not total:
            del self._tokens[server]
        self._ranking.changed(server)

    def _figure(self, server: Server) -> float:
        return self._tokens.get(server, 0) / (server.weight or 1.0)

    def forget(self, server: Server) -> None:
        self._ranking.forget(server)

    def figure(self, server: Server, now: float) -> str:
        return f", tokens {self.tokens(server)}"

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        servers = self._ranking.in_order(view.pool, view.candidates)
        rows = [(server, self.figure(server, view.now)) for server in servers]
        fact = f"it is expected to cost {self._work.of(view.request).tokens:,} tokens"

        def explanation(picked: Server) -> Explanation:
            ties = sum(self._figure(s) == self._figure(picked) for s in servers)
            because = "has the least expected work for its weight"
            return Explanation(rows, because + (", and is next" if ties > 1 else ""), fact)

        return explanation


class _Sent:
    """The ticket of one lease."""

    __slots__ = ("_cost", "_server", "_strategy")

    def __init__(self, strategy: LeastTokens, server: Server, cost: Cost) -> None:
        self._strategy = strategy
        self._server = server
        self._cost = cost

    def ended(self, output: int) -> None:
        self._strategy.ended(self._server, self._cost, output)
