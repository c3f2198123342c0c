"""The plan of a demo, and obstacles to it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hermes_lb.config import load_config
from hermes_lb.demo.plan import (
    Listener,
    Plan,
    Unsuitable,
    make_plan,
    obstacles,
    seconds_until_down,
    seconds_until_up,
)
from hermes_lb.options.units import Address

SHIPPED = (Path(__file__).parents[2] / "configs/lb.toml").read_text()


def plan_of(text: str) -> Plan:
    return make_plan(load_config(tomllib.loads(text)), Path("lb.toml"))


def test_the_plan_of_the_shipped_configuration() -> None:
    plan = plan_of(SHIPPED)
    assert (plan.url, plan.admin_url) == ("http://127.0.0.1:8080", "http://127.0.0.1:9900")
    assert [(w.name, w.url) for w in plan.workers] == [
        (f"agent{i}", f"http://127.0.0.1:800{i}") for i in (1, 2, 3)
    ]
    assert [listener.address.port for listener in plan.listeners] == [8080, 9900, 8001, 8002, 8003]
    assert plan.worker("agent2") is plan.workers[1]
    assert plan.worker("agent4") is plan.worker(None) is None


@pytest.mark.parametrize(
    ("old", "new", "resumes"),
    [
        ("", "", True),
        ("resume = true", "resume = false", False),
        ('path_prefix = "/api/agent/"', 'path_prefix = "/v1/"', False),
        ('path_prefix = "/api/agent/"', 'path_prefix = "/"', True),
        ('path_prefix = "/api/agent/"', 'host = "agents.example.com"', False),
    ],
)
def test_whether_a_sentence_outlives_its_worker_is_read_from_the_route(
    old: str, new: str, resumes: bool
) -> None:
    assert plan_of(SHIPPED.replace(old, new)).resumes is resumes


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[admin]", "[admin]\nenabled = false", r"set \[admin\] enabled = true in lb.toml"),
        ('"agent2"', '"agent2"\ndown = true', None),
        ('name = "agent', 'down = true\nname = "agent', "lb.toml needs two servers or more"),
        ("127.0.0.1:8080", "127.0.0.1:0", "must know the port of frontend public: .* bind"),
        ("127.0.0.1:8080", "unix:/run/lb.sock", "speaks plain HTTP over TCP: give frontend public"),
        ("127.0.0.1:9900", "127.0.0.1:0", r"must know the port of admin: .*\[admin\] bind"),
    ],
)
def test_what_the_demo_cannot_do_is_said(old: str, new: str, why: str | None) -> None:
    text = SHIPPED.replace(old, new)
    if why is None:
        assert [worker.name for worker in plan_of(text).workers] == ["agent1", "agent3"]
        return
    with pytest.raises(Unsuitable, match=why):
        plan_of(text)


def test_addresses_that_cannot_be_had_are_explained() -> None:
    wanted = [
        Listener(Address("127.0.0.1", 0), "free", "-"),
        Listener(Address("203.0.113.7", 8001), "server a", "its address"),
        Listener(Address("nowhere.invalid", 8002), "server b", "its address"),
    ]
    foreign = "is not an address of this machine, where the demo runs everything: change"
    assert obstacles(Plan(Path("x.toml"), "", "", [], wanted)) == [
        f"203.0.113.7 (server a, x.toml) {foreign} its address to one, such as 127.0.0.1:8001",
        f"nowhere.invalid (server b, x.toml) {foreign} its address to one, such as 127.0.0.1:8002",
    ]


def test_the_waits_follow_the_health_checks() -> None:
    backend = plan_of(SHIPPED).workers[0].backend
    assert seconds_until_down(backend) == (3 + 1) * 1 + 5
    assert seconds_until_up(backend) == (2 + 1) * 1 + 5
    unchecked = backend.model_copy(update={"health": None})
    assert seconds_until_down(unchecked) is None
    assert seconds_until_up(unchecked) == 30 + 5
