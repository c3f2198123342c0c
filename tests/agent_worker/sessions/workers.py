"""The workers of the machine: their knowledge, and how one is chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import precondition

from tests.support.agent.sessions import event

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.sessions import Event, Grant, Message
    from tests.agent_worker.sessions.asking import Asking

EFFECTS = ("once", "once", "read", "idempotent")
# Of a call that may run. The interesting ones are twice as likely.
FATES = ("is pending", "is pending", "is done", "has not run")
# Independent of the speed of the machine.
LEASE_S = 3600.0


@dataclass
class Call:
    """A tool call that a worker has to answer; its name is its effect."""

    key: str
    id: str
    name: str
    message: Message | None = None
    #: Of this worker, while it runs.
    attempt: str = ""

    @property
    def is_pending(self) -> bool:
        return bool(self.attempt) and self.message is None


@dataclass(eq=False)
class Worker:
    """A worker in a turn, as far as it knows."""

    grant: Grant
    version: int
    #: Messages in the history.
    length: int
    calls: list[Call] = field(default_factory=list)
    seq: int = 0
    said: list[Event] = field(default_factory=list)

    def __repr__(self) -> str:
        lease = self.grant.lease
        return f"<{lease.nonce}: {self.grant.outcome}, version {self.version}, {self.calls}>"

    @classmethod
    def of(cls, grant: Grant) -> Worker:
        worker = cls(grant, grant.version, grant.summary.stands_for + len(grant.history))
        worker.look_at(grant.history[-1])
        return worker

    def look_at(self, last: Message) -> None:
        """The calls of the last message, by place."""
        self.calls = [
            Call(f"{self.length - 1}.{place}", call["id"], call["name"])
            for place, call in enumerate(last.get("tool_calls", ()))
        ]

    def next_event(self, name: str) -> Event:
        self.seq += 1
        return event(self.grant, self.seq, name, content=f"{self.seq} ")


def workers(which: Callable[[Worker], bool] = lambda worker: True) -> st.SearchStrategy[Worker]:
    """One of the machine's; mostly one that holds its lease."""

    def of(machine: Asking) -> st.SearchStrategy[Worker]:
        fit = [worker for worker in machine.workers if which(worker)]
        holders = [worker for worker in fit if machine.is_holder(worker)]
        return st.sampled_from([*holders * 3, *fit])

    return st.runner().flatmap(of)


def any_worker(
    which: Callable[[Worker], bool] = lambda worker: True,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return precondition(lambda machine: any(map(which, machine.workers)))


def has_calls(worker: Worker) -> bool:
    return bool(worker.calls)


def has_no_calls(worker: Worker) -> bool:
    return not worker.calls


def has_pending_call(worker: Worker) -> bool:
    return any(call.is_pending for call in worker.calls)


def has_said(worker: Worker) -> bool:
    return bool(worker.said)


lost = st.booleans()
rarely = st.sampled_from([False, False, False, True])
some_calls = st.lists(
    st.tuples(st.sampled_from(EFFECTS), st.sampled_from([*FATES, "is not begun"])),
    min_size=1,
    max_size=2,
)
some_names = st.lists(
    st.sampled_from(["message.delta", "message.delta", "message.delta", "rewind", "error"]),
    max_size=4,
)
