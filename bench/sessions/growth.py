"""The cost of a turn in a conversation of 10 to 10,000 messages; it should not grow."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from agent_worker.sessions import Grant, Part, Summary, connect, new_nonce

if TYPE_CHECKING:
    from agent_worker.sessions import Message, SessionStore
    from bench.sessions.rig import Rig

_LENGTHS = (10, 100, 1_000, 10_000)
_TURNS = 200
# Behind the summary, as a window leaves them.
_IN_WINDOW = 10
_TEXT = "so much has been said already that one more sentence changes nothing at all " * 4
_OWNER = "bench"


async def measure(rig: Rig) -> dict[str, dict[str, float]]:
    client = connect(rig.server.url)
    store = client.session_store()
    rows = {}
    for length in _LENGTHS:
        session_id = await _session_of(store, length)
        times = []
        for _ in range(_TURNS):
            start = time.perf_counter()
            await _turn(store, session_id, [_message("assistant")])
            times.append(time.perf_counter() - start)
        rows[f"{length:,} messages"] = {
            "begin and commit, µs, median": statistics.median(times) * 1e6,
            "p99": statistics.quantiles(times, n=100)[98] * 1e6,
        }
    await client.aclose()
    return rows


async def _session_of(store: SessionStore, length: int) -> str:
    session_id = await store.create(_OWNER, {})
    answers = [_message("assistant")] * (length - 1)
    await _turn(store, session_id, answers, Summary("what was said", length - _IN_WINDOW))
    return session_id


async def _turn(
    store: SessionStore, session_id: str, answers: list[Message], summary: Summary | None = None
) -> None:
    grant = await store.begin(session_id, _OWNER, _message("user"), nonce=new_nonce())
    assert isinstance(grant, Grant)
    if summary is None and len(grant.history) > 2 * _IN_WINDOW:
        # As the agent loop does, when its window is full.
        summary = Summary("what was said", grant.turn_at + 1 - _IN_WINDOW)
    await store.commit(
        grant.lease,
        Part(answers, ends_turn=True, summary=summary),
        expected_version=grant.version,
        commit_id=new_nonce(),
    )


def _message(role: str) -> Message:
    return {"role": role, "content": _TEXT}  # type: ignore[typeddict-item]
