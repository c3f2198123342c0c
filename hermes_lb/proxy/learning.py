"""Session keys that a server creates in the body of its response.

A client can use an id of a JSON text once it has all of the text. So the last bytes are withheld
until other processes and balancers find the key, as a response head is that names one. An event is
not delayed: a client that uses its id at once at another balancer may be faster than the shared
store, and is balanced as without a key then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hermes_lb.affinity.bodies import BodyReader
    from hermes_lb.http import Body
    from hermes_lb.proxy.ports import ServerSide

    #: Stores these keys -> an awaitable that ends when all find them; None: they do.
    Learn = Callable[[list[bytes]], Awaitable[object] | None]


class LearningBody:
    """A `Body` that is read on its way, until the reader needs no more of it.

    It then leaves the path: `upstream` goes on with the body within.
    """

    __slots__ = ("_body", "_learn", "_reader", "_upstream", "_withheld", "excess", "is_done")

    def __init__(self, body: Body, reader: BodyReader, learn: Learn, upstream: ServerSide) -> None:
        self._body = body
        self._reader = reader
        self._learn = learn
        self._upstream = upstream
        self._withheld = b""
        self.is_done = False
        self.excess = b""

    @property
    def behind(self) -> int:
        return self._body.behind

    def feed(self, data: bytes) -> bytes:
        body = self._body
        if body.is_done:  # the keys of its end are stored
            self.is_done = True
            self.excess += data
            return self._withheld
        passed = body.feed(data)
        self.excess = body.excess
        keys = self._reader.feed(passed)
        if body.is_done:
            keys += self._reader.end()
        news = self._learn(keys) if keys else None
        if news is not None and body.is_done:
            self._withheld = passed
            self._upstream.hold(news)
            return b""
        self.is_done = body.is_done
        if self._reader.is_over:
            self._upstream.expect(body)
        return passed

    def end(self) -> bytes:
        """The connection has gone, and can't be held any more."""
        last = self._body.end()
        if keys := self._reader.feed(last) + self._reader.end():
            self._learn(keys)
        self.is_done = True
        return last
