"""Runs the store's scripts within a patience, on any topology. The only place that judges errors.

    client = StoreClient("redis://127.0.0.1:6379/0")
    BEGIN = script("common", "begin")              # lua/common.lua and lua/begin.lua, joined
    reply = await client.run(BEGIN, keys, args)    # replies are bytes, int, None or lists of them
    reply = await client.run_durably(BEGIN, keys, args)    # and a replica has it (WAIT)
    reply = await client.ask(key, "SET", key, "1", "PX", 15000)
    await client.close()

All of them raise StoreAway and nothing else. The keys of a call lie in one slot. A script may run
again when its reply was lost, or when it is redirected: it has to be idempotent, by its nonce.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

import hiredis

from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store.cluster import Cluster
from hermes_lb.turns.store.in_flight import InFlight
from hermes_lb.turns.store.node import Unfit
from hermes_lb.turns.store.sentinel import SentinelMaster
from hermes_lb.turns.store.topology import OneServer
from hermes_lb.turns.store.url import read_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hermes_lb.turns.store.link import Command, Reply
    from hermes_lb.turns.store.node import Node
    from hermes_lb.turns.store.scripts import Script
    from hermes_lb.turns.store.topology import Topology

logger = logging.getLogger("hermes_lb.turns")

# Seconds for an operation, with all of its attempts, from when it is sent.
PATIENCE: Final = 1.0
# Seconds for which it waits before that, while others are under way: the store is busy, not away.
_BUSY: Final = 60.0
# So often it is waited for, while the same server answers others: a process or a server that gets
# no CPU for a second does not make the store one that is away.
_PERIODS: Final = 10
# Seconds for which a lost store is left alone: operations fail at once. Doubled up to the second.
_LEFT_ALONE: Final = (0.1, 1.0)
# Seconds between two attempts, doubled up to the second.
_PAUSE: Final = (0.01, 0.2)
# Attempts while no other server can replace the one that is lost: it may have closed an idle
# connection, or have been restarted.
_ATTEMPTS: Final = 3
# Seconds between two reports that it is away: one that is read-only answers some commands.
_REPORTED: Final = 10.0
# Milliseconds for WAIT. Replicas that work answer in a few. Twice is less than PATIENCE: a script
# that the server does not know yet is sent again, with another WAIT.
_REPLICA_MS: Final = 400

# Error replies, by their first word. "Away": the server can't do it now.
_REDIRECTED: Final = frozenset(("MOVED", "ASK"))
_REPLACED: Final = frozenset(("READONLY", "CLUSTERDOWN", "LOADING", "MASTERDOWN"))
_AWAY: Final = _REPLACED | {"TRYAGAIN", "OOM", "MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED"}

_TOPOLOGIES: Final = {"": OneServer, "sentinel": SentinelMaster, "cluster": Cluster}


class StoreClient:
    """Raises ValueError if the URL can't be understood."""

    def __init__(
        self, url: str, *, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        read = read_url(url)
        self.topology: Topology = _TOPOLOGIES[read.topology](read)
        self.patience = patience
        self._clock = clock
        self._in_flight = InFlight()
        self._min_replicas = read.min_replicas
        self._away_until = 0.0
        self._left_alone = 0.0
        self._why = ""  # it is away
        self._is_tried = False  # one operation finds out whether it still is; all others fail
        self._is_reported = False
        self._report_after = -_REPORTED

    @property
    def is_reachable(self) -> bool:
        """False for a while after an operation has failed, and while the next one tries."""
        return not self._is_tried and self._clock() >= self._away_until

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[str | bytes | int],
        *,
        is_new: bool = False,
    ) -> Reply:
        """The script's reply. `is_new`: all that is not goes first while the store is busy."""
        [reply] = await self._operate(keys[0], _runs(script, keys, args), is_new=is_new)
        return reply

    async def run_durably(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes | int]
    ) -> Reply:
        """The same, once as many replicas have it as the URL asks for.

        StoreAway if they do not have it in time; the script may have run all the same.
        """
        wanted = self._min_replicas
        if not wanted:
            return await self.run(script, keys, args)
        # WAIT covers the writes of its connection. A script that finds its work done after a lost
        # reply writes nothing there, so another key of its slot is written.
        mark = ("SET", f"{keys[0]}:wait", "", "PX", 1)
        wait = ("WAIT", wanted, _REPLICA_MS)
        replies = await self._operate(keys[0], _runs(script, keys, args, mark, wait), blocks=True)
        if not isinstance(replies[-1], int) or replies[-1] < wanted:
            raise StoreAway(f"{wanted} replicas were wanted, and have it: {replies[-1]}")
        return replies[0]

    async def ask(self, key: str, *command: str | bytes | int) -> Reply:
        """The reply to a command for `key` that may be repeated."""
        [reply] = await self._operate(key, lambda by_text: [command])
        return reply

    async def publish(self, channel: str, message: str) -> None:
        command = "SPUBLISH" if self.topology.is_sharded else "PUBLISH"
        await self.ask(channel, command, channel, message)

    def renew(self, url: str) -> None:
        """New connections log in as this URL of the same store says, or as before where a server
        refuses that. Raises ValueError."""
        self.topology.renew(read_url(url))

    async def try_login(self) -> None:
        """Raises OSError if one of its servers does not accept the present credentials."""
        async with asyncio.timeout(self.patience):
            await self.topology.try_login()

    async def close(self) -> None:
        self.topology.close()
        await asyncio.sleep(0)  # the connections close before the loop does

    def went_away(self, why: str) -> StoreAway:
        """Leave the store alone for a while. It is logged once, until `came_back`."""
        now = self._clock()
        if not self._why and now >= self._report_after:
            self._is_reported, self._report_after = True, now + _REPORTED
            logger.warning("the store of turns can't be reached: %s", why)
        self._why = why
        first, longest = _LEFT_ALONE
        self._left_alone = min(max(first, 2 * self._left_alone), longest)
        self._away_until = now + self._left_alone
        return StoreAway(why)

    def came_back(self) -> None:
        if self._why:
            self._why = ""
            self._is_tried = False
            self._left_alone = self._away_until = 0.0
            if self._is_reported:
                self._is_reported = False
                logger.warning("the store of turns is back")

    async def _operate(
        self,
        key: str,
        commands: Callable[[bool], list[Command]],
        *,
        blocks: bool = False,
        is_new: bool = False,
    ) -> list[Reply]:
        """Send commands to the server that holds `key` until the first has a reply, no error.

        `commands` is called with True once a server does not know the script.
        """
        if not self.is_reachable:
            raise StoreAway(self._why)
        try:
            await self._in_flight.enter(_BUSY, is_new=is_new)
        except TimeoutError:
            raise StoreAway(f"it is busy: {self._in_flight.waiting} operations wait") from None
        try:
            replies = await self._attempt(_Attempts(self.topology, key, blocks), commands)
        finally:
            self._in_flight.leave()
        if isinstance(replies[0], hiredis.ReplyError):
            why = str(replies[0])
            if why.partition(" ")[0] in _AWAY:
                raise self.went_away(why)
            logger.error("the store of turns has refused a command: %s", why)
            raise StoreAway(why)
        self.came_back()
        return replies

    async def _attempt(
        self, attempts: _Attempts, commands: Callable[[bool], list[Command]]
    ) -> list[Reply]:
        if not self.is_reachable:  # any more
            raise StoreAway(self._why)
        is_trial = self._is_tried = bool(self._why)
        try:
            async with asyncio.timeout(None) as limit:
                with attempts.limited(limit, self.patience):
                    return await attempts.run(commands)
        except TimeoutError:
            if attempts.is_server_at_work:
                raise StoreAway("it is busy: it answers others, and not this operation") from None
            attempts.give_up()
            raise self.went_away(attempts.why) from None
        except OSError as error:
            raise self.went_away(str(error)) from None
        finally:
            if is_trial:
                self._is_tried = False


class _Attempts:
    """Of one operation. `why`: the last failure."""

    def __init__(self, topology: Topology, key: str, blocks: bool) -> None:
        self.why = "it does not answer in time"
        self._topology = topology
        self._key = key
        self._blocks = blocks
        self._node: Node | None = None  # that has been asked, and has not answered
        self._heard = 0  # reads from it, when it was asked
        #: It has answered others meanwhile: it is slow, or this process was.
        self.is_server_at_work = False

    @contextlib.contextmanager
    def limited(self, limit: asyncio.Timeout, patience: float) -> Iterator[None]:
        """`limit` ends them after `patience` seconds in which the server has answered nothing."""
        loop = asyncio.get_running_loop()
        periods = 1

        def look() -> None:
            nonlocal periods
            node = self._node
            self.is_server_at_work = node is not None and node.heard > self._heard
            if node is None or not self.is_server_at_work or periods == _PERIODS:
                limit.reschedule(loop.time())
            else:
                periods += 1
                self._heard = node.heard
                self._timer = loop.call_later(patience, look)

        self._timer = loop.call_later(patience, look)
        try:
            yield
        finally:
            self._timer.cancel()

    def give_up(self) -> None:
        """The time is over: what does not answer is not used again."""
        if self._node is not None:
            self._topology.distrust(self._node)

    async def run(self, commands: Callable[[bool], list[Command]]) -> list[Reply]:
        """The replies; the first may be an error that no attempt helps. Raises OSError."""
        by_text = False
        pause, longest = _PAUSE
        attempt = 0
        target: Node | None = None  # the importing node of a slot, for one attempt
        while True:
            attempt += 1
            try:
                node = target or await self._topology.node(self._key)
                replies = await self._send(node, commands(by_text), is_asking=target is not None)
            except Unfit:
                raise
            except OSError as error:
                self.give_up()
                self.why = str(error)
                if not self._topology.has_failover and attempt >= _ATTEMPTS:
                    raise
                target = None
            else:
                target = None
                first = replies[0]
                if not isinstance(first, hiredis.ReplyError):
                    return replies
                word, *rest = str(first).split(" ")
                if word == "NOSCRIPT" and not by_text:
                    by_text = True
                    continue
                if word in _REDIRECTED:
                    target = self._redirect(node, word, rest)
                elif word in _REPLACED and self._topology.has_failover:
                    self._topology.distrust(node)
                elif word != "TRYAGAIN":  # one of its keys is here, another is not
                    return replies
                self.why = str(first)
                if attempt < _ATTEMPTS and word in _REDIRECTED:
                    continue
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _send(self, node: Node, commands: list[Command], *, is_asking: bool) -> list[Reply]:
        if is_asking:  # admits one command each
            commands = [each for command in commands for each in (("ASKING",), command)]
        self._node = node
        self._heard = node.heard
        if self._blocks:
            async with node.exclusive() as link:
                replies = await link.ask(commands)
        else:
            replies = await (await node.link()).ask(commands)
        self._node = None
        return replies[1::2] if is_asking else replies

    def _redirect(self, node: Node, word: str, rest: list[str]) -> Node | None:
        """The node for the next attempt, after ASK; None: look it up again."""
        try:
            slot, where, *_ = rest
            host, _, port = where.rpartition(":")
            address, number = (host or node.address[0], int(port)), int(slot)
        except ValueError:  # it is malformed
            return None
        if word == "ASK":
            return self._topology.at(address)
        self._topology.moved(number, address)
        return None


def _runs(
    script: Script,
    keys: Sequence[str],
    args: Sequence[str | bytes | int],
    *then: Command,
) -> Callable[[bool], list[Command]]:
    def commands(by_text: bool) -> list[Command]:
        how = ("EVAL", script.text) if by_text else ("EVALSHA", script.sha)
        return [(*how, len(keys), *keys, *args), *then]

    return commands
