"""Notifications: one connection per process and server for all channels.

A notification is a hint to read the store. Those that were missed while a connection was lost are
made up for by a call of every callback once it is replaced, and no caller waits without a time
limit.

On a Cluster channels are sharded: a message is received only at the server that has its slot.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import hiredis

from hermes_lb.turns.store.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.tasks import Tasks
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.link import Reply
    from hermes_lb.turns.store.node import Node

logger = logging.getLogger("hermes_lb.turns")

# Seconds between two PINGs. A connection that has brought nothing since the last one is lost.
_PING: Final = 5.0
# Seconds between two attempts, doubled up to the second until a subscription is confirmed.
_PAUSE: Final = (0.02, 0.5)

_CONFIRMED: Final = (b"subscribe", b"ssubscribe")
_MESSAGES: Final = (b"message", b"smessage")
_DROPPED: Final = b"sunsubscribe"


class Channel:
    """`callbacks`: each is called with the payload of a message, and with b"" if some may have been
    missed."""

    __slots__ = ("callbacks", "confirmed", "has_missed", "link")

    def __init__(self) -> None:
        self.callbacks: dict[Callable[[bytes], None], None] = {}  # in order
        self.confirmed = asyncio.Event()
        self.has_missed = False
        self.link: SubscriberLink | None = None

    def call(self, payload: bytes) -> None:
        for callback in list(self.callbacks):
            callback(payload)


class SubscriberLink(Link):
    """Passes messages, which are not replies to commands, to `receive`."""

    def __init__(self, receive: Callable[[SubscriberLink, Reply], None]) -> None:
        super().__init__()
        self.has_received = False
        self._receive = receive

    def command(self, *words: Any) -> None:
        """Send one whose reply comes as a message."""
        self.send(hiredis.pack_command(words), ())

    def _take(self, reply: Reply) -> None:
        if self._takers:
            super()._take(reply)
        else:
            self.has_received = True
            self._receive(self, reply)

    def _lose(self, why: str) -> None:
        super()._lose(why)
        self._receive(self, None)


class Subscriber:
    """`close` it before the client."""

    def __init__(self, client: StoreClient, tasks: Tasks) -> None:
        self._client = client
        self._tasks = tasks
        prefix = "S" if client.topology.is_sharded else ""
        self._subscribe, self._unsubscribe = f"{prefix}SUBSCRIBE", f"{prefix}UNSUBSCRIBE"
        self._channels: dict[str, Channel] = {}
        self._links: dict[Node, SubscriberLink] = {}
        self._homeless: dict[str, None] = {}  # channels without a connection
        self._placing: asyncio.Task[None] | None = None
        self._pause = 0.0  # before the next attempt
        self._pinging: asyncio.Task[None] | None = None
        self._is_closed = False

    async def listen(self, name: str, callback: Callable[[bytes], None], patience: float) -> bool:
        """Subscribe -> whether it is confirmed within `patience` seconds: a message that is
        published after that is received. Otherwise it is as soon as the store is back."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel()
            self._place(name)
        channel.callbacks[callback] = None
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await channel.confirmed.wait()
        return channel.confirmed.is_set()

    def leave(self, name: str, callback: Callable[[bytes], None]) -> None:
        channel = self._channels.get(name)
        if channel is None or callback not in channel.callbacks:
            return
        del channel.callbacks[callback]
        if not channel.callbacks:
            del self._channels[name]
            self._homeless.pop(name, None)
            if channel.link is not None:
                channel.link.command(self._unsubscribe, name)

    def close(self) -> None:
        self._is_closed = True
        for link in list(self._links.values()):
            link.abort()

    # Connections.

    def _place(self, name: str) -> None:
        if self._is_closed:
            return
        self._homeless[name] = None
        if self._placing is None or self._placing.done():
            self._placing = self._tasks.spawn(self._place_all(), name="subscriptions")
        if self._pinging is None or self._pinging.done():
            self._pinging = self._tasks.spawn(self._ping(), name="PING of subscriptions")

    def _lengthen_pause(self) -> None:
        first, longest = _PAUSE
        self._pause = min(max(first, 2 * self._pause), longest)

    async def _place_all(self) -> None:
        while self._homeless:
            if self._pause:
                await asyncio.sleep(self._pause)
            try:
                async with asyncio.timeout(self._client.patience):
                    for name in list(self._homeless):
                        link = await self._link(name)
                        channel = self._channels.get(name)
                        self._homeless.pop(name, None)
                        if channel is not None:
                            channel.link = link
                            link.command(self._subscribe, name)
            except OSError as error:  # TimeoutError is one
                logger.debug("subscriptions: %s", error)
                self._lengthen_pause()

    async def _link(self, name: str) -> SubscriberLink:
        topology = self._client.topology
        node = await topology.node(name)
        link = self._links.get(node)
        if link is None or not link.is_open:
            try:
                link = await node.connect(lambda: SubscriberLink(self._receive))
            except BaseException:
                topology.distrust(node)
                raise
            self._links[node] = link
        return link

    def _receive(self, link: SubscriberLink, reply: Reply) -> None:
        """A message, a confirmation, an error; None: the connection is lost. No other counts."""
        if isinstance(reply, list) and len(reply) == 3 and reply[0] in _MESSAGES:
            channel = self._channels.get(reply[1].decode())
            if channel is not None:  # else the message was on its way when it was left
                channel.call(reply[2])
        elif isinstance(reply, list) and len(reply) == 3 and reply[0] in _CONFIRMED:
            channel = self._channels.get(reply[1].decode())
            if channel is not None and channel.link is link:
                self._pause = 0.0
                channel.confirmed.set()
                if channel.has_missed:
                    channel.has_missed = False
                    channel.call(b"")
        elif reply is None:
            self._lose(link)
        elif isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOPERM"):
            # Of the user's ACL. Commands go on, and looks take the place of notifications.
            self._lengthen_pause()
            link.abort()
        elif isinstance(reply, hiredis.ReplyError) or self._is_dropped(reply):
            # It is not the channel's server any more.
            self._lengthen_pause()
            self._distrust(link)
            link.abort()

    def _is_dropped(self, reply: Reply) -> bool:
        """The server has ended a subscription by itself: the slot has moved."""
        is_one = isinstance(reply, list) and len(reply) > 1 and reply[0] == _DROPPED
        return is_one and reply[1].decode() in self._channels

    def _distrust(self, link: SubscriberLink) -> None:
        for node, each in self._links.items():
            if each is link:
                self._client.topology.distrust(node)

    def _lose(self, link: SubscriberLink) -> None:
        for name, channel in list(self._channels.items()):
            if channel.link is link:
                channel.link = None
                channel.confirmed.clear()
                channel.has_missed = True
                self._place(name)

    async def _ping(self) -> None:
        while True:
            for node, link in list(self._links.items()):
                if not link.is_open:
                    del self._links[node]
                elif not self._is_used(link):
                    link.abort()
                else:
                    link.has_received = False
                    link.command("PING")
            await asyncio.sleep(_PING)
            for link in list(self._links.values()):
                if link.is_open and not link.has_received:
                    self._distrust(link)
                    link.abort()

    def _is_used(self, link: SubscriberLink) -> bool:
        return any(channel.link is link for channel in self._channels.values())
