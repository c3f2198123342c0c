"""Asks both stores the same, and records what was accepted."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis.stateful import RuleBasedStateMachine, initialize

from agent_worker.errors import AgentError
from agent_worker.sessions import Nothing, NotTaken, SessionStore, session_keys
from tests.agent_worker.sessions.memory import HANDED, MemoryBackend, Session, nonce_of
from tests.agent_worker.sessions.workers import LEASE_S, Worker
from tests.support.agent.sessions import ME, OPERATIONS, everything, expiries, open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from agent_worker.sessions import Grant, RedisBackend

    Operation = Callable[[SessionStore], Awaitable[Any]]

MOST_WAITING = 3


class Asking(RuleBasedStateMachine):
    """One session at a time, whose owner sees all of its keys."""

    def __init__(
        self, client: RedisBackend, wait: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        super().__init__()
        self.redis = client.raw
        self.store = open_store(client, lease_s=LEASE_S, max_waiting=MOST_WAITING)
        self.wait = wait
        self.count = itertools.count(1)
        self.foreign = itertools.cycle(OPERATIONS.items())

    @initialize()
    def create(self) -> None:
        self.sid = self.wait(self.store.create(ME, {}))
        created = int(self.wait(everything(self.redis, self.sid))["meta"]["created"])
        # Only a new fence advances it: a fence is the time of its begin by Redis' clock.
        self.clock = created
        self.memory = MemoryBackend(lambda: self.clock)
        self.model = open_store(self.memory, lease_s=LEASE_S, max_waiting=MOST_WAITING)
        made = self.memory.sessions.pop(("hermes", self.wait(self.model.create(ME, {}))))
        made.sid = self.sid
        self.memory.sessions["hermes", self.sid] = made
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
        # Of the last commits: each again, and its answer.
        self.committed: list[tuple[Operation, Any]] = []
        self.seen_ids: list[str] = []
        self.look()

    def teardown(self) -> None:
        self.wait(self.redis.delete(*session_keys(self.sid)))

    @property
    def session(self) -> Session:
        """The session in the model."""
        return self.memory.sessions["hermes", self.sid]

    @property
    def lease(self) -> str:
        return self.session.holder(self.clock)

    @property
    def is_leased(self) -> bool:
        """Whether a worker holds the lease."""
        return bool(self.lease) and not nonce_of(self.lease).startswith(HANDED)

    def is_holder(self, worker: Worker) -> bool:
        return worker.grant.lease.value == self.lease

    def ask(
        self, operation: Operation, is_lost: bool = False, *, may_end_turn: bool = False
    ) -> Any:
        """The answer, or the class of its error; asked twice if the reply is lost.

        Both stores must answer the same. `may_end_turn`: also by an answer that grants nothing.
        """
        answer = self.wait(answer_of(operation, self.store))
        after = self.wait(everything(self.redis, self.sid))
        is_refused = is_an_error(answer) or isinstance(answer, NotTaken)
        if is_refused and not (may_end_turn and self.fence_in(after) > self.fence_in(self.held)):
            assert after == self.held, "a refusal changes nothing"
        if is_lost:
            assert self.wait(answer_of(operation, self.store)) == answer, "again, the same answer"
            assert self.wait(everything(self.redis, self.sid)) == after, "without a second effect"
        self.clock = max(self.clock, self.fence_in(after))
        assert self.wait(answer_of(operation, self.model)) == answer
        return answer

    @staticmethod
    def fence_in(held: dict[str, Any]) -> int:
        return int(held["meta"].get("fence", 0))

    def wrote(self, worker: Worker, answer: Any) -> bool:
        """Whether the write was accepted; the writer is recorded. A refused worker gives up."""
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


async def answer_of(operation: Operation, store: SessionStore) -> Any:
    """The answer, or the class of the error; of one that has no fields, its class."""
    try:
        answer = await operation(store)
    except AgentError as error:
        return type(error)
    return Nothing if isinstance(answer, Nothing) else answer


def is_an_error(answer: object) -> bool:
    return isinstance(answer, type) and issubclass(answer, AgentError)
