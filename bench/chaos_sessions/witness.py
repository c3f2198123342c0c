"""Looks at Redis from beside: feeds the audit with MONITOR, and reads sessions as they stand."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any

from agent_worker.sessions.keys import KINDS, session_id_of, session_keys
from agent_worker.tasks import cancel_and_wait, spawn
from bench.chaos.waiting import until
from bench.chaos_sessions.audit import Known, read_line
from bench.chaos_sessions.backends import look
from tests.agent_worker.redis.dropping_proxy import HOST

if TYPE_CHECKING:
    from bench.chaos_sessions.audit import Audit
    from bench.chaos_sessions.backends import Backend

_LONGEST_LINE = 64 * 1024 * 1024


class Witness:
    """A context manager: inside, everything that Redis does is seen."""

    def __init__(self, backend: Backend, audit: Audit) -> None:
        self._backend = backend
        self._audit = audit
        self._seeing = asyncio.Event()

    async def __aenter__(self) -> Witness:
        self._task = spawn(self._watch(), name="witness")
        await self._seeing.wait()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await cancel_and_wait(self._task)

    async def catch_up(self) -> None:
        """Return when the audit has seen all that Redis has done so far."""
        marker = secrets.token_hex(8)

        async def is_seen() -> bool:
            if marker not in self._audit.markers:
                with contextlib.suppress(OSError):
                    client = look(self._backend.port)
                    await client.echo(marker)
                    await client.aclose()
                    await asyncio.sleep(0.05)
            return marker in self._audit.markers

        await until(is_seen, "the audit catches up")

    async def _watch(self) -> None:
        """Follow the present master."""
        is_first = True
        while True:
            port = self._backend.port
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(HOST, port, limit=_LONGEST_LINE)
                try:
                    writer.write(b"MONITOR\r\n")
                    await reader.readuntil(b"\r\n")
                    if not is_first:
                        await self._rebase(port)
                    is_first = False
                    self._audit.is_blind = False
                    self._seeing.set()
                    await self._read(reader, port)
                finally:
                    writer.close()
            self._audit.is_blind = True
            await asyncio.sleep(0.02)

    async def _read(self, reader: asyncio.StreamReader, port: int) -> None:
        """Until the connection ends, or the master is another one."""
        while self._backend.port == port:
            try:
                async with asyncio.timeout(0.5):
                    raw = await reader.readuntil(b"\n")
            except TimeoutError:
                continue
            if line := read_line(raw):
                self._audit.feed(line)

    async def _rebase(self, port: int) -> None:
        """All sessions as the new master has them; what it does meanwhile is judged afterwards."""
        before = set(self._audit.sessions)
        client = look(port)
        try:
            async for key in client.scan_iter(match=session_keys("*")[0], count=500):
                session_id = session_id_of(key)
                before.discard(session_id)
                self._audit.rebase(session_id, await known_of(client, session_id))
        finally:
            await client.aclose()
        for session_id in before:
            self._audit.forget(session_id)


async def known_of(client: Any, session_id: str) -> Known:
    """A session as it stands, read at one moment."""
    meta_key, lease_key, msgs_key, _, ev_key, *_ = session_keys(session_id)
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.hgetall(meta_key).get(lease_key).pexpiretime(lease_key)
        pipeline.lrange(msgs_key, 0, -1).xrange(ev_key).time()
        meta, lease, until_ms, messages, entries, (seconds, us) = await pipeline.execute()
    lease_until = until_ms / 1000
    return Known(
        owner=meta.get("owner", ""),
        version=int(meta.get("version", 0)),
        fence=int(meta.get("fence", 0)),
        lease=lease,
        lease_until=lease_until,
        heard_at=lease_until - int(meta.get("lease_ms", 0)) / 1000,
        turns=sorted(map(int, meta.get("turns", "").split())),
        is_deleted="deleted" in meta,
        messages=messages,
        events=[(entry_id, fields["e"], fields["d"]) for entry_id, fields in entries],
        since=seconds + us / 1e6,
    )


async def expiries_of(client: Any, session_id: str) -> dict[str, int]:
    """By kind of key when it expires, all read at one moment."""
    async with client.pipeline(transaction=True) as pipeline:
        for key in session_keys(session_id):
            pipeline.pexpiretime(key)
        return dict(zip(KINDS, await pipeline.execute(), strict=True))
