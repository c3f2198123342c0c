"""The port of discovery: an async iterator of server sets.

A source yields an `Answer` whenever it knows more, and raises `DiscoveryFailed` when it can't go
on: its caller (`discovery.watch`) logs that, waits, and calls `answers` again. What a source has
found stays in use meanwhile. So a source has no retries, no log and no damping of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from hermes_lb.options.section import Section

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping
    from random import Random

    from hermes_lb.options.units import Address

MOST_SERVERS = 10_000
"""Of one backend. The shared memory has 16,384 rows."""


class Endpoint(NamedTuple):
    """A server as a source gives it. `weight` None: the backend's default."""

    address: Address
    weight: int | None = None
    is_backup: bool = False
    leaves: bool = False  # it finishes what it has, and those pinned to it
    server_name: str | None = None  # for TLS


class Answer(NamedTuple):
    """The changes since the last one: servers by name, and names that are gone.

    With `is_complete` every other server is gone, too. One without a change says that the source
    works. `problem`: one line for the operator about
    this answer, empty if it is as expected.
    """

    present: Mapping[str, Endpoint]
    gone: Collection[str] = ()
    is_complete: bool = True
    problem: str = ""


class DiscoveryFailed(Exception):
    """The source can't answer; `str(error)` is one line for the operator.

    `retry_after`: seconds that it asks for; None: the caller's backoff.
    """

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class SourceOptions(Section):
    """The options of a kind."""


class Source:
    """One kind of discovery, with the options of one backend."""

    options: ClassVar[type[SourceOptions]] = SourceOptions

    def __init__(self, options: SourceOptions, rng: Random) -> None:
        """With options of the class `self.options`. Raises nothing: a missing package or file is
        a DiscoveryFailed of `answers`."""

    def start_with(self, servers: Mapping[str, Endpoint]) -> None:
        """Those that it found before a reload or an upgrade, before `answers` is called."""

    def answers(self) -> AsyncIterator[Answer]:
        """The servers now, and then each change. May be called again after it has ended or failed;
        the first answer of each call is complete.

        Raises DiscoveryFailed.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Release what it holds. `answers` is not used any more."""
