"""What a probe implements, and the options that all probes have."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field

from hermes_lb.options.section import Section
from hermes_lb.options.units import PositiveDuration

if TYPE_CHECKING:
    from hermes_lb.backends.dialing import ServerDialer


class ProbeOptions(Section):
    """`[backends.NAME.health]`; HAProxy's inter, fastinter, downinter, rise, fall."""

    probe: str
    interval: PositiveDuration = 5.0
    fast_interval: PositiveDuration | None = None
    down_interval: PositiveDuration | None = None
    timeout: PositiveDuration | None = None
    rise: int = Field(2, ge=1, le=1000)
    fall: int = Field(3, ge=1, le=1000)
    start: Literal["up", "down"] = "up"

    #: Its servers have to speak HTTP/2.
    needs_http2: ClassVar[bool] = False


class Finding(NamedTuple):
    """What a probe has found. `text`: a few words for people."""

    passed: bool
    text: str
    load: float | None = None  # as the server reports it, in requests
    announces_drain: bool = False


class NoAnswer(Exception):
    """The server's answer is invalid or incomplete; `str(error)` says how in a few words."""


class Probe:
    """One kind of check, with the options of one backend."""

    options: ClassVar[type[ProbeOptions]] = ProbeOptions

    def __init__(self, options: ProbeOptions) -> None:
        """With options of the class `self.options`."""

    async def check(self, dialer: ServerDialer) -> Finding:
        """Check the server that `dialer` leads to, on a connection of its own, which is closed at
        the end. The caller bounds the time.

        Raises NoAnswer or OSError: the check has failed.
        """
        raise NotImplementedError
