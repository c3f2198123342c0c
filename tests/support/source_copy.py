"""Programs that run in a changed copy of the project: what does a new strategy or counter take?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def copy_packages(folder: Path, *packages: str) -> None:
    """Copy these folders of the project, without bytecode: another process may be writing it."""
    for package in packages:
        shutil.copytree(
            _ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )


def run_in(folder: Path, program: str) -> str:
    """Return what `program` prints, run with the packages of `folder`. Fails unless it exits 0."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
