"""The scripts of control on a Valkey, called directly."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from hermes_lb.turns.ports import Claim
from hermes_lb.turns.store.control import Control
from hermes_lb.turns.store.keys import TurnName, control_keys, turn_id
from hermes_lb.turns.store.quotas import QUOTAS
from hermes_lb.turns.store.stored import StoredTurn, read_stored
from tests.support.turn_fleet import new_principal

if TYPE_CHECKING:
    from hermes_lb.turns.store.client import StoreClient


class ScriptRunner:
    """`woken`: what the scripts wanted to wake, (incarnation, turn)."""

    def __init__(self, client: StoreClient) -> None:
        self.client = client
        self.woken: list[tuple[str, str]] = []
        self.control = Control(client, lambda owner, turn: self.woken.append((owner, turn)))
        self.principal = new_principal()

    def name(self, key: str = "", session: str = "") -> TurnName:
        nonce = secrets.token_hex(16)
        return TurnName(turn_id(self.principal, nonce), self.principal, nonce, key, session)

    async def begin(
        self, turn: TurnName, owner: str = "o1", *, quotas: Any = QUOTAS, **fields: Any
    ) -> str:
        """Its outcome. `fields`: of the claim."""
        claim = Claim(
            **{
                "principal": turn.principal,
                "nonce": turn.nonce,
                "key": turn.key,
                "session": turn.session,
                "fingerprint": "",
                "waits": True,
                "keep": 60.0,
                "keep_events": 30.0,
                "settle": 0.05,
                "repeats_lost": False,
                "journal_size": 1000,
                **fields,
            }
        )
        outcome, _, _ = await self.control.begin(turn, claim, owner, quotas)
        return outcome

    async def grant(self, turn: TurnName, owner: str = "o1", *dead: str, holder: str = "") -> str:
        reply = await self.control.grant(turn, owner, dead, holder)
        return str(reply[0].decode())

    async def end(self, turn: TurnName, state: int, size: int = 0) -> None:
        await self.control.end(turn, state, "backend", first=0, last=0, size=size, is_trimmed=False)

    async def stored(self, turn: TurnName) -> StoredTurn:
        found = read_stored(turn.id, await self.control.find(turn.id))
        assert found is not None
        return found

    async def state(self, turn: TurnName) -> int:
        return (await self.stored(turn)).record.state

    async def keys(self) -> list[str]:
        """All keys of the principal."""
        found = await self.client.ask("", "KEYS", f"lb:{{{self.principal[:16]}}}:*")
        return sorted(key.decode() for key in found)

    async def contents(self) -> dict[str, Any]:
        """Of all keys of the principal, for comparison."""
        read = {b"hash": "HGETALL", b"list": "LRANGE", b"string": "GET"}
        found = {}
        for key in await self.keys():
            command = read[await self.client.ask(key, "TYPE", key)]
            more = (0, -1) if command == "LRANGE" else ()
            found[key] = await self.client.ask(key, command, key, *more)
        return found

    async def session(self, turn: TurnName) -> dict[str, str]:
        name = control_keys(turn.id, "", turn.session).session
        fields = [each.decode() for each in await self.client.ask(name, "HGETALL", name)]
        return dict(zip(fields[::2], fields[1::2], strict=True))
