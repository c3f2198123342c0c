"""Strategies of one's own: how they are found and checked, and what their mistakes cost."""

from __future__ import annotations

import importlib
import logging
import sys
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.balancing import Strategy, Tracker, make
from hermes_lb.balancing.guarded import Guarded
from hermes_lb.config import Backend, ConfigError, load_config
from tests.support.pools import FakeRequest, FakeWaiter, make_pool
from tests.support.strategies import many
from tests.support.strategy_file import StrategyFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAD = """
import random, time
from pydantic import Field
from hermes_lb.balancing import Learner, Strategy, StrategyOptions, Tracker

class Options(StrategyOptions):
    skip: int = Field(0, ge=0)

"""
GOOD = """
class Mine(Strategy):
    options = Options
    def __init__(self, options=Options()):
        self.skip = options.skip
    def pick(self, pool, request, now, rng):
        found = pool.candidates(request.tried, now)
        return found[self.skip % len(found)] if found else None
"""
PICK = """
class Mine(Strategy):
    def __init__(self, options=None):
        self.count = 0
    def pick(self, pool, request, now, rng):
        found = pool.candidates(request.tried, now)
        """


class Module(StrategyFile):
    """A module of the user's, on the path."""

    def write(self, text: str | None) -> str:
        return super().write(HEAD + (text or ""))


@pytest.fixture
def module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Module]:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"strategy_of_test_{abs(hash(request.node.nodeid))}"
    yield Module(tmp_path, name)
    sys.modules.pop(name, None)


def configured(balance: str, **more: Any) -> Backend:
    return load_config(
        {
            "frontends": [{"name": "public", "bind": "127.0.0.1:0", "default_backend": "agents"}],
            "backends": {
                "agents": {
                    "balance": balance,
                    "servers": [{"name": "a", "address": "127.0.0.1:8001"}],
                    **more,
                }
            },
        }
    ).backends["agents"]


def problem(balance: str, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        configured(balance, **more)
    (text,) = str(caught.value).splitlines()
    return text


def test_it_picks_with_its_options(module: Module) -> None:
    backend = configured(module.write(GOOD), strategy={"skip": 2})
    pool = many(4)
    strategy = make(backend.balance, backend.strategy)
    assert strategy.pick(pool, FakeRequest(), 0.0, Random(0)) is pool.servers[2]


def test_its_options_are_validated(module: Module) -> None:
    name = module.write(GOOD)
    at = "backends.agents.strategy."
    assert problem(name, strategy={"skip": -1}).startswith(f"{at}skip: -1 is too small")
    assert problem(name, strategy={"skp": 1}) == f'{at}skp: unknown key; did you mean "skip"?'
    assert problem(name, strategy={"zzz": 1}) == f"{at}zzz: unknown key; the keys here are skip"
    assert problem(name, strategy={"slack": 1.0}) == (
        f'{at}slack: not an option of "{name}"; it belongs to balance = "dual_map"'
    )


BAD = {
    "class Mine: pass": "must be a subclass of hermes_lb.balancing.Strategy",
    "class Min(Strategy): pass": 'has no class "Mine"; did you mean "Min"?',
    "class Mine(Strategy): pass": "has no method pick(self, pool, request, now, rng)",
    "class Mine(Strategy):\n def pick(self, pool): pass": (
        "must take (self, pool, request, now, rng), and it takes (self, pool)"
    ),
    "class Mine(Strategy):\n async def pick(self, pool, request, now, rng): pass": (
        "must not be async"
    ),
    "class Mine(Strategy):\n options = 3": "must be a subclass of hermes_lb.balancing.StrategyOpt",
    "class Mine(Strategy:": "raises SyntaxError at ",
    "1 / 0": "raises ZeroDivisionError at ",
    "raise SystemExit": "raises SystemExit at ",
    "import no_such_module_of_ours": "no_such_module_of_ours",
    f"{PICK}return None": "returns None although",
    f"{PICK}return 'a'": "returns str: return a Server",
    f"{PICK}return pool.servers[0]": "a server that can't take the request (s0, ",
    f"{PICK}return random.choice(found) if found else None": "is not deterministic: its pick",
    f"{PICK}return found[0]": "raises IndexError at ",
    f"{PICK}pool.lease(found[0], now); return found[0]": "takes a lease: only return the server",
    f"{PICK}raise ValueError('a\\nb')": "raises ValueError at ",
    "class Mine(Tracker):\n"
    " def pick(self, pool, request, now, rng):\n"
    "  self.follow(pool)\n"
    "  return (pool.candidates(request.tried, now) or [None])[0]\n"
    " def started(self, server, request, now): raise KeyError('x')": "started of ",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_bad_one_is_refused_with_the_reason(module: Module, text: str) -> None:
    name = module.write(text)
    said = problem(name)
    assert BAD[text] in said
    assert said.startswith(("backends.agents.balance: ", "backends.agents.strategy: "))


def test_a_module_that_is_not_there() -> None:
    assert 'there is no module "no_such_module_here" for' in problem(
        "python:no_such_module_here:Mine"
    )
    assert 'write "python:module:Class"' in problem("python:sys")


def test_a_changed_module_is_loaded_again_and_a_broken_one_changes_nothing(module: Module) -> None:
    backend = configured(module.write(GOOD))
    before = make(backend.balance)
    configured(module.name)
    assert type(make(module.name).inner) is type(before.inner)  # type: ignore[attr-defined]
    executed = sys.modules[module.module]
    problem(module.write("1 / 0"))
    assert sys.modules[module.module] is executed
    assert type(make(module.name).inner) is type(before.inner)  # type: ignore[attr-defined]
    configured(module.write(GOOD.replace("self.skip %", "(1 + self.skip) %")))
    pool = many(3)
    for strategy, number in ((before, 0), (make(module.name), 1)):
        assert strategy.pick(pool, FakeRequest(), 0.0, Random(0)) is pool.servers[number]


def test_what_was_imported_by_something_else_is_not_executed_again(module: Module) -> None:
    module.write(GOOD)
    before = importlib.import_module(module.module)
    configured(module.name)
    assert sys.modules[module.module] is before


def test_a_module_of_a_package_is_the_one_that_others_import(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = module.path.with_suffix("")
    package.mkdir()
    (package / "__init__.py").touch()
    inner = Module(package, "inner")
    for text in (GOOD, f"{GOOD}# another"):
        inner.write(text)
        configured(f"python:{module.module}.inner:Mine")
        found = sys.modules[f"{module.module}.inner"]
        assert sys.modules[module.module].inner is found
    monkeypatch.delitem(sys.modules, f"{module.module}.inner")


def test_its_module_is_compiled_by_its_own_rules(module: Module) -> None:
    configured(
        module.write(
            f"{GOOD}\nassert Mine.index.__annotations__ == {{'n': int}}".replace(
                "    def pick", "    def index(self, n: int): pass\n    def pick"
            )
        )
    )


class Wrong(Tracker):
    """It returns, or raises, whatever the test says."""

    answer: Any = None

    def pick(self, pool: Any, request: Any, now: float, rng: Random) -> Any:
        self.follow(pool)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def started(self, server: Any, request: Any, now: float) -> Any:
        return self

    def ended(self, output: int) -> None:
        raise RuntimeError("ended")

    def has_room(self, server: Any, now: float) -> bool:
        raise RuntimeError("has_room")

    def joined(self, waiter: Any) -> None:
        raise RuntimeError("joined")

    def left(self, waiter: Any) -> None:
        raise RuntimeError("left")

    def next_waiter(self, first: Any, accepts: Any) -> Any:
        return object()


WRONG: list[Any] = [
    None, "s1", 7, [], object(), many(1).servers[0], ValueError("x\n\x1b[2J"), SystemExit(),
    GeneratorExit(), RecursionError(), "down", "tried", "backup",
]  # fmt: skip


@pytest.mark.parametrize("answer", WRONG, ids=range(len(WRONG)))
def test_a_wrong_pick_costs_the_request_nothing(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool({"down": True}, {}, {}, {"backup": True}, {})
    inner = Wrong()
    inner.answer = {
        "down": pool.servers[0],
        "tried": pool.servers[1],
        "backup": pool.servers[3],
    }.get(answer if isinstance(answer, str) else "", answer)
    strategy = Guarded(inner, "python:mine:Mine")
    picked = []
    with caplog.at_level(logging.ERROR):
        for number in range(100):
            request = FakeRequest(tried=pool.servers[1:2])
            server = strategy.pick(pool, request, number / 10, Random(0))
            assert server is not None
            lease = pool.lease(server, number / 10, request)
            picked.append(server.name)
            lease.release()
    assert picked == ["c", "e"] * 50  # round robin
    assert pool.unserved.strategy_failures >= 100
    assert pool.in_flight == 0
    assert len(caplog.messages) == 1
    assert "\n" not in caplog.messages[0]
    assert "\x1b" not in caplog.messages[0]
    strategy.pick(pool, FakeRequest(tried=pool.servers[1:2]), 61.0, Random(0))
    assert "more since the last line" in caplog.messages[1]


def test_no_lease_and_no_waiter_is_lost_when_it_raises_elsewhere() -> None:
    pool = make_pool({"max_connections": 1})
    strategy = Guarded(Wrong(), "python:mine:Mine")
    server = strategy.pick(pool, FakeRequest(), 0.0, Random(0))
    assert server is not None
    lease = pool.lease(server, 0.0, FakeRequest())
    waiters = [FakeWaiter() for _ in range(3)]
    for waiter in waiters:
        pool.wait(waiter)
    pool.leave(waiters.pop())
    for waiter in waiters:
        lease.release(5)
        assert waiter.server == "a"
        lease = waiter.leases[0]
    lease.release()
    assert (pool.in_flight, len(pool.waiting)) == (0, 0)
    strategy.detach(pool)
    assert pool.follower is None


def test_none_is_no_mistake_where_there_is_no_server() -> None:
    pool = make_pool({"down": True})
    strategy = Guarded(Wrong(), "python:mine:Mine")
    assert strategy.pick(pool, FakeRequest(), 0.0, Random(0)) is None
    assert pool.unserved.strategy_failures == 0


def test_a_constructor_that_raises_later_is_round_robin(module: Module) -> None:
    module.write(
        f"{GOOD}        \nFAILS = []\n".replace(
            "self.skip = ", "self.skip = 1 / (1 - len(FAILS)) and "
        )
    )
    configured(module.name)
    sys.modules[module.name.split(":")[1]].FAILS.append(1)
    pool = many(2)
    strategy = make(module.name)
    picks = [strategy.pick(pool, FakeRequest(), 0.0, Random(0)) for _ in range(4)]
    assert picks == [*pool.servers, *pool.servers]


def test_a_strategy_needs_nothing_but_a_pick() -> None:
    class Least(Strategy):
        def pick(self, pool: Any, request: Any, now: float, rng: Random) -> Any:
            return pool.up[0]

    strategy = Guarded(Least(), "mine")
    assert strategy.rule
    assert strategy.has_room(many(1).servers[0], 0.0)
