"""SIGTERM is as good as Ctrl-C: both unwind the contexts, which end every process started."""

from __future__ import annotations

import signal


def sigterm_is_ctrl_c() -> None:
    """Let SIGTERM raise what SIGINT does.

    By way of SIGINT, because an event loop that runs has its own way to take that one. A shell has
    the jobs of a script ignore SIGINT: it is taken up again, or neither would end anything.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
