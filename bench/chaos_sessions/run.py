"""One run: workers, clients and faults for a while; then calm; then everything is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_worker.sessions.keys import session_keys
from agent_worker.tasks import cancel_and_wait, spawn
from bench.chaos.waiting import NeverCame, until
from bench.chaos_sessions.audit import Audit
from bench.chaos_sessions.backends import look
from bench.chaos_sessions.clients import Client, Crowd, Session, bearer, follow, intrude
from bench.chaos_sessions.faults import Faults
from bench.chaos_sessions.fleet import Worker, WorkerOptions
from bench.chaos_sessions.history import (
    check_expiries,
    check_history,
    check_mails,
    check_messages,
    check_results,
)
from bench.chaos_sessions.reading import check_followed
from bench.chaos_sessions.resuming import check_stream
from bench.chaos_sessions.tally import Tally
from bench.chaos_sessions.witness import Witness, expiries_of, known_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.chaos_sessions.backends import Backend

# Seconds in which all that was begun must be settled, once there are no more faults.
_SETTLE_S = 40.0
_CLIENTS_OF_A_SESSION = 3
# Of each client, before the conversation ends and another one begins.
_MESSAGES = (6, 25)
# Shares of the conversations: that end by deletion, and that one client has for itself.
_DELETED, _QUIET = 0.3, 0.4


@dataclass(frozen=True)
class Plan:
    backend: Callable[[], Backend]
    seconds: float
    seed: int
    workers: int = 3
    sessions: int = 8
    lease_s: float = 1.0
    token_interval_s: float = 0.02


class Run:
    """A context manager. `rush`, then `settle`, then `judge`; `dump` says what a session was."""

    def __init__(self, plan: Plan, folder: Path, progress: Callable[[str], None]) -> None:
        self.tally = Tally()
        self.audit = Audit(self.tally)
        self._plan = plan
        self._folder = folder
        self._progress = progress
        self._rng = random.Random(plan.seed)
        self._mails = folder / "mails.jsonl"
        self._undo = AsyncExitStack()
        self.backend: Backend
        self.crowd: Crowd
        self._witness: Witness
        self._workers: list[Worker] = []
        self._followers: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Run:
        async with AsyncExitStack() as undo:
            self.backend = await undo.enter_async_context(self._plan.backend())
            self._witness = await undo.enter_async_context(Witness(self.backend, self.audit))
            for number in range(self._plan.workers):
                options = self._worker_options(number)
                self._workers.append(Worker(f"worker-{number}", options, self._folder))
                undo.callback(self._workers[-1].end)
            await asyncio.gather(*(worker.start() for worker in self._workers))
            self.crowd = Crowd(self._workers, self.tally, self._rng)
            undo.push_async_callback(self.crowd.http.close)
            undo.push_async_callback(self._end_followers)
            self._undo = undo.pop_all()
        return self

    async def __aexit__(self, *reason: Any) -> None:
        await self._undo.__aexit__(*reason)

    async def rush(self) -> None:
        """Faults and conversations, for as long as the plan says; then all is calm."""
        rng = random.Random(f"faults {self._plan.seed}")
        faults = Faults(
            self._workers,
            self.backend,
            self.tally,
            rng,
            self.audit.once_begun,
        )
        talks = [
            spawn(self._converse(), name=f"conversation {number}")
            for number in range(self._plan.sessions)
        ]
        others = [spawn(self._look_on(), name="looking"), spawn(faults.run(), name="faults")]
        try:
            await self._wait(self._plan.seconds, *talks, *others)
            self.crowd.is_over = True
            await cancel_and_wait(others[0])
            faults.stop()
            await others[1]
            self._progress("calm again; what was begun comes to its end")
            await asyncio.wait(talks, timeout=_SETTLE_S)
        finally:
            await cancel_and_wait(*talks, *others)
            await faults.end()
        for task in talks:
            if not task.cancelled():
                task.result()

    async def settle(self) -> None:
        """What waits in an inbox is begun by the next turn at the latest; then nothing runs."""
        living = [each for each in self.crowd.sessions if each.deletion_at is None]
        closing = [Client(self.crowd, each).ask(text="write 3 words {uid}") for each in living]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                await asyncio.gather(*closing)
        client = look(self.backend.port)
        try:
            for session in living:
                with contextlib.suppress(NeverCame):
                    await until(lambda: self._is_at_rest(client, session), "rest")  # noqa: B023
        finally:
            await client.aclose()
        await self._witness.catch_up()
        self.audit.flush()
        for session in living:
            with contextlib.suppress(NeverCame):
                await until(lambda: self._is_all_followed(session), "followed", patience=8.0)  # noqa: B023
        await self._end_followers()

    async def judge(self) -> None:
        """Everything that can only be said at the end."""
        client = look(self.backend.port)
        histories: dict[str, list[dict[str, Any]]] = {}
        try:
            for session in self.crowd.sessions:
                if session.deletion_at is None:
                    histories[session.id] = await self._judge_living(client, session)
                else:
                    await self._judge_deleted(client, session)
            async for key in client.scan_iter(match="hermes:{*"):
                immortal = await client.pttl(key) == -1
                self.tally.check("7", not immortal, f"{key} never expires", _session_of(key))
        finally:
            await client.aclose()
        mails = [json.loads(line) for line in _lines(self._mails)]
        check_mails(self.tally, mails, histories)
        for worker in self._workers:
            traces = worker.unforeseen()
            self.tally.check("logs", not traces, f"{worker.name}: {' '.join(traces[:1])}")

    async def dump(self, session_id: str) -> dict[str, Any]:
        """All that is known of a session, for study."""
        client = look(self.backend.port)
        try:
            found = {
                "meta": await client.hgetall(session_keys(session_id)[0]),
                "requests": await client.hgetall(session_keys(session_id)[5]),
                "now": vars(await known_of(client, session_id)),
            }
        finally:
            await client.aclose()
        audited = self.audit.sessions.get(session_id)
        sessions = [each for each in self.crowd.sessions if each.id == session_id]
        found["audited"] = vars(audited) if audited is not None else None
        found["asked"] = [vars(asked) for each in sessions for asked in each.asked]
        found["failovers"] = self.backend.failovers
        found["mails"] = [line for line in _lines(self._mails) if session_id in line]
        return found

    def _worker_options(self, number: int) -> WorkerOptions:
        # Turns of each third are taken over for their silence, before the lease is over.
        lease_s = self._plan.lease_s * (4 if number % 3 == 2 else 1)
        return WorkerOptions(
            self.backend.url,
            self._mails,
            self._plan.token_interval_s,
            lease_s,
            drain_timeout_s=2.0,
            # A small window, so that conversations are summed up as well.
            context_tokens=2000,
        )

    # During the run.

    async def _converse(self) -> None:
        """One conversation after another, each with several clients at once."""
        while not self.crowd.is_over:
            session = await self.crowd.new_session(is_quiet=self._rng.random() < _QUIET)
            self._followers[session.id] = spawn(follow(self.crowd, session), name="follower")
            messages = self._rng.randint(*_MESSAGES)
            async with asyncio.TaskGroup() as group:
                for _ in range(1 if session.is_quiet else _CLIENTS_OF_A_SESSION):
                    group.create_task(Client(self.crowd, session).talk(messages))
                if self._rng.random() < _DELETED:
                    # In the midst of a turn, as often as not.
                    group.create_task(self._delete_amid(session))

    async def _delete_amid(self, session: Session) -> None:
        await asyncio.sleep(self._rng.uniform(2.0, 12.0))
        if not self.crowd.is_over:
            await self.crowd.delete(session)

    async def _look_on(self) -> None:
        """Calls of other users, and expiries at some moment."""
        # A cancellation is not enough: it has been lost once, in a timeout of a client library.
        while not self.crowd.is_over:
            await self.crowd.pause()
            if not self.crowd.sessions:
                continue
            session = self._rng.choice(self.crowd.sessions[-self._plan.sessions :])
            await intrude(self.crowd, session)
            if self.backend.failovers and self.backend.failovers[-1][1] > time.monotonic():
                continue  # there is no master to look at
            client = look(self.backend.port)
            try:
                with contextlib.suppress(OSError):
                    check_expiries(self.tally, session.id, await expiries_of(client, session.id))
            finally:
                await client.aclose()

    async def _wait(self, seconds: float, *tasks: asyncio.Task[Any]) -> None:
        """Raises what a task raises."""
        until_s = time.monotonic() + seconds
        while (left := until_s - time.monotonic()) > 0:
            figures = self.tally.figures
            self._progress(
                f"{left:.0f} s left, {figures['turns done']:,} turns done,"
                f" {figures['workers killed']} kills, {len(self.tally.violations)} violations"
            )
            await asyncio.wait(tasks, timeout=min(5.0, left), return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()

    async def _is_at_rest(self, client: Any, session: Session) -> bool:
        meta, lease, *_, inbox = session_keys(session.id)
        status = await client.hget(meta, "status")
        return status in {None, "idle"} and not await client.exists(lease, inbox)

    async def _is_all_followed(self, session: Session) -> bool:
        known = self.audit.sessions.get(session.id)
        events = [each[0] for each in known.events] if known is not None else []
        ends = [followed.last_id for followed in session.followed]
        return not events or all(end == events[-1] for end in ends)

    async def _end_followers(self) -> None:
        await cancel_and_wait(*self._followers.values())
        for task in self._followers.values():
            if not task.cancelled():
                task.result()
        self._followers.clear()

    # At the end.

    async def _judge_living(self, client: Any, session: Session) -> list[dict[str, Any]]:
        tally, audited = self.tally, self.audit.sessions.get(session.id)
        if audited is None:
            # A failover took it back; the audit has counted it.
            is_excused = bool(self.backend.failovers)
            tally.check("live", is_excused, f"{session.id} is nowhere", session.id)
            return []
        what = f"404 at {session.missing_at}, and no client deleted it"
        is_excused = session.missing_at is None or bool(self.backend.failovers)
        tally.check("live", is_excused, what, session.id)
        kept = await known_of(client, session.id)
        what = f"versions: {kept.version} kept, {audited.version} counted"
        tally.check("2", kept.version == audited.version, what, session.id)
        is_same = kept.messages == audited.messages
        tally.check("3", is_same, "the history is not what was appended to it", session.id)
        messages = [json.loads(text) for text in kept.messages]
        check_history(tally, session.id, messages, audited.fences)
        check_messages(tally, session.id, messages, session.asked, self.backend.failovers)
        for asked in session.asked:
            if asked.key is not None:
                what = f"{asked.uid} ({asked.key}) was never settled"
                tally.check("live", asked.is_settled, what, session.id)
        for uid, end, text in session.ends:
            if end != "done" and self.backend.failovers:
                # Which may have taken back its begin, or the session.
                tally.figures["turns cut short by failovers"] += 1
            else:
                tally.check("turns", end == "done", f"{uid} ended with {end} {text}", session.id)
        for stream in session.streams:
            failovers = self.backend.failovers
            check_stream(tally, session.id, stream, audited.events, audited.turns, failovers)
        if not self.backend.failovers:
            check_results(tally, session.id, messages, audited.events)
        await self._judge_rest(client, session)
        for followed in session.followed:
            check_followed(tally, session.id, followed, audited.events, self.backend.failovers)
            tally.figures["events followed"] += sum(map(len, followed.segments))
            tally.figures["resets of followers"] += len(followed.segments) - 1
        is_whole = await self._is_all_followed(session)
        ends = [followed.last_id for followed in session.followed]
        what = f"followers ended at {ends}, the log at {audited.events[-1:]}"
        tally.check("6", is_whole, what, session.id)
        check_expiries(tally, session.id, await expiries_of(client, session.id))
        return messages

    async def _judge_rest(self, client: Any, session: Session) -> None:
        is_at_rest = await self._is_at_rest(client, session)
        self.tally.check("live", is_at_rest, "a turn or an inbox is left", session.id)

    async def _judge_deleted(self, client: Any, session: Session) -> None:
        if self.backend.failovers and not self.audit.sessions.get(session.id, _GONE).is_deleted:
            self.tally.figures["deletions lost by failovers"] += 1
            return
        there = [key for key in session_keys(session.id) if await client.exists(key)]
        is_gone = there == session_keys(session.id)[:1]
        self.tally.check("deleted", is_gone, f"left of it: {there}", session.id)
        headers = bearer(session.token)
        async with self.crowd.http.get(self.crowd.url(session.id), headers=headers) as response:
            what = f"{response.status} for a deleted session"
            self.tally.check("deleted", response.status == 404, what, session.id)


def _session_of(key: str) -> str:
    return key.partition("{")[2].partition("}")[0]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class _Gone:
    is_deleted = False


_GONE = _Gone()
