"""A route that has nothing of its own costs nothing, whatever the other routes have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hermes_lb

if TYPE_CHECKING:
    from types import FrameType

    from tests.support.stage import Stage

# What happens by the clock, and not with each request.
_ELSEWHERE = ("deadlines.py", "access_log.py", "httplog.py:_moment", "wall_clock.py")

_PACKAGE = str(Path(hermes_lb.__file__).parent)


def counter(calls: list[str]) -> Any:
    """A profiler that notes the calls of functions of the balancer."""

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(_PACKAGE):
            calls.append(f"{Path(code.co_filename).name}:{code.co_qualname}")

    return profile


RICH = {
    "path_prefix": "/rich/",
    "backend": "agents",
    "allow": ["127.0.0.0/8"],
    "strip_prefix": "/rich",
    "request_headers": {"set": {"X-A": "{client}"}},
    "response_headers": {"set": {"X-B": "{server}"}},
    "cors": {"origins": ["https://app.example"]},
    "timeouts": {"server": "10s"},
    "limits": {"request_rate": 1000.0},
    "log": {"sample": 0.5},
}
PLAIN = {"path_prefix": "/plain/", "backend": "agents"}


async def calls_of(stage: Stage, target: str, *routes: dict[str, Any]) -> list[str]:
    """The functions that one small GET calls, on connections that were used before."""
    _, client, _ = await stage.served(frontend={"routes": list(routes)})
    for _ in range(20):  # all caches are warm, and the last look of a sweep is the same
        await client.ask(target)
    found: list[list[str]] = []
    for _ in range(5):
        calls: list[str] = []
        sys.setprofile(counter(calls))
        try:
            await client.ask(target)
        finally:
            sys.setprofile(None)
        found.append([call for call in calls if not call.startswith(_ELSEWHERE)])
    return min(found, key=len)  # without a sweep in between


@pytest.mark.pure_only
@pytest.mark.http1_only("the same functions")
async def test_a_plain_route_calls_the_same_functions_beside_a_rich_one(stage: Stage) -> None:
    alone = await calls_of(stage, "/plain/x", PLAIN)
    beside = await calls_of(stage, "/plain/x", PLAIN, RICH)
    assert beside == alone
    assert not any("polic" in call or "variables" in call for call in alone)
