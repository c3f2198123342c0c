"""Asks the store and the model the same, and keeps what the store accepted."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis.stateful import RuleBasedStateMachine, initialize

from agent_worker.errors import AgentError
from agent_worker.sessions import Nothing, NotTaken, SessionStore, session_keys
from tests.agent_worker.sessions.model import MOST_WAITING, Model
from tests.agent_worker.sessions.workers import LEASE_S, Worker
from tests.support.agent.sessions import ME, OPERATIONS, everything, expiries

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from agent_worker.sessions import Client, Grant


class Asking(RuleBasedStateMachine):
    """One session at a time, by one who sees all of its keys."""

    def __init__(self, client: Client, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__()
        self.redis = client.raw
        self.store = SessionStore(client, lease_s=LEASE_S, max_waiting=MOST_WAITING)
        self.wait = wait
        self.count = itertools.count(1)
        self.foreign = itertools.cycle(OPERATIONS.items())

    @initialize()
    def create(self) -> None:
        self.sid = self.wait(self.store.create(ME, {}))
        self.model = Model(self.sid)
        self.workers: list[Worker] = []
        self.contents: dict[str, str] = {}
        # What the store accepted, as its callers know.
        self.grants: list[Grant] = []
        self.writers: list[int] = []
        self.writes = 0
        self.last_fence = 0
        self.accepted: set[str] = set()
        self.turns: list[int] = []
        self.effects: Counter[str] = Counter()
        self.released: set[str] = set()
        # Of the last commits: each again, and what it gave.
        self.committed: list[tuple[Callable[[], Coroutine[Any, Any, Any]], Any]] = []
        self.seen_ids: list[str] = []
        self.look()

    def teardown(self) -> None:
        self.wait(self.redis.delete(*session_keys(self.sid)))

    def is_holder(self, worker: Worker) -> bool:
        return worker.grant.lease == self.model.lease

    def ask(
        self,
        operation: Callable[[], Coroutine[Any, Any, Any]],
        is_lost: bool = False,
        *,
        may_end_turn: bool = False,
    ) -> Any:
        """What the store answers, or the class of its error; twice, if the reply is lost.

        `may_end_turn`: also by an answer that grants nothing.
        """
        answer = self.wait(answer_of(operation))
        after = self.wait(everything(self.redis, self.sid))
        is_refused = is_an_error(answer) or isinstance(answer, NotTaken)
        if is_refused and not (may_end_turn and self.fence_in(after) > self.fence_in(self.held)):
            assert after == self.held, "what was refused has changed nothing"
        if is_lost:
            assert self.wait(answer_of(operation)) == answer, "again, it gives what it gave"
            assert self.wait(everything(self.redis, self.sid)) == after, "and has no second effect"
        return answer

    @staticmethod
    def fence_in(held: dict[str, Any]) -> int:
        return int(held["meta"].get("fence", 0))

    def wrote(self, worker: Worker, answer: Any) -> bool:
        """Whether the write was accepted. Who wrote is kept; who is refused gives up."""
        if is_an_error(answer):
            self.workers.remove(worker)
            return False
        self.writers.append(worker.grant.lease.fence)
        return True

    def look(self) -> None:
        """What Redis holds now; before `read`, which prolongs the session's life."""
        self.held = self.wait(everything(self.redis, self.sid))
        self.times = self.wait(expiries(self.redis, self.sid))
        self.view = self.wait(self.store.read(self.sid, ME))


async def answer_of(operation: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The answer, or the class of the error; of one that has no fields, its class."""
    try:
        answer = await operation()
    except AgentError as error:
        return type(error)
    return Nothing if isinstance(answer, Nothing) else answer


def predicted(operation: Callable[[], object]) -> object:
    try:
        return operation()
    except AgentError as error:
        return type(error)


def is_an_error(answer: object) -> bool:
    return isinstance(answer, type) and issubclass(answer, AgentError)
