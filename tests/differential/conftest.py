"""One arena for all tests of a module: it costs more than a hundred cases do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.differential.arena import Arena

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as running:
        yield running
