"""`ctl upgrade --wait`: waits until the old processes are replaced."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hermes_lb.ctl.errors import CtlError

if TYPE_CHECKING:
    from hermes_lb.ctl.client import AdminClient

# Seconds between two polls, and to wait without progress: a process starts in a second or two, and
# its start fails after 60 s.
_EVERY = 0.5
_PATIENCE = 90.0


def wait_until_upgraded(client: AdminClient, before: dict[str, Any]) -> dict[str, Any]:
    """Wait until no process of `before` takes new connections -> the status then.

    Both are of `/api/v1/status`, `before` from before the upgrade. Draining processes are not
    waited for. Raises CtlError, with the problem, after a while without progress.
    """
    old = {_identity(process) for process in before["processes"]}
    ends, last = time.monotonic() + _PATIENCE, None
    while True:
        time.sleep(_EVERY)
        try:
            status: dict[str, Any] = client.get("status")
            serving = [p for p in status["processes"] if not p["is_draining"]]
            left = [p for p in serving if _identity(p) in old]
            if serving and not left:
                return status
            pids = ", ".join(str(p["pid"]) for p in left)
            wrong = f"process {pids} still runs the old code" if left else "no process serves"
            shown: object = sorted((*_identity(p), p["is_draining"]) for p in status["processes"])
        except CtlError as error:  # the listener is closed while the new code starts
            wrong = shown = str(error)
        if shown != last:
            ends, last = time.monotonic() + _PATIENCE, shown
        elif time.monotonic() >= ends:
            raise CtlError(f"no progress for {_PATIENCE:g} s, giving up: {wrong}; see its log")


def _identity(process: dict[str, Any]) -> tuple[int, float]:
    return process["pid"], process["started_at"]
