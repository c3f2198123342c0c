"""Secrets in files: HERMES_TOKENS_FILE instead of HERMES_TOKENS, and likewise for every variable.

As the images of databases have it, for Secrets that Docker or Kubernetes mounts.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

logger = logging.getLogger("agent_worker")

_PREFIX, _SUFFIX = "HERMES_", "_FILE"
TOKENS = "HERMES_TOKENS"
TOKENS_FILE = TOKENS + _SUFFIX
_EVERY_S = 1.0


def read_secret_files(environment: MutableMapping[str, str]) -> None:
    """Set each variable whose file is named. Raises ValueError for a file of no use."""
    for name, path in list(environment.items()):
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX) and path:
            try:
                environment[name.removesuffix(_SUFFIX)] = _read(path)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                raise ValueError(f"can't use {path} ({name}): {why}") from None


async def follow_file(path: str, used: str, use: Callable[[str], None]) -> None:
    """Call `use` with contents of a file that are other than those in use.

    Where it can't be read, or `use` raises ValueError, what was used before stays, and one line
    says so.
    """
    refused = ""
    while True:
        await asyncio.sleep(_EVERY_S)
        try:
            content = _read(path)
            if content != used:
                use(content)
                logger.info("the contents of %s have changed, and are used", path)
            used, refused = content, ""
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            if why != refused:
                refused = why
                logger.warning("can't use %s, the old contents stay in use: %s", path, why)


def _read(path: str) -> str:
    """Without blanks around it. Raises OSError, or ValueError for one that is empty or no text."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    if not text:
        raise ValueError("it is empty")
    return text
