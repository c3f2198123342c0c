"""Servers in EndpointSlices: states, names, ports, zones, several slices, and objects that are no
slices."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_lb.discovery.sources.base import DiscoveryFailed, Endpoint
from hermes_lb.discovery.sources.endpoint_slices import EndpointSlices, Wanted
from hermes_lb.options.units import Address
from tests.support.kubernetes.objects import endpoint, endpoint_slice

WANTED = Wanted("agents", "default", "http", "IPv4", None, "backup")


def found(*slices: dict[str, Any], wanted: Wanted = WANTED) -> EndpointSlices:
    known = EndpointSlices(wanted)
    for one in slices:
        known.put(one)
    return known


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ({"ready": True}, "up"),
        ({"ready": None}, "up"),  # absent: true
        ({"ready": True, "serving": True, "terminating": False}, "up"),
        ({"ready": False, "serving": True, "terminating": True}, "leaves"),
        ({"ready": True, "terminating": True}, "leaves"),  # publishNotReadyAddresses
        ({"ready": False, "serving": False, "terminating": True}, "gone"),
        ({"ready": False}, "gone"),
        ({"ready": False, "serving": True}, "gone"),
    ],
)
def test_conditions(conditions: dict[str, Any], state: str) -> None:
    servers = found(endpoint_slice([endpoint("10.0.0.1", "pod-1", **conditions)])).all.present
    if state == "gone":
        assert servers == {}
    else:
        assert servers == {"pod-1": Endpoint(Address("10.0.0.1", 8000), leaves=state == "leaves")}


@pytest.mark.parametrize(
    ("wanted", "ports", "port"),
    [
        ("http", [{"name": "http", "port": 8000}, {"name": "metrics", "port": 9000}], 8000),
        (9000, [{"name": "http", "port": 8000}, {"name": "metrics", "port": 9000}], 9000),
        (None, [{"name": "", "port": 8000}], 8000),
        (None, [{"port": 8000}], 8000),
        (None, [{"name": "http", "port": 8000}, {"name": "metrics", "port": 9000}], None),
        ("htp", [{"name": "http", "port": 8000}], None),
        ("http", [{"name": "http", "port": 70000}], None),
        ("http", [{"name": "http"}], None),  # all ports
        ("http", ["http", None, {"port": "8000"}], None),
    ],
)
def test_ports(wanted: str | int | None, ports: list[Any], port: int | None) -> None:
    slices = found(
        endpoint_slice([endpoint("10.0.0.1", "pod-1")], ports=ports),
        wanted=WANTED._replace(port=wanted),
    )
    assert [one.address.port for one in slices.all.present.values()] == ([port] if port else [])
    assert ("port" in slices.problem) == (port is None)


@pytest.mark.parametrize(
    ("slices", "problem"),
    [
        ([], "has no EndpointSlice: check both names"),
        ([endpoint_slice([])], "has no ready endpoint, 0 not ready"),
        ([endpoint_slice([endpoint("10.0.0.1", "p", ready=False)])], "no ready endpoint, 1 not"),
        (
            [endpoint_slice([endpoint("10.0.0.1")], ports=[{"name": "web", "port": 80}])],
            "has no port http; it has web (80)",
        ),
        ([endpoint_slice([endpoint("agent.internal", "p")])], "'agent.internal' is no address"),
        ([endpoint_slice([endpoint("10.0.0.1", "pod\n1")])], r"'pod\\n1' is no name of a pod"),
    ],
)
def test_a_problem_is_one_line(slices: list[dict[str, Any]], problem: str) -> None:
    said = found(*slices).problem
    assert "service agents in namespace default" in said
    assert problem.replace("\\\\", "\\") in said
    assert said.isprintable()


def test_an_endpoint_of_no_pod_has_the_name_of_its_address() -> None:
    assert list(found(endpoint_slice([endpoint("10.0.0.1")])).all.present) == ["10.0.0.1-8000"]


def test_a_long_name_is_cut_and_stays_distinct() -> None:
    pods = ["p" * 200 + end for end in "ab"]
    names = found(
        endpoint_slice([endpoint(f"10.0.0.{n}", pod) for n, pod in enumerate(pods)])
    ).all.present
    assert len(names) == 2
    assert {len(name) for name in names} == {64}


def test_a_change_names_only_what_has_changed() -> None:
    slices = found(endpoint_slice([endpoint(f"10.0.0.{n}", f"pod-{n}") for n in range(100)]))
    changed = [endpoint(f"10.0.0.{n}", f"pod-{n}") for n in range(99)]
    changed[5] = endpoint("10.0.1.5", "pod-5")
    answer = slices.put(endpoint_slice([*changed, endpoint("10.0.0.200", "pod-200")]))
    assert not answer.is_complete
    assert {name: one.address.host for name, one in answer.present.items()} == {
        "pod-5": "10.0.1.5", "pod-200": "10.0.0.200",
    }  # fmt: skip
    assert list(answer.gone) == ["pod-99"]


def test_a_pod_in_two_slices_stays_until_it_has_left_both() -> None:
    slices = found(
        endpoint_slice([endpoint("10.0.0.1", "pod-1")], name="a"),
        endpoint_slice([endpoint("10.0.0.1", "pod-1", ready=False, serving=True, terminating=True)],
                       name="b"),
    )  # fmt: skip
    assert not slices.all.present["pod-1"].leaves
    answer = slices.remove(endpoint_slice([], name="a"))
    assert answer.present["pod-1"].leaves
    assert list(answer.gone) == []
    assert list(slices.remove(endpoint_slice([], name="b")).gone) == ["pod-1"]
    assert slices.problem.endswith("check both names")


def test_two_endpoints_of_one_name_are_one_server() -> None:
    twice = [endpoint("10.0.0.1", "pod-1", terminating=True), endpoint("10.0.0.2", "pod-1")]
    for order in (twice, twice[::-1]):
        servers = found(endpoint_slice(order)).all.present
        assert servers == {"pod-1": Endpoint(Address("10.0.0.2", 8000))}


def test_slices_of_the_other_family_are_left_out() -> None:
    slices = found(
        endpoint_slice([endpoint("10.0.0.1", "pod-1")], name="four"),
        endpoint_slice([endpoint("2001:db8::1", "pod-1")], name="six", family="IPv6"),
    )
    assert slices.all.present["pod-1"].address.host == "10.0.0.1"


@pytest.mark.parametrize(
    ("others", "zone", "hints", "weight", "is_backup"),
    [
        ("backup", "a", None, None, False),
        ("backup", "b", None, None, True),
        ("backup", "b", ["a", "b"], None, False),
        ("backup", "a", ["b"], None, True),
        ("less", "a", None, 10, False),
        ("less", "b", None, 1, False),
        ("equal", "b", None, None, False),
    ],
)
def test_zones(
    others: Any, zone: str, hints: list[str] | None, weight: int | None, is_backup: bool
) -> None:
    wanted = WANTED._replace(zone="a", other_zones=others)
    slices = found(
        endpoint_slice([endpoint("10.0.0.1", "pod-1", zone=zone, hints=hints)]), wanted=wanted
    )
    [server] = slices.all.present.values()
    assert (server.weight, server.is_backup) == (weight, is_backup)


@pytest.mark.parametrize(
    "item",
    [
        None, [], "slice", {}, {"metadata": None}, {"metadata": {"name": 5}},
        {**endpoint_slice([]), "endpoints": ["10.0.0.1"]},
    ],
)  # fmt: skip
def test_what_is_no_slice_is_a_failure(item: Any) -> None:
    with pytest.raises(DiscoveryFailed):
        found().put(item)


@pytest.mark.parametrize(
    "change",
    [
        {"endpoints": None}, {"endpoints": {}}, {"ports": None}, {"addressType": 4},
        {"endpoints": [{}]}, {"endpoints": [{"addresses": []}]},
        {"endpoints": [{"addresses": [{}], "conditions": []}]},
        {"endpoints": [{"addresses": ["10.0.0.1"], "targetRef": "pod", "hints": [1]}]},
    ],
)  # fmt: skip
def test_missing_and_wrong_parts_raise_nothing(change: dict[str, Any]) -> None:
    for zone in (None, "a"):
        slices = EndpointSlices(WANTED._replace(zone=zone))
        slices.put({**endpoint_slice([]), **change})
        assert set(slices.all.present) <= {"10.0.0.1-8000"}
