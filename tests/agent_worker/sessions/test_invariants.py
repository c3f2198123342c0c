"""The eight invariants of docs/sessions.md after each random operation (`machine`) on a Valkey.

They are checked without the model: by what the store itself has accepted, and Redis has stored.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck
from hypothesis.stateful import invariant, run_state_machine_as_test

from agent_worker.errors import SessionNotFound
from agent_worker.sessions import connect
from tests.agent_worker.sessions.asking import answer_of
from tests.agent_worker.sessions.machine import Sessions
from tests.support.agent.sessions import ME, YOU, everything
from tests.support.examples import examples
from tests.support.sse import event_order

if TYPE_CHECKING:
    from agent_worker.redis_server import RedisServer


HOUR_MS = 3600 * 1000


class Invariants(Sessions):
    """Those named `i_<number>` are the ones of docs/sessions.md; hypothesis runs them by name."""

    @invariant()
    def a_0_the_session_is_as_the_model_says(self) -> None:
        self.look()
        assert self.view == self.wait(self.model.read(self.sid, ME))
        for turn in self.session.turns[-2:]:
            of_turn, expected = (
                replace(self.wait(store.events.of_turn(self.sid, ME, str(turn), None)), silent_s=0)
                for store in (self.store, self.model)
            )
            assert of_turn == expected
        page, expected_page = (
            self.wait(store.events.page(self.sid, ME, None)) for store in (self.store, self.model)
        )
        assert page == expected_page
        assert not page.is_trimmed
        orphan, expected_orphan = (
            self.wait(store.index.look(self.sid)) for store in (self.store, self.model)
        )
        assert orphan == expected_orphan
        assert (page.turn, page.state) == (orphan.turn, orphan.state)
        assert len(self.held.get("ev", [])) == len(self.session.events)
        calls = {name for name in self.held.get("tools", ()) if not name.endswith(":result")}
        assert calls == self.session.tools.keys()

    @invariant()
    def i_1_at_most_one_fence_can_write(self) -> None:
        """1: after a fence was granted, no lower one writes; and none is granted twice."""
        assert self.writers == sorted(self.writers)
        fences = [grant.lease.fence for grant in self.grants]
        assert fences == sorted(set(fences))
        assert self.held["meta"]["fence"] == str(self.last_fence)
        assert not fences or self.last_fence >= fences[-1]

    @invariant()
    def i_2_the_version_grows_by_1_per_accepted_write(self) -> None:
        """2: a begin, a commit, a release; each counts once, even if it is repeated."""
        assert self.view.version == 1 + self.writes

    @invariant()
    def i_3_the_history_is_a_serial_concatenation_of_turns(self) -> None:
        """3: each has users' messages, then steps of that turn, with tool results in order."""
        messages = self.view.messages
        for start, end in itertools.pairwise([*self.turns, len(messages)]):
            steps = list(itertools.dropwhile(lambda m: m["role"] == "user", messages[start:end]))
            assert len(steps) < end - start, "somebody asked"
            asked: list[str] = []
            for message in steps:
                if message["role"] == "assistant":
                    assert not asked, "each call has its result before the next step"
                    assert message["content"].startswith(f"{start}: ")
                    asked = [call["id"] for call in message.get("tool_calls", ())]
                else:
                    assert message["tool_call_id"] == asked.pop(0)
            assert not asked or end == len(messages), "only the last turn has open calls"
        assert bool(self.turns) == bool(messages)

    @invariant()
    def i_4_every_accepted_message_is_there_exactly_once(self) -> None:
        """4: in the history, or queued."""
        asked = [m["content"] for m in self.view.messages if m["role"] == "user"]
        waiting = [json.loads(text)["content"] for text, _, _ in self.session.inbox]
        assert len(self.held.get("inbox", [])) == len(waiting)
        assert Counter(asked + waiting) == Counter(self.accepted)

    @invariant()
    def i_5_an_effect_of_class_once_happens_at_most_once(self) -> None:
        """5: independent of the number of workers that reach the call, and of when they die."""
        often = {call: times for call, times in self.effects.items() if times > 1}
        assert not [call for call in often if call.startswith("once ")]

    @invariant()
    def i_6_event_ids_strictly_increase(self) -> None:
        """6: known events stay, and new ones have greater ids."""
        ids = [entry for entry, _ in self.held.get("ev", [])]
        assert ids[: len(self.seen_ids)] == self.seen_ids
        order = list(map(event_order, ids))
        assert order == sorted(set(order))
        self.seen_ids = ids

    @invariant()
    def i_7_all_keys_expire_together(self) -> None:
        """7: except the lease, and the events while no turn runs."""
        times = dict(self.times)
        assert set(times) == set(self.held)
        session = times["meta"]
        assert session > 0
        assert 0 < times.pop("lease", 1) < session
        if self.session.status != "running":
            assert 0 < times.pop("ev", 1) <= session - 23 * HOUR_MS
        assert set(times.values()) == {session}

    @invariant()
    def i_8_no_operation_succeeds_for_another_principal(self) -> None:
        """8: even with a stolen lease. One operation after each step, in rotation."""
        _, operation = next(self.foreign)
        if self.grants:
            stolen = replace(self.grants[-1].lease, principal=YOU)
            answer = self.wait(answer_of(lambda store: operation(store, stolen), self.store))
            assert answer is SessionNotFound
            assert self.wait(everything(self.redis, self.sid)) == self.held


@pytest.mark.hypothesis
@pytest.mark.timeout(300)
def test_the_invariants_hold(redis_server: RedisServer) -> None:
    with asyncio.Runner() as runner:
        client = connect(redis_server.url)
        try:
            run_state_machine_as_test(
                lambda: Invariants(client, runner.run),
                settings=examples(
                    140, stateful_step_count=40, suppress_health_check=list(HealthCheck)
                ),
            )
        finally:
            runner.run(client.aclose())
