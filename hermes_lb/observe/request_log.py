"""How requests that are over are logged, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.observe.access_log import AccessLog
    from hermes_lb.observe.recorder import Recorder


@dataclass(slots=True, frozen=True)
class RequestLog:
    """The two change together, with `[log]`."""

    recorder: Recorder
    access_log: AccessLog
