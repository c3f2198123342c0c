"""Suites and clients by other people, through the balancer."""

from __future__ import annotations

import pytest

from tests.support.loops import pytest_asyncio_loop_factories

__all__ = ["no_proxies", "pytest_asyncio_loop_factories"]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """These clients obey the environment's proxies, which know nothing of our ports."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
