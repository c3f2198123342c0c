"""The rules of a step: operations of a worker that has a turn, or assumes so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from agent_worker.sessions import Part, Summary
from tests.agent_worker.sessions.asking import Asking
from tests.agent_worker.sessions.workers import (
    FATES,
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
from tests.support.agent.sessions import assistant, everything

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions import Event, Message, SessionStore


class Steps(Asking):
    """Commits, events and tool calls, under a lease that may have been lost."""

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

    def _commit(
        self,
        worker: Worker,
        messages: list[Message],
        is_lost: bool,
        events: Sequence[Event] = (),
        **options: Any,
    ) -> bool:
        """Whether it was accepted."""
        part = Part(messages, **options)
        lease, version, commit_id = worker.grant.lease, worker.version, f"c{next(self.count)}"

        async def commit(store: SessionStore) -> tuple[int, int, int]:
            return await store.commit(
                lease, part, expected_version=version, commit_id=commit_id, events=events
            )

        answer = self.ask(commit, is_lost)
        if not self.wrote(worker, answer):
            return False
        self.writes += 1
        self.committed = [*self.committed[-20:], (commit, answer)]
        worker.version, worker.length = answer[0], worker.length + len(messages)
        return True

    @precondition(lambda self: self.committed)
    @rule(
        which=st.runner().flatmap(lambda machine: st.integers(0, len(machine.committed) - 1)),
    )
    def a_commit_is_sent_again_late(self, which: int) -> None:
        """Its reply was lost; others may have had the session since."""
        commit, (version, step, _) = self.committed[which]
        assert self.ask(commit) == (version, step, len(self.session.inbox))
        assert self.wait(everything(self.redis, self.sid)) == self.held

    @any_worker(has_calls)
    @rule(worker=workers(has_calls), is_lost=lost)
    def commit_results(self, worker: Worker, is_lost: bool) -> None:
        self._commit_results(worker, is_lost)

    def _commit_results(self, worker: Worker, is_lost: bool) -> None:
        """The results of all calls of the step, if there are any; calls without one run before."""
        for call in worker.calls:
            if call.message is None and worker in self.workers:
                self._run_tool(worker, call, "hash", "is done", is_lost)
                self.look()
        messages = [call.message for call in worker.calls if call.message is not None]
        if messages and len(messages) == len(worker.calls) and worker in self.workers:
            settled = [call.key for call in worker.calls]
            if self._commit(worker, messages, is_lost, is_step=False, settled=settled):
                worker.calls = []

    @any_worker()
    @rule(worker=workers(), is_lost=lost)
    def renew(self, worker: Worker, is_lost: bool) -> None:
        answer = self.ask(lambda store: store.renew(worker.grant.lease), is_lost)
        self.wrote(worker, answer)

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
        answer = self.ask(lambda store: store.events.append(lease, events), is_lost)
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
        answer = self.ask(lambda store: store.tools.begin(*args), is_lost)
        if not self.wrote(worker, answer):
            return
        if answer.verdict != "RUN":
            call.message = answer.message or result_of(call, answer.verdict)
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
        args = (worker.grant.lease, call.key, attempt)
        message = result_of(call, f"of {attempt}") if is_done else None
        if message is not None:
            answer = self.ask(lambda store: store.tools.end(*args, message), is_lost)
        else:
            answer = self.ask(lambda store: store.tools.not_run(*args), is_lost)
        if self.wrote(worker, answer):
            call.message = message


def result_of(call: Call, content: str) -> Message:
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": content}
