"""Random operations of workers that die, pause and repeat themselves.

A worker has a lease, or assumes so: it continues after its lease has expired and was taken over (a
zombie), it forgets everything (a crash), and its operations are done twice (a reply was lost).
Each answer is compared with that of the store in memory. `test_invariants` adds the invariants.

`asking` asks both stores, `steps` has the rules of a step, and this module those of turns.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from agent_worker.errors import LeaseLost, SessionNotFound
from agent_worker.sessions import Grant, NotTaken, Queued
from tests.agent_worker.sessions.asking import answer_of
from tests.agent_worker.sessions.steps import Steps
from tests.agent_worker.sessions.workers import (
    LEASE_S,
    Worker,
    any_worker,
    has_no_calls,
    lost,
    rarely,
    some_calls,
    some_names,
    workers,
)
from tests.support.agent.sessions import ME, OPERATIONS, everything, lose_lease, user

if TYPE_CHECKING:
    from agent_worker.sessions import Message, SessionStore

# In place of the seconds, which differ.
_FOR_A_WHILE = 1.0


class Sessions(Steps):
    """One session at a time, and its operations."""

    @rule(
        has_key=st.sampled_from([True, True, False]),
        policy=st.sampled_from(["reject", "enqueue"]),
        is_silent=rarely,
        is_lost=lost,
    )
    def begin(self, has_key: bool, policy: str, is_silent: bool, is_lost: bool) -> None:
        number = next(self.count)
        key, content = f"k{number}" if has_key else "", f"message {number}"
        if has_key:
            self.contents[key] = content
        self._begin(user(content), key, policy, is_lost, is_silent=is_silent)

    @precondition(lambda self: self.contents)
    @rule(
        key=st.runner().flatmap(lambda machine: st.sampled_from(list(machine.contents)[::-1])),
        is_other=st.sampled_from([False, False, False, True]),
        policy=st.sampled_from(["reject", "enqueue"]),
        is_silent=rarely,
        is_lost=lost,
    )
    def begin_with_a_known_key(
        self, key: str, is_other: bool, policy: str, is_silent: bool, is_lost: bool
    ) -> None:
        content = f"message {next(self.count)}" if is_other else self.contents[key]
        self._begin(user(content), key, policy, is_lost, is_silent=is_silent)
        if content in self.accepted:  # the earlier content of this key was refused
            self.contents[key] = content

    @precondition(lambda self: self.session.status == "idle" and self.keys_of_turn)
    @rule(is_lost=lost)
    def the_answer_is_asked_for_again(self, is_lost: bool) -> None:
        key = self.keys_of_turn[-1]
        self._begin(user(self.contents[key]), key, "reject", is_lost)

    @precondition(lambda self: self.session.inbox)
    @rule(is_lost=lost)
    def take_what_waits(self, is_lost: bool) -> None:
        self._begin(None, "", "reject", is_lost)

    @precondition(lambda self: self.is_leased and self.keys_of_turn)
    @rule(
        key=st.runner().flatmap(lambda machine: st.sampled_from(machine.keys_of_turn)),
        last_words=some_names,
        goes_on=st.booleans(),
        is_lost=lost,
    )
    def another_takes_over(
        self, key: str, last_words: list[str], goes_on: bool, is_lost: bool
    ) -> None:
        """The client retries, since the worker does not answer; the worker continues later."""
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
        """Without the generated ones of messages without a key."""
        return [key for key in self.session.turn_keys if key in self.contents]

    def _begin(
        self,
        message: Message | None,
        key: str,
        policy: str,
        is_lost: bool,
        *,
        is_silent: bool = False,
    ) -> None:
        nonce = f"worker.{next(self.count)}"

        async def begin(store: SessionStore) -> Any:
            return await store.begin(
                self.sid,
                ME,
                message,
                nonce=nonce,
                idempotency_key=key or None,
                policy=policy,  # type: ignore[arg-type]
                silent_s=0 if is_silent else None,
            )

        answer = self.ask(begin, is_lost, may_end_turn=True)
        self._note_fence(answer)
        if isinstance(answer, Grant):
            self._took(answer)
            if answer.outcome != "RESUME":
                self.turns.append(answer.turn_at)
        is_kept = isinstance(answer, Queued) or getattr(answer, "outcome", "RESUME") != "RESUME"
        if message is not None and is_kept:
            self.accepted.add(message["content"])

    def _note_fence(self, answer: object) -> None:
        """Without a grant the fence is raised if the turn is given up."""
        fence = self.fence_in(self.wait(everything(self.redis, self.sid)))
        if fence != self.last_fence and not isinstance(answer, Grant):
            self.writes += 1
        self.last_fence = fence

    def _took(self, grant: Grant) -> None:
        self.grants.append(grant)
        self.writers.append(grant.lease.fence)
        self.writes += 1
        # The latest of the workers that do not know that they have lost the lease.
        self.workers = [*self.workers[-2:], Worker.of(grant)]

    @precondition(lambda self: self.session.turns)
    @rule(
        is_last=st.sampled_from([True, True, True, False]),
        is_silent=st.booleans(),
        is_lost=lost,
    )
    def who_follows_takes_the_turn_over(
        self, is_last: bool, is_silent: bool, is_lost: bool
    ) -> None:
        turn = str(self.session.turns[-1 if is_last else 0])
        nonce = f"worker.{next(self.count)}"

        async def take(store: SessionStore) -> Grant | NotTaken:
            silent_s = 0 if is_silent else LEASE_S
            taken = await store.take_over(self.sid, ME, turn, nonce=nonce, silent_s=silent_s)
            is_held = isinstance(taken, NotTaken) and taken.held_s is not None
            return NotTaken(_FOR_A_WHILE) if is_held else taken

        answer = self.ask(take, is_lost, may_end_turn=True)
        self._note_fence(answer)
        if isinstance(answer, Grant):
            self._took(answer)

    @precondition(lambda self: self.session.turns and self.session.status == "running")
    @rule(
        times=st.integers(2, 6),
        last_words=some_names,
        by_key=st.booleans(),
        is_left=st.booleans(),
        is_lost=lost,
    )
    def all_who_take_it_over_die(
        self, times: int, last_words: list[str], by_key: bool, is_left: bool, is_lost: bool
    ) -> None:
        """In the same place; the first one may make progress."""
        for number in range(times):
            if is_left and self.lease:
                self.the_lease_runs_out()
            self.look()
            if by_key and self.keys_of_turn:
                key = self.keys_of_turn[0]
                self._begin(user(self.contents[key]), key, "reject", is_lost, is_silent=True)
            else:
                self.who_follows_takes_the_turn_over(True, True, is_lost)
            if number == 0 and last_words and self.workers and self.is_holder(self.workers[-1]):
                self.look()
                self.say(self.workers[-1], last_words, is_lost)

    @any_worker()
    @rule(worker=workers(), is_lost=lost)
    def hand_over(self, worker: Worker, is_lost: bool) -> None:
        lease = worker.grant.lease
        answer = self.ask(lambda store: store.hand_over(lease, kept_s=LEASE_S), is_lost)
        if self.wrote(worker, answer) and lease.nonce not in self.released:
            self.released.add(lease.nonce)
            self.writes += 1

    @precondition(lambda self: self.keys_of_turn)
    @any_worker(has_no_calls)
    @rule(worker=workers(has_no_calls), calls=some_calls, is_lost=lost)
    def tools_outlive_their_worker(
        self, worker: Worker, calls: list[tuple[str, str]], is_lost: bool
    ) -> None:
        self.ask_for_tools(worker, calls, is_lost)
        if self.is_holder(worker):
            self.another_takes_over(self.keys_of_turn[0], [], goes_on=True, is_lost=is_lost)

    @any_worker()
    @rule(worker=workers(), is_lost=lost)
    def release(self, worker: Worker, is_lost: bool) -> None:
        nonce = worker.grant.lease.nonce
        answer = self.ask(lambda store: store.release(self.sid, ME, nonce), is_lost)
        if answer is not None and nonce not in self.released:
            self.released.add(nonce)
            self.wrote(worker, answer)
            self.writes += 1

    @precondition(lambda self: self.lease)
    @rule(is_lost=lost)
    def interrupt(self, is_lost: bool) -> None:
        async def is_asked(store: SessionStore) -> bool:
            return await store.interrupt(self.sid, ME) is not None

        assert self.ask(is_asked, is_lost)

    @any_worker()
    @rule(worker=workers(), is_over=st.booleans())
    def crash(self, worker: Worker, is_over: bool) -> None:
        """It forgets everything; its lease expires now, or later."""
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
            assert LeaseLost is self.ask(
                lambda store: store.begin(self.sid, ME, late, nonce=nonce), is_lost
            )

    @precondition(lambda self: self.lease)
    @rule()
    def the_lease_runs_out(self) -> None:
        for backend in (self.redis, self.memory):
            self.wait(lose_lease(backend, self.sid))

    @precondition(lambda self: len(self.session.messages) > 12)
    @rule()
    def delete(self) -> None:
        """No operation restores it. Then another session begins."""
        self.wait(self.store.delete(self.sid, ME))
        tombstone = self.wait(everything(self.redis, self.sid))
        assert set(tombstone) == {"meta"}
        lease = self.grants[-1].lease
        for operation in OPERATIONS.values():
            late = partial(operation, lease=lease)
            assert self.wait(answer_of(late, self.store)) is SessionNotFound
        assert self.wait(everything(self.redis, self.sid)) == tombstone
        self.teardown()
        self.create()
