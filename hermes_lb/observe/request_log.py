"""How requests that are over are logged, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hermes_lb.observe.access_log import AccessLog
    from hermes_lb.observe.recorder import Recorder


class RequestLog(NamedTuple):
    """The two change together, with `[log]`."""

    recorder: Recorder
    access_log: AccessLog
