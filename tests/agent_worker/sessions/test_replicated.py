"""A `once` call runs only when its record is on as many replicas as the deployment asks for."""

from __future__ import annotations

from typing import Any, cast

import pytest

from agent_worker.sessions import Lease, new_session_id
from agent_worker.sessions.operations import Operations
from agent_worker.sessions.options import DEFAULT_OPTIONS
from agent_worker.sessions.tool_ledger import RedisToolLedger
from tests.support.agent.sessions import ME

LEASE = Lease(new_session_id(), ME, 1, "worker.nonce")


class FakeClient:
    """A Redis that says RUN to every script; `copies` replicas of the `wanted` ones have it."""

    def __init__(self, copies: int = 0, wanted: int = 0) -> None:
        self.copies = copies
        self.wanted = wanted
        self.asked: list[str] = []

    async def replicas_wanted(self, key: str) -> int:
        return self.wanted

    async def run(self, *call: Any) -> list[str]:
        self.asked.append("run")
        return ["RUN"]

    async def run_replicated(self, *call: Any) -> tuple[list[str], int]:
        self.asked.append("run_replicated")
        assert call[-1] == self.wanted
        return ["RUN"], self.copies


def operations(client: FakeClient) -> Operations:
    return Operations(cast("Any", client), DEFAULT_OPTIONS)


@pytest.mark.parametrize(
    ("copies", "wanted", "is_kept"),
    [(0, 0, True), (0, 1, False), (1, 1, True), (1, 2, False), (2, 2, True), (3, 2, True)],
)
async def test_so_many_replicas_have_to_have_it(copies: int, wanted: int, is_kept: bool) -> None:
    client = FakeClient(copies, wanted)
    reply = await operations(client).run_replicated("tool_begin", LEASE)
    assert reply == (["RUN"], is_kept)
    start = await RedisToolLedger(operations(client)).begin(LEASE, "1.0", "once", "hash", "attempt")
    assert start.verdict == ("RUN" if is_kept else "NOT_SAFE")


@pytest.mark.parametrize("effect", ["read", "idempotent"])
async def test_other_calls_wait_for_no_replica(effect: str) -> None:
    client = FakeClient(copies=0, wanted=1)
    start = await RedisToolLedger(operations(client)).begin(LEASE, "1.0", effect, "hash", "attempt")
    assert (start.verdict, client.asked) == ("RUN", ["run"])
