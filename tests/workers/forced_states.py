"""Python code that runs first in each process of a balancer, to force states that timing can't."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def meddling(folder: Path, code: str) -> str:
    """Shell code for `run(before=...)`. In `code`, `argv` is the command line as one string."""
    path = folder / "meddling"
    path.mkdir()
    (path / "sitecustomize.py").write_text(
        f"import os, signal, sys\nargv = ' '.join(sys.orig_argv)\n{code}\n"
    )
    return f"export PYTHONPATH={path}:$PYTHONPATH"
