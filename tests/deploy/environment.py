"""The environment of tests/outside/deploy.txt, which `make outside` makes."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROGRAMS = ROOT / ".venv-outside" / "deploy" / "bin"

needs_environment = pytest.mark.skipif(
    not (PROGRAMS.parent / ".installed").exists(),
    reason="make outside: .venv-outside/deploy is missing",
)
