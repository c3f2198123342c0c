"""Sessions under random operations of workers that die, pause and repeat themselves.

A worker has a lease, or believes so: it goes on after its lease ran out and others took over (a
zombie), it forgets everything (a crash), and what it sends is done twice (its reply was lost).
Each answer is compared with the plain-Python model's. `test_invariants` adds what must hold.
"""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from agent_worker.errors import AgentError, LeaseLost, SessionNotFound
from agent_worker.sessions import (
    Grant,
    Nothing,
    NotTaken,
    Queued,
    SessionStore,
    Summary,
    session_keys,
)
from tests.agent_worker.sessions.model import FOR_A_WHILE, MOST_WAITING, Model, tool_message
from tests.agent_worker.sessions.support import (
    ME,
    OPERATIONS,
    assistant,
    everything,
    expiries,
    lose_lease,
    user,
)
from tests.agent_worker.sessions.workers import (
    FATES,
    LEASE_S,
    Call,
    Worker,
    any_worker,
    has_calls,
    has_no_calls,
    has_pending_call,
    has_said,
    lost,
    some_calls,
    some_names,
    workers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from agent_worker.sessions import Client, Event, Message


class Sessions(RuleBasedStateMachine):
    """One session at a time, and all that happens to it."""

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
        self.accepted: set[str] = set()
        self.turns: list[int] = []
        self.effects: Counter[str] = Counter()
        self.released: set[str] = set()
        self.seen_ids: list[str] = []
        self.look()

    def teardown(self) -> None:
        self.wait(self.redis.delete(*session_keys(self.sid)))

    # Doing things.

    def is_holder(self, worker: Worker) -> bool:
        return worker.grant.lease == self.model.lease

    def ask(self, operation: Callable[[], Coroutine[Any, Any, Any]], is_lost: bool = False) -> Any:
        """What the store answers, or the class of its error; twice, if the reply is lost."""
        answer = self.wait(answer_of(operation))
        after = self.wait(everything(self.redis, self.sid))
        if is_an_error(answer) or isinstance(answer, NotTaken):
            assert after == self.held, "what was refused has changed nothing"
        if is_lost:
            assert self.wait(answer_of(operation)) == answer, "again, it gives what it gave"
            assert self.wait(everything(self.redis, self.sid)) == after, "and has no second effect"
        return answer

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

    # Turns.

    @rule(
        has_key=st.sampled_from([True, True, False]),
        policy=st.sampled_from(["reject", "enqueue"]),
        is_lost=lost,
    )
    def begin(self, has_key: bool, policy: str, is_lost: bool) -> None:
        number = next(self.count)
        key, content = f"k{number}" if has_key else "", f"message {number}"
        if has_key:
            self.contents[key] = content
        self._begin(user(content), key, policy, is_lost)

    @precondition(lambda self: self.contents)
    @rule(
        key=st.runner().flatmap(lambda machine: st.sampled_from(list(machine.contents)[::-1])),
        is_other=st.sampled_from([False, False, False, True]),
        policy=st.sampled_from(["reject", "enqueue"]),
        is_lost=lost,
    )
    def begin_with_a_known_key(self, key: str, is_other: bool, policy: str, is_lost: bool) -> None:
        content = f"message {next(self.count)}" if is_other else self.contents[key]
        self._begin(user(content), key, policy, is_lost)
        if content in self.accepted:  # what came with this key before was not
            self.contents[key] = content

    @precondition(lambda self: self.model.state == "idle" and self.keys_of_turn)
    @rule(is_lost=lost)
    def the_answer_is_asked_for_again(self, is_lost: bool) -> None:
        key = self.keys_of_turn[-1]
        self._begin(user(self.contents[key]), key, "reject", is_lost)

    @precondition(lambda self: self.model.inbox)
    @rule(is_lost=lost)
    def take_what_waits(self, is_lost: bool) -> None:
        self._begin(None, "", "reject", is_lost)

    @precondition(lambda self: self.model.lease and self.keys_of_turn)
    @rule(
        key=st.runner().flatmap(lambda machine: st.sampled_from(machine.keys_of_turn)),
        last_words=some_names,
        goes_on=st.booleans(),
        is_lost=lost,
    )
    def another_takes_over(
        self, key: str, last_words: list[str], goes_on: bool, is_lost: bool
    ) -> None:
        """The client asks again, since the worker does not answer; that one goes on later."""
        for worker in list(filter(self.is_holder, self.workers)):
            self.say(worker, last_words, is_lost)
        self.the_lease_runs_out()
        self.look()
        self._begin(user(self.contents[key]), key, "reject", is_lost)
        if goes_on:
            self.look()
            self._commit_results(self.workers[-1], is_lost)

    @property
    def keys_of_turn(self) -> list[str]:
        """But for those of messages that came without one."""
        return [key for key in self.model.of_turn if key in self.contents]

    def _begin(self, message: Message | None, key: str, policy: str, is_lost: bool) -> None:
        nonce = f"worker.{next(self.count)}"
        answer = self.ask(
            lambda: self.store.begin(
                self.sid, ME, message, nonce=nonce, idempotency_key=key or None, policy=policy
            ),
            is_lost,
        )
        fence = answer.lease.fence if isinstance(answer, Grant) else 0
        assert answer == predicted(lambda: self.model.begin(nonce, message, key, policy, fence))
        if isinstance(answer, Grant):
            self._took(answer)
            if answer.outcome != "RESUME":
                self.turns.append(answer.turn_at)
        is_kept = isinstance(answer, Queued) or getattr(answer, "outcome", "RESUME") != "RESUME"
        if message is not None and is_kept:
            self.accepted.add(message["content"])

    def _took(self, grant: Grant) -> None:
        self.grants.append(grant)
        self.writers.append(grant.lease.fence)
        self.writes += 1
        # Of those that go on without knowing that they lost, the latest.
        self.workers = [*self.workers[-2:], Worker.of(grant)]

    @precondition(lambda self: self.model.begins)
    @rule(
        is_last=st.sampled_from([True, True, True, False]),
        is_silent=st.booleans(),
        is_lost=lost,
    )
    def who_follows_takes_the_turn_over(
        self, is_last: bool, is_silent: bool, is_lost: bool
    ) -> None:
        turn = list(self.model.begins)[-1 if is_last else 0].partition("-")[0]
        nonce = f"worker.{next(self.count)}"

        async def take() -> Grant | NotTaken:
            silent_s = 0 if is_silent else LEASE_S
            taken = await self.store.take_over(self.sid, ME, turn, nonce=nonce, silent_s=silent_s)
            is_held = isinstance(taken, NotTaken) and taken.held_s is not None
            return NotTaken(FOR_A_WHILE) if is_held else taken

        answer = self.ask(take, is_lost)
        fence = answer.lease.fence if isinstance(answer, Grant) else 0
        assert answer == self.model.take_over(turn, nonce, fence, is_silent=is_silent)
        if isinstance(answer, Grant):
            self._took(answer)

    @any_worker()
    @rule(worker=workers(), is_lost=lost)
    def hand_over(self, worker: Worker, is_lost: bool) -> None:
        lease = worker.grant.lease
        answer = self.ask(lambda: self.store.hand_over(lease, kept_s=LEASE_S), is_lost)
        assert answer == predicted(lambda: self.model.hand_over(lease))
        if self.wrote(worker, answer) and lease.nonce not in self.released:
            self.released.add(lease.nonce)
            self.writes += 1

    @any_worker(has_no_calls)
    @rule(
        worker=workers(has_no_calls),
        kind=st.sampled_from(["step", "step", "end", "sum up"]),
        speaks=st.booleans(),
        is_lost=lost,
    )
    def commit(self, worker: Worker, kind: str, speaks: bool, is_lost: bool) -> None:
        """A step without tools; perhaps the last one of the turn."""
        summary = Summary("so far", worker.grant.turn_at) if kind == "sum up" else None
        self._commit(
            worker,
            [assistant(f"{worker.grant.turn_at}: step {next(self.count)} ")],
            is_lost,
            ends_turn=kind == "end",
            summary=summary,
            events=[worker.next_event("message.delta"), worker.next_event("done")]
            if speaks
            else [],
        )

    @any_worker(has_no_calls)
    @rule(worker=workers(has_no_calls), calls=some_calls, is_lost=lost)
    def ask_for_tools(self, worker: Worker, calls: list[tuple[str, str]], is_lost: bool) -> None:
        turn_at, number = worker.grant.turn_at, next(self.count)
        message = assistant(f"{turn_at}: step {number}")
        message["tool_calls"] = [
            {"id": f"{turn_at}: call {number}.{place}", "name": effect, "arguments": {}}
            for place, (effect, _) in enumerate(calls)
        ]
        if self._commit(worker, [message], is_lost):
            worker.look_at(message)
            for call, (_, fate) in zip(worker.calls, calls, strict=True):
                if fate != "is not begun":
                    self.look()
                    self._run_tool(worker, call, "hash", fate, is_lost)

    @precondition(lambda self: self.keys_of_turn)
    @any_worker(has_no_calls)
    @rule(worker=workers(has_no_calls), calls=some_calls, is_lost=lost)
    def tools_outlive_their_worker(
        self, worker: Worker, calls: list[tuple[str, str]], is_lost: bool
    ) -> None:
        self.ask_for_tools(worker, calls, is_lost)
        if self.is_holder(worker):
            self.another_takes_over(self.keys_of_turn[0], [], goes_on=True, is_lost=is_lost)

    def _commit(
        self, worker: Worker, messages: list[Message], is_lost: bool, **options: Any
    ) -> bool:
        """Whether it was accepted."""
        lease, version, commit_id = worker.grant.lease, worker.version, f"c{next(self.count)}"
        answer = self.ask(
            lambda: self.store.commit(
                lease, expected_version=version, commit_id=commit_id, messages=messages, **options
            ),
            is_lost,
        )
        assert answer == predicted(lambda: self.model.commit(lease, version, messages, **options))
        if not self.wrote(worker, answer):
            return False
        self.writes += 1
        worker.version, worker.length = answer[0], worker.length + len(messages)
        return True

    @any_worker()
    @rule(worker=workers(), is_lost=lost)
    def renew(self, worker: Worker, is_lost: bool) -> None:
        lease = worker.grant.lease
        answer = self.ask(lambda: self.store.renew(lease), is_lost)
        assert answer == predicted(lambda: self.model.renew(lease))
        self.wrote(worker, answer)

    @any_worker()
    @rule(worker=workers(), is_lost=lost)
    def release(self, worker: Worker, is_lost: bool) -> None:
        nonce = worker.grant.lease.nonce
        answer = self.ask(lambda: self.store.release(self.sid, ME, nonce), is_lost)
        assert answer == self.model.release(nonce)
        if answer is not None and nonce not in self.released:
            self.released.add(nonce)
            self.wrote(worker, answer)
            self.writes += 1

    @precondition(lambda self: self.model.is_held)
    @rule(is_lost=lost)
    def interrupt(self, is_lost: bool) -> None:
        async def is_asked() -> bool:
            return await self.store.interrupt(self.sid, ME) is not None

        assert self.ask(is_asked, is_lost) == self.model.interrupt()

    @any_worker()
    @rule(worker=workers(), is_over=st.booleans())
    def crash(self, worker: Worker, is_over: bool) -> None:
        """It forgets everything; its lease runs out now, or later."""
        if is_over and self.is_holder(worker):
            self.the_lease_runs_out()
        self.workers.remove(worker)

    @any_worker()
    @rule(worker=workers(), is_lost=lost)
    def ask_late_for_a_turn_that_was(self, worker: Worker, is_lost: bool) -> None:
        """It was paused before it saw its grant."""
        if not self.is_holder(worker):
            nonce = worker.grant.lease.nonce
            late = user(f"message {next(self.count)}")
            begin = partial(self.store.begin, self.sid, ME, late, nonce=nonce)
            assert self.ask(begin, is_lost) is LeaseLost

    @precondition(lambda self: self.model.is_held)
    @rule()
    def the_lease_runs_out(self) -> None:
        self.wait(lose_lease(self.redis, self.sid))
        self.model.lease = self.model.handed = None

    # Events and tools.

    @any_worker()
    @rule(
        worker=workers(),
        names=some_names,
        is_lost=lost,
    )
    def say(self, worker: Worker, names: list[str], is_lost: bool) -> None:
        events = [worker.next_event(name) for name in names]
        self._append(worker, events, is_lost)
        worker.said = worker.said or events

    @any_worker(has_said)
    @rule(worker=workers(has_said), is_lost=lost)
    def say_the_same_again(self, worker: Worker, is_lost: bool) -> None:
        self._append(worker, worker.said, is_lost)

    def _append(self, worker: Worker, events: list[Event], is_lost: bool) -> None:
        lease = worker.grant.lease
        answer = self.ask(lambda: self.store.events.append(lease, events), is_lost)
        assert answer == predicted(lambda: self.model.append(lease, events))
        self.wrote(worker, answer)

    @any_worker(has_calls)
    @rule(
        worker=workers(has_calls),
        place=st.integers(0, 1),
        digest=st.sampled_from(["hash", "hash", "another"]),
        fate=st.sampled_from(FATES),
        is_lost=lost,
    )
    def run_tool(self, worker: Worker, place: int, digest: str, fate: str, is_lost: bool) -> None:
        call = worker.calls[place % len(worker.calls)]
        self._run_tool(worker, call, digest, fate, is_lost)

    def _run_tool(self, worker: Worker, call: Call, digest: str, fate: str, is_lost: bool) -> None:
        lease, attempt = worker.grant.lease, f"attempt {next(self.count)}"
        args = (lease, call.key, call.name, digest, attempt)
        answer = self.ask(lambda: self.store.tools.begin(*args), is_lost)
        assert answer == predicted(lambda: self.model.tool_begin(*args))
        if not self.wrote(worker, answer):
            return
        if answer.verdict != "RUN":
            call.message = answer.message or tool_message(call.id, call.name, answer.verdict)
            return
        if fate != "has not run":
            self.effects[f"{call.name} {call.id}"] += 1
        if fate == "is pending":
            call.attempt = attempt
        else:
            self._end_tool(worker, call, attempt, fate == "is done", is_lost)

    @any_worker(has_pending_call)
    @rule(worker=workers(has_pending_call), is_lost=lost)
    def a_tool_ends_at_last(self, worker: Worker, is_lost: bool) -> None:
        [call, *_] = [call for call in worker.calls if call.is_pending]
        self._end_tool(worker, call, call.attempt, True, is_lost)

    def _end_tool(
        self, worker: Worker, call: Call, attempt: str, is_done: bool, is_lost: bool
    ) -> None:
        self.look()
        lease, tools = worker.grant.lease, self.store.tools
        message = tool_message(call.id, call.name, f"of {attempt}") if is_done else None
        if message is not None:
            answer = self.ask(lambda: tools.end(lease, call.key, attempt, message), is_lost)
        else:
            answer = self.ask(lambda: tools.not_run(lease, call.key, attempt), is_lost)
        assert answer == predicted(lambda: self.model.tool_end(lease, call.key, attempt, message))
        if self.wrote(worker, answer):
            call.message = message

    @any_worker(has_calls)
    @rule(worker=workers(has_calls), is_lost=lost)
    def commit_results(self, worker: Worker, is_lost: bool) -> None:
        self._commit_results(worker, is_lost)

    def _commit_results(self, worker: Worker, is_lost: bool) -> None:
        """Of all calls of the step, if there are any; what has none yet runs before."""
        for call in worker.calls:
            if call.message is None and worker in self.workers:
                self._run_tool(worker, call, "hash", "is done", is_lost)
                self.look()
        messages = [call.message for call in worker.calls if call.message is not None]
        if messages and len(messages) == len(worker.calls) and worker in self.workers:
            settled = [call.key for call in worker.calls]
            if self._commit(worker, messages, is_lost, is_step=False, settled=settled):
                worker.calls = []

    # The end.

    @precondition(lambda self: len(self.model.history) > 12)
    @rule()
    def delete(self) -> None:
        """Nothing brings it back: not its workers, nor anybody else. Then another one begins."""
        self.wait(self.store.delete(self.sid, ME))
        tombstone = self.wait(everything(self.redis, self.sid))
        assert set(tombstone) == {"meta"}
        for operation in OPERATIONS.values():
            answer = self.wait(answer_of(partial(operation, self.store, self.grants[-1].lease)))
            assert answer is SessionNotFound
        assert self.wait(everything(self.redis, self.sid)) == tombstone
        self.teardown()
        self.create()


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
