"""How many examples a property test has."""

from __future__ import annotations

from typing import Any

from hypothesis import settings


def examples(number: int, **options: Any) -> settings:
    """Settings with `number` examples in the full set, fewer by default (`tests/conftest.py`)."""
    share = settings.default.max_examples / 100  # type: ignore[union-attr]
    return settings(max_examples=max(round(number * share), 5), **options)
