"""Calls of entry points -> transitions: the state before, the event, and the state after."""

from __future__ import annotations

from contextlib import ExitStack
from functools import wraps
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.phases import adapter
from tests.phases.recording import Recording, State, Transition

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.proxy.http1.client import ClientConnection
    from tests.phases.adapter import Entry, Look

#: The event of a change between two events: an entry point is missing in the adapter.
UNSEEN = "(unseen)"

_OVER = State("GONE", "-")


class Recorder:
    """Records while it is entered. `test`: the id of the test that runs.

    Of nested calls for one client only the outermost is an event. A call for another client within
    it is an event of that one.
    """

    def __init__(self) -> None:
        self.recording = Recording()
        self.test = ""
        self._inside: set[ClientConnection] = set()
        self._known: dict[ClientConnection, State] = {}
        self._rearmed: dict[ClientConnection, float] = {}  # the deadline that a sweep has set
        self._aborted: set[ClientConnection] = set()
        self._ends: dict[ClientConnection, list[str]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(adapter.named_timeouts())
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        owner, method = adapter.FINISH
        patch.setattr(owner, method, self._noting_end(getattr(owner, method)))
        for owner, method, client in adapter.ABORTS:
            patch.setattr(owner, method, self._noting_abort(getattr(owner, method), client))
        for entry in adapter.ENTRIES:
            wrapped = self._wrapped(entry, getattr(entry.owner, entry.method))
            patch.setattr(entry.owner, entry.method, wrapped)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin_test(self, test: str) -> None:
        self.test = test
        self.recording.tests.add(test)

    def _wrapped(self, entry: Entry, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(target: Any, *given: Any, **named: Any) -> Any:
            client = entry.client(target)
            if client is None or client in self._inside:
                return method(target, *given, **named)
            event = entry.event(target, *given)
            before, look = self._state(client), adapter.look_at(client)
            known = self._known.get(client, before)
            if known != before:
                self._record(Transition(known, UNSEEN, before, ""))
            self._inside.add(client)
            try:
                return method(target, *given, **named)
            except Exception as error:
                event += f" raises {type(error).__name__}"
                raise
            finally:
                self._inside.discard(client)
                if entry.method == "sweep":
                    self._swept(client, look)
                after = self._state(client)
                end = " ".join(self._ends.pop(client, []))
                is_news = before != after or end or event == "expired" or not entry.is_quiet
                if is_news:
                    self._record(Transition(before, event, after, end))
                self._remember(client, after)

        return call

    def _noting_end(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def finish(exchange: Any, termination: str, now: float) -> Any:
            self._ends.setdefault(exchange.client, []).append(termination)
            return method(exchange, termination, now)

        return finish

    def _noting_abort(
        self, method: Callable[..., Any], client_of: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        @wraps(method)
        def abort(target: Any, **named: Any) -> Any:
            self._aborted.add(client_of(target))
            return method(target, **named)

        return abort

    def _state(self, client: ClientConnection) -> State:
        look = adapter.look_at(client)
        if look.phase in ("NEW", "GONE"):
            return State(look.phase, "-")
        if client in self._aborted:
            return _OVER
        if look.saw_traffic:
            return State(look.phase, f"idle {look.idle}")
        if look.timeout == "none":
            return State(look.phase, "none")
        kind = "idle" if self._rearmed.get(client) == look.deadline else "absolute"
        return State(look.phase, f"{kind} {look.timeout}")

    def _swept(self, client: ClientConnection, before: Look) -> None:
        """Did the sweep move the deadline for traffic or progress, within one phase?"""
        after = adapter.look_at(client)
        is_progress = (
            before.is_writing_paused
            and after.phase == before.phase
            and after.deadline != before.deadline
            and after.timeout == before.idle
        )
        if before.saw_traffic or is_progress:
            self._rearmed[client] = after.deadline

    def _record(self, transition: Transition) -> None:
        self.recording.add(transition, self.test)

    def _remember(self, client: ClientConnection, state: State) -> None:
        if state == _OVER and adapter.look_at(client).phase == "GONE":
            self._known.pop(client, None)
            self._rearmed.pop(client, None)
            self._aborted.discard(client)
        else:
            self._known[client] = state
