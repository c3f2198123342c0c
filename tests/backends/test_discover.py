"""A pool's discovered servers, beside those of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.backends import Pool
from hermes_lb.backends.options import DiscoveredServer
from hermes_lb.config import Backend

if TYPE_CHECKING:
    import pytest


def found(name: str, port: int = 80, **about: Any) -> DiscoveredServer:
    return DiscoveredServer.model_validate(
        {"name": name, "address": f"10.0.0.1:{port}", "found_by": "file", **about}
    )


def backend(*names: str, **about: Any) -> Backend:
    servers = [{"name": name, "address": "10.0.0.9:80"} for name in names]
    return Backend.model_validate(
        {"servers": servers, "discovery": {"file": {"path": "none"}}, **about}
    )


def names(pool: Pool) -> list[str]:
    return [server.name for server in pool.servers]


def test_they_come_and_go_beside_the_configured() -> None:
    pool = Pool("a", backend("fixed"))
    changed, removed = pool.discover([found("one"), found("two")], [])
    assert names(pool) == ["fixed", "one", "two"]
    assert [s.name for s in changed] == ["one", "two"]
    assert removed == []
    assert [s.name for s in pool.up] == names(pool)
    one = pool.find("one")
    changed, removed = pool.discover([found("three")], ["one", "none"])
    assert names(pool) == ["fixed", "two", "three"]
    assert removed == [one]
    assert one is not None
    assert one.state == "maint"
    assert pool.find("one") is None
    pool.reconfigure(backend())
    assert names(pool) == ["two", "three"]


def test_another_address_is_the_same_server() -> None:
    pool = Pool("a", backend())
    pool.discover([found("one"), found("two")], [])
    one = pool.find("one")
    assert one is not None
    one.set_admin("drain")
    one.counters.retries = 7
    one.failed(1.0, "refused")
    one.set_up(False, "refused")
    one.ejected_until = 9.0
    version = pool.version
    pool.discover([found("one", 81)], [])
    assert pool.find("one") is one
    assert str(one.config.address) == "10.0.0.1:81"
    assert (one.admin, one.counters.retries) == ("drain", 7)
    assert (one.fails, one.is_healthy, one.is_ejected) == (0, True, False)
    assert pool.version > version


def test_an_address_of_a_host_name_is_another_server_with_another_port() -> None:
    pool = Pool("a", backend())
    pool.discover([found("one", template="pod")], [])
    one = pool.find("one")
    assert one is not None
    one.set_admin("drain")
    changed, removed = pool.discover([found("one", 81, template="pod")], [])
    assert (removed, changed) == ([one], pool.servers)
    assert [server.state for server in (one, *changed)] == ["maint", "up"]


def test_one_that_leaves_drains_and_may_stay() -> None:
    pool = Pool("a", backend())
    pool.discover([found("one"), found("two", is_leaving=True)], [])
    assert [server.state for server in pool.servers] == ["up", "drain"]
    assert [server.name for server in pool.up] == ["one"]
    pool.discover([found("two"), found("one", is_leaving=True)], [])
    assert [server.state for server in pool.servers] == ["drain", "up"]
    assert [server.name for server in pool.up] == ["two"]


def test_a_name_of_the_configuration_is_not_displaced() -> None:
    pool = Pool("a", backend("fixed"))
    changed, _ = pool.discover([found("fixed")], [])
    assert changed == []
    assert str(pool.servers[0].config.address) == "10.0.0.9:80"
    pool.discover([found("other")], [])
    displaced = pool.find("other")
    assert pool.reconfigure(backend("fixed", "other")) == [displaced]
    assert names(pool) == ["fixed", "other"]


def test_a_lone_server_is_known_as_such() -> None:
    pool = Pool("a", backend())
    pool.discover([found("one")], [])
    assert pool.servers[0].is_only_server
    pool.discover([found("two")], [])
    assert not any(server.is_only_server for server in pool.servers)
    pool.discover([], ["one"])
    assert [server.is_only_server for server in pool.servers] == [True]


def test_what_outlier_detection_knows_of_others_stays() -> None:
    rules = {"consecutive_failures": 2, "min_requests": 1, "max_ejection_time": "10s"}
    pool = Pool("a", backend(outlier={**rules, "ejection_time": "5s"}))
    pool.discover([found(name) for name in ("one", "two", "three")], [])
    outliers, one = pool.outliers, pool.find("one")
    assert outliers is not None
    assert one is not None
    outliers.failed(one, 1.0)
    pool.discover([found("four")], ["three"])
    assert pool.outliers is outliers
    outliers.failed(one, 2.0)
    assert one.is_ejected


def test_a_change_costs_the_servers_nothing_but_the_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No call for each of the others: 5,000 of them would hold the loop up."""
    pool = Pool("a", backend())
    pool.discover([found(f"s{n}", n + 1) for n in range(500)], [])
    called: list[str] = []
    for server in pool.servers:
        server.when_decided = lambda server: called.append(server.name)
    pool.discover([found("s7", 9000)], ["s8"])
    assert set(called) == {"s7"}


def test_requests_wait_only_where_servers_may_come() -> None:
    pool = Pool("a", backend())
    assert not pool.can_wait(())
    pool.expects_servers = True
    assert pool.can_wait(())
    pool.discover([found("one", is_leaving=True)], [])
    assert pool.can_wait(())
    pool.discover([found("two")], [])
    assert pool.can_wait(())
    pool.servers[1].set_admin("maint")
    assert not pool.can_wait(())  # it is there, and down
