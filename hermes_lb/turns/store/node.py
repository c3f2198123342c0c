"""One server of the store, and the connections to it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import hiredis

from hermes_lb.turns.store.link import Link, LinkLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hermes_lb.turns.store.link import Command
    from hermes_lb.turns.store.login import Login
    from hermes_lb.turns.store.url import Address, Credentials

logger = logging.getLogger("hermes_lb.turns")

_L = TypeVar("_L", bound=Link)

# Connections for commands that block, kept for the next one. WAIT takes milliseconds.
_IDLE: Final = 16


class Unfit(ConnectionError):
    """The server can be reached, and must not be used; the text has the reason."""


class Node:
    """`ask` many times at once. `close` it."""

    def __init__(self, address: Address, login: Login, *, is_store: bool = True) -> None:
        self.address = address
        self._login = login
        self._is_store = is_store  # False: a Sentinel
        self._shared: Link | None = None
        self._opening = asyncio.Lock()
        self._idle: list[Link] = []
        self._is_closed = False
        self._has_warned = False

    @property
    def heard(self) -> int:
        """Reads from the shared connection that have brought something; from the present one."""
        return self._shared.heard if self._shared is not None else 0

    @property
    def name(self) -> str:
        host, port = self.address
        return f"{host}:{port}" if port else host

    async def link(self) -> Link:
        """The connection that all callers share. Raises OSError."""
        shared = self._shared
        if shared is not None and shared.is_open:
            return shared
        async with self._opening:
            shared = self._shared
            if shared is None or not shared.is_open:
                shared = self._shared = await self.connect(Link)
            return shared

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[Link]:
        """A connection of the caller alone, for commands that block. Raises OSError."""
        self._idle = [link for link in self._idle if link.is_open]
        link = self._idle.pop() if self._idle else await self.connect(Link)
        try:
            yield link
        except BaseException:
            link.abort()  # a reply may be outstanding
            raise
        if len(self._idle) < _IDLE and not self._is_closed:
            self._idle.append(link)
        else:
            link.abort()

    async def connect(self, make: Callable[[], _L]) -> _L:
        """Open a new connection, which the caller aborts. Raises OSError; Unfit."""
        before = self._login.before
        try:
            return await self._connect(make, self._login.present)
        except (Unfit, ssl.SSLError) as error:
            if before is None:
                raise
            try:
                return await self._connect(make, before)
            except OSError:
                raise error from None

    async def try_login(self) -> None:
        """Raises OSError if it does not accept the present credentials."""
        (await self._connect(Link, self._login.present)).abort()

    def abort(self) -> None:
        """It does not answer, or is not the master any more: drop its connections."""
        for link in (self._shared, *self._idle):
            if link is not None:
                link.abort()
        self._idle.clear()

    def close(self) -> None:
        self._is_closed = True
        self.abort()

    async def _connect(self, make: Callable[[], _L], credentials: Credentials) -> _L:
        if self._is_closed:
            raise LinkLost(f"{self.name}: closed")
        host, port = self.address
        loop = asyncio.get_running_loop()
        if port:
            _, link = await loop.create_connection(make, host, port, ssl=credentials.tls)
        else:
            _, link = await loop.create_unix_connection(make, host)
        try:
            await self._greet(link, credentials)
        except BaseException:
            link.abort()
            raise
        self._login.accepted(credentials)
        return link

    async def _greet(self, link: Link, credentials: Credentials) -> None:
        user, password, db, _ = credentials
        commands: list[Command] = []
        if password:
            commands.append(("AUTH", user, password) if user else ("AUTH", password))
        if db:
            commands.append(("SELECT", db))
        if commands:
            for reply in await link.ask(commands):
                if isinstance(reply, hiredis.ReplyError):
                    raise Unfit(f"{self.name}: {reply}")
        if self._is_store:
            probes: list[Command] = [
                ("EVAL", "return 1", 0),
                ("CONFIG", "GET", "maxmemory-policy"),
            ]
            may_run, policy = await link.ask(probes)
            if isinstance(may_run, hiredis.ReplyError) and str(may_run).startswith("NOPERM"):
                raise Unfit(f"{self.name}: {may_run}")
            self._check_policy(policy)

    def _check_policy(self, reply: object) -> None:
        """A store that evicts keys would forget turns, and execute them again."""
        if isinstance(reply, hiredis.ReplyError):
            if not str(reply).startswith(("NOPERM", "ERR unknown command")):
                raise Unfit(f"{self.name}: {reply}")
            if not self._has_warned:
                self._has_warned = True
                warning = "%s: its maxmemory-policy can't be read, and has to be noeviction"
                logger.warning(warning, self.name)
        elif isinstance(reply, list) and reply[1:] != [b"noeviction"]:
            has = b"".join(reply[1:]).decode(errors="replace")
            raise Unfit(f"{self.name}: its maxmemory-policy is {has}, and has to be noeviction")
