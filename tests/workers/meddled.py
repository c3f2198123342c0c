"""Python code that runs first in each process of a balancer, to do what can't be timed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def meddling(folder: Path, code: str) -> str:
    """Shell for `run(before=...)`. `code` knows `argv`, the whole command, as a string."""
    path = folder / "meddling"
    path.mkdir()
    (path / "sitecustomize.py").write_text(
        f"import os, signal, sys\nargv = ' '.join(sys.orig_argv)\n{code}\n"
    )
    return f"export PYTHONPATH={path}:$PYTHONPATH"
