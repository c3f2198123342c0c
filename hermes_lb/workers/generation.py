"""Whether this process is a first generation, or one that an upgrade has executed."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from hermes_lb.config import Config

HANDOVER = "HERMES_LB_HANDOVER"
"""Environment variable with the descriptor of the previous generation's handover."""


def is_successor() -> bool:
    """True until the handover is taken: workers are running, and have clients."""
    return HANDOVER in os.environ


def inherited_config() -> Config | None:
    """The previous generation's configuration; None without one, or if this code refuses it."""
    if not (text := os.environ.get(HANDOVER)):
        return None
    with os.fdopen(os.dup(int(text)), "rb") as file, suppress(ValueError):
        file.seek(0)
        return Config.restored(json.load(file)["inherited"])
    return None
