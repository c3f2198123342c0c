"""The scripts of control as calls: one slot each, and idempotent, so all of them may be repeated.

`FOLLOWED_BY` of states.py becomes a table in front of the scripts: they have no other one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.turns import states
from hermes_lb.turns.ports import Fenced
from hermes_lb.turns.store.keys import TurnName, control_keys
from hermes_lb.turns.store.scripts import script, script_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hermes_lb.turns.ports import Claim
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.link import Reply
    from hermes_lb.turns.store.quotas import Quotas
    from hermes_lb.turns.store.scripts import Script


def _states() -> str:
    """states.py in Lua."""
    names = "\n".join(
        f"local {name.upper()} = {number}" for number, name in enumerate(states.NAMES)
    )
    rows = ", ".join(
        f"[{state}] = {{ {', '.join(f'[{each}] = true' for each in following)} }}"
        for state, following in states.FOLLOWED_BY.items()
    )
    ended = ", ".join(f"[{state}] = true" for state in sorted(states.ENDED))
    return f"{names}\nlocal FOLLOWED_BY = {{ {rows} }}\nlocal ENDED = {{ {ended} }}\n"


SCRIPTS: Final[dict[str, Script]] = {
    name: script_of(_states() + script("turn", name).text)
    for name in (
        "begin",
        "grant",
        "start",
        "head",
        "fingerprint",
        "end",
        "lose",
        "release",
        "cancel",
        "find",
        "renew",
        "orphan",
        "retry",
        "take_over",
    )
}


class Control:
    """Each call raises StoreAway; those of an owner Fenced, if the turn is not its own or has
    ended. `wake` is called with (incarnation, turn), for turns whose owner has to look at them."""

    def __init__(self, client: StoreClient, wake: Callable[[str, str], None]) -> None:
        self._client = client
        self._wake = wake

    async def begin(
        self, turn: TurnName, claim: Claim, incarnation: str, quotas: Quotas
    ) -> tuple[str, str, Sequence[Reply]]:
        """The outcome, the id of the turn that it is about, and the rest of the reply."""
        known = turn.id
        while True:
            outcome, *rest = await self._run(
                "begin",
                turn,
                incarnation,
                claim.fingerprint,
                int(claim.waits),
                _ms(claim.keep),
                _ms(claim.keep_events),
                _ms(claim.settle),
                known,
                int(claim.repeats_lost),
                *quotas,
                _ms(claim.linger),
                also=known,
            )
            if outcome != b"KNOWN":
                is_mine = outcome in (b"OWNED", b"QUEUED")
                return outcome.decode(), turn.id if is_mine else known, rest
            known = rest[0].decode()

    async def grant(
        self, turn: TurnName, incarnation: str, dead: Sequence[str], holder: str
    ) -> Sequence[Reply]:
        return await self._run("grant", turn, incarnation, " ".join(dead), holder, also=holder)

    async def start(self, turn: TurnName, server: str, *, is_durable: bool) -> None:
        await self._run("start", turn, server, is_durable=is_durable)

    async def head(
        self,
        turn: TurnName,
        head: bytes,
        *,
        is_stream: bool,
        resume_path: str = "",
        origin: str = "",
    ) -> None:
        await self._run("head", turn, head, int(is_stream), resume_path, origin)

    async def retry(self, turn: TurnName, retry: str) -> None:
        await self._run("retry", turn, retry)

    async def fingerprint(self, turn: TurnName, fingerprint: str) -> None:
        await self._run("fingerprint", turn, fingerprint)

    async def end(
        self,
        turn: TurnName,
        state: int,
        reason: str,
        *,
        first: int,
        last: int,
        size: int,
        is_trimmed: bool,
    ) -> None:
        await self._run("end", turn, state, reason, first, last, size, int(is_trimmed))

    async def release(self, turn: TurnName, answer: bytes) -> None:
        await self._run("release", turn, answer)

    async def lose(self, turn: TurnName, owner: str, reason: str, nonce: str) -> None:
        await self._run("lose", turn, owner, reason, nonce)

    async def orphan(self, turn: TurnName, owner: str, nonce: str) -> None:
        """Its owner has left or is dead, and another process may take it over."""
        await self._run("orphan", turn, owner, nonce)

    async def take_over(self, turn: TurnName, incarnation: str, nonce: str) -> int:
        """`turn`: with the nonce of before -> its fence."""
        [fence] = await self._run("take_over", turn, incarnation, nonce)
        return int(fence)

    async def cancel(self, turn: TurnName) -> None:
        await self._run("cancel", turn)

    async def find(self, turn: str) -> Sequence[Reply]:
        """The fields of a record."""
        [fields] = await self._run("find", TurnName(turn, "", "", "", ""))
        assert isinstance(fields, list)
        return fields

    async def renew(self, turn: TurnName, incarnation: str) -> int:
        """Its state."""
        [state] = await self._run("renew", turn, incarnation)
        return int(state)

    async def _run(
        self,
        name: str,
        turn: TurnName,
        *args: str | bytes | int,
        also: str = "",
        is_durable: bool = False,
    ) -> list[Reply]:
        """The reply without the turns to wake. `also`: a second turn whose key is declared."""
        keys = (*control_keys(turn.id, turn.key, turn.session), control_keys(also or turn.id).turn)
        values = (turn.id, turn.principal, turn.nonce, *args)
        if is_durable:
            reply = await self._client.run_durably(SCRIPTS[name], keys, values)
        else:
            reply = await self._client.run(SCRIPTS[name], keys, values, is_new=name == "begin")
        if not (isinstance(reply, list) and len(reply) > 1 and isinstance(reply[-1], list)):
            raise self._client.went_away(f"{name}: a reply that is not the script's")
        found: list[Reply] = reply[:-1]
        for each in reply[-1]:
            incarnation, _, woken = each.decode().partition(" ")
            self._wake(incarnation, woken)
        if found[0] == b"FENCED":
            raise Fenced(f"{name}: another process has the turn, or it has ended")
        return found if name in ("begin", "grant") else found[1:]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
