"""The pytest plugin: the fixtures `balanced_servers` and `load_balancer`.

A test that fails with them shows their records. The only module that imports pytest; it loads
nothing else before a fixture is used. `-p no:hermes_lb` turns it off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # another plugin must run asynchronous fixtures then
    async_fixture = pytest.fixture  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    from hermes_lb.testing.balancer import WatchedBalancer
    from hermes_lb.testing.rig import Rig
    from hermes_lb.testing.servers import Server


@async_fixture
async def hermes_lb_rig() -> AsyncIterator[Rig]:
    """What this test has started (`hermes_lb.testing.Rig`)."""
    from hermes_lb.testing.rig import Rig

    async with Rig() as rig:
        yield rig


@pytest.fixture
def balanced_servers(hermes_lb_rig: Rig) -> Callable[..., Awaitable[list[Server]]]:
    """`one, two = await balanced_servers(2)`: servers that misbehave on demand (`Rig.servers`)."""
    return hermes_lb_rig.servers


@pytest.fixture
def load_balancer(hermes_lb_rig: Rig) -> Callable[..., Awaitable[WatchedBalancer]]:
    """`lb = await load_balancer(one, two, retries=1)`: a balancer for them (`Rig.balancer`)."""
    return hermes_lb_rig.balancer


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    rig: Rig | None = getattr(item, "funcargs", {}).get("hermes_lb_rig")
    if rig is not None and report.when == "call" and report.failed:
        report.sections.append(("what hermes_lb noted", rig.noted()))
    return report
