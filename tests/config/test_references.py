"""Names that must exist or be distinct, addresses that must be free, routes that can be reached."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_lb.config import Route
from hermes_lb.config.references import check_references
from hermes_lb.options.problems import dotted

SERVER = {"name": "a", "address": "h:1"}


def found(
    *frontends: dict[str, Any], backends: dict[str, Any] | None = None, **more: Any
) -> list[str]:
    if backends is None:
        backends = {"agents": {"servers": [SERVER]}}
    findings = check_references({"frontends": list(frontends), "backends": backends, **more})
    return [f"{dotted(path)}: {message}" for path, message in findings]


def servers(*given: dict[str, Any], **more: Any) -> list[str]:
    return found(backends={"agents": {"servers": list(given), **more}})


def routes(*given: dict[str, Any]) -> list[str]:
    return found({"routes": [{"backend": "agents", **route} for route in given]})


def test_backends_exist() -> None:
    assert found({"default_backend": "agents", "routes": [{"backend": "agents"}]}) == []
    assert found({"default_backend": "agens", "routes": [{"backend": "zzz"}]}) == [
        'frontends[0].default_backend: there is no backend "agens"; did you mean "agents"?',
        'frontends[0].routes[0].backend: there is no backend "zzz"; the backends are "agents"',
    ]
    assert found({"default_backend": "x"}, backends={}) == [
        'frontends[0].default_backend: there is no backend "x"; the backends are not given'
    ]


def test_frontends_have_names_of_their_own() -> None:
    assert found({"name": "a"}, {"name": "b"}) == []
    assert found({"name": "a"}, {"name": "b"}, {"name": "a"}) == [
        'frontends[2].name: "a" is the name of frontends[0] too; '
        "each frontend needs a name of its own"
    ]


def test_an_address_is_bound_once() -> None:
    assert found({"bind": "*:80"}, {"bind": ["*:0", "*:0", "127.0.0.1:80"]}) == []
    assert found({"bind": ["*:80", "0.0.0.0:80"]}, {"bind": ":80"}) == [
        'frontends[0].bind[1]: "0.0.0.0:80" is taken by frontends[0].bind[0] already',
        'frontends[1].bind: "0.0.0.0:80" is taken by frontends[0].bind[0] already',
    ]


def test_the_admin_listener_has_its_address_even_if_it_is_not_given() -> None:
    taken = ['frontends[0].bind: "127.0.0.1:9900" is taken by admin.bind already']
    assert found({"bind": "127.0.0.1:9900"}) == taken
    assert found({"bind": "127.0.0.1:9900"}, admin={}) == taken
    assert found({"bind": "127.0.0.1:9900"}, admin={"bind": "127.0.0.1:1"}) == []
    assert found({"bind": "127.0.0.1:9900"}, admin={"enabled": False}) == []


def test_servers_have_names_of_their_own_within_a_backend() -> None:
    assert servers(SERVER, {"name": "b"}) == []
    assert found(backends={"x": {"servers": [SERVER]}, "y": {"servers": [SERVER]}}) == []
    assert servers(SERVER, SERVER | {"address": "h:2"}, affinity={"cookie": "C"}) == [
        'backends.agents.servers[1].name: "a" is the name of backends.agents.servers[0] too; '
        "each server needs a name of its own"
    ]


def test_a_backend_is_not_all_backups() -> None:
    assert servers({"name": "a", "backup": True}, {"name": "b", "backup": False}) == []
    assert servers({"name": "a", "backup": True}, {"name": "b", "backup": True}) == [
        "backends.agents.servers: every server is a backup; at least one must not be"
    ]


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        ({"name": "a", "cookie": "x"}, {"name": "b", "cookie": "x"}, "cookie"),
        ({"name": "a"}, {"name": "b", "cookie": "a"}, "cookie"),
        ({"name": "a", "cookie": "b"}, {"name": "b"}, "name"),
    ],
)
def test_a_cookie_value_stands_for_one_server(
    first: dict[str, str], second: dict[str, str], key: str
) -> None:
    (finding,) = servers(first, second, affinity={"cookie": "C"})
    assert finding.startswith(f"backends.agents.servers[1].{key}: ")
    assert finding.endswith(
        "is the cookie's value for backends.agents.servers[0] too; it must stand for one server"
    )
    assert servers(first, second) == []  # without affinity it is not read


@pytest.mark.parametrize(
    ("affinity", "cookie", "why"),
    [
        ({"max_idle": "1h"}, "zone|a", 'no "|", which stands between it and the dates'),
        ({"max_life": "1h"}, "zone|a", 'no "|", which stands between it and the dates'),
        ({"mode": "prefix"}, "zone~b", 'no "~", which stands between it and the server'),
    ],
)
def test_a_cookie_value_ends_where_what_is_written_behind_it_begins(
    affinity: dict[str, str], cookie: str, why: str
) -> None:
    server = {"name": "a", "cookie": cookie}
    (finding,) = servers(server, affinity={"cookie": "C", **affinity})
    assert finding.startswith("backends.agents.servers[0].cookie: ")
    assert why in finding
    assert servers(server, affinity={"cookie": "C"}) == []  # nothing is written behind it
    secret = {"cookie": "C", "secret": "s", **affinity}
    assert servers(server, affinity=secret) == []  # the client gets a digest of it


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({}, {"path": "/x"}),
        ({"path_prefix": "/"}, {"path": "/x"}),
        ({"path_prefix": "/a"}, {"path_prefix": "/ab", "host": "h"}),
        ({"path": "/x"}, {"path": "/x"}),
        ({"host": "H.example"}, {"host": "h.example", "path": "/"}),
        ({"host": "*.example"}, {"host": "h.example"}),
        ({"host": "*.example"}, {"host": "*.sub.example"}),
        ({}, {"match": {"method": "POST"}}),
        ({"match": {}}, {}),
        ({"match": {"method": ["GET", "PUT"]}}, {"match": {"method": "GET"}}),
        ({"match": {"header": {"A": "1"}}}, {"path": "/x", "match": {"header": {"a": "1"}}}),
        ({"match": {"header": {"A": ["1", "2"]}}}, {"match": {"header": {"A": "2", "B": "1"}}}),
        ({"match": {"header": {"A": "1"}}}, {"match": {"header": {"A": {"exact": ["1"]}}}}),
        ({"match": {"header": {"A": {"prefix": "1"}}}}, {"match": {"header": {"A": ["12", "1"]}}}),
        (
            {"match": {"header": {"A": {"prefix": "1"}}}},
            {"match": {"header": {"A": {"prefix": "12"}}}},
        ),
        ({"match": {"query": {"a": {"present": True}}}}, {"match": {"query": {"a": ""}}}),
        (
            {"match": {"query": {"a": {"present": True}}}},
            {"match": {"query": {"a": {"prefix": "1"}}}},
        ),
        (
            {"match": {"query": {"a": {"present": False}}}},
            {"match": {"query": {"a": {"present": False}}}},
        ),
        ({"match": {"content_type": "text/*"}}, {"match": {"content_type": ["TEXT/a", "text/b"]}}),
    ],
)
def test_a_route_that_an_earlier_one_covers_is_never_reached(
    earlier: dict[str, str], later: dict[str, str]
) -> None:
    problem = "frontends[0].routes[1]: never reached: "
    problem += "frontends[0].routes[0] takes every such request first"
    assert routes(earlier, later) == [problem]
    assert routes(as_dumped(earlier), as_dumped(later)) == [problem]


def as_dumped(route: dict[str, str]) -> dict[str, Any]:
    """The plain values of its model, with all that is not given."""
    return Route.model_validate({**route, "backend": "agents"}).model_dump()


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"path": "/x"}, {}),
        ({"path": "/x"}, {"path": "/y"}),
        ({"path": "/x"}, {"path_prefix": "/x"}),
        ({"path_prefix": "/a/"}, {"path": "/a"}),
        ({"path_prefix": "/a/"}, {"host": "h"}),
        ({"host": "h"}, {}),
        ({"host": "h"}, {"host": "g"}),
        ({"host": "*.example"}, {"host": "example"}),
        ({"host": "h.example"}, {"host": "*.example"}),
        ({"host": "h", "path": "/x"}, {"path": "/x"}),
        ({"match": {"method": "POST"}}, {}),
        ({"match": {"method": "POST"}}, {"match": {"method": ["POST", "GET"]}}),
        ({"path": "/x", "match": {}}, {"path": "/y"}),
        ({"match": {"header": {"A": "1"}}}, {"match": {"header": {"A": ["1", "2"]}}}),
        ({"match": {"header": {"A": "1"}}}, {"match": {"header": {"B": "1"}}}),
        ({"match": {"header": {"A": "1"}}}, {"match": {"method": "GET"}}),
        ({"match": {"header": {"A": "1", "B": "1"}}}, {"match": {"header": {"A": "1"}}}),
        ({"match": {"header": {"A": "1"}}}, {"match": {"header": {"A": {"prefix": "1"}}}}),
        ({"match": {"header": {"A": {"prefix": "1"}}}}, {"match": {"header": {"A": ["1", "2"]}}}),
        (
            {"match": {"header": {"A": {"prefix": "12"}}}},
            {"match": {"header": {"A": {"prefix": "1"}}}},
        ),
        (
            {"match": {"header": {"A": {"prefix": "1"}}}},
            {"match": {"header": {"A": {"present": True}}}},
        ),
        (
            {"match": {"query": {"a": {"present": True}}}},
            {"match": {"query": {"a": {"present": False}}}},
        ),
        ({"match": {"query": {"a": {"present": True}}}}, {"match": {"query": {"b": ""}}}),
        ({"match": {"query": {"a": {"present": False}}}}, {}),
        ({"match": {"query": {"a": {"present": False}}}}, {"match": {"query": {"a": "1"}}}),
        ({"match": {"query": {"a": "1"}}}, {"match": {"query": {"A": "1"}}}),
        ({"match": {"content_type": "text/a"}}, {"match": {"content_type": "text/*"}}),
        ({"match": {"content_type": "text/a"}}, {"match": {"method": "POST"}}),
    ],
)
def test_a_route_that_takes_something_of_its_own_is_fine(
    earlier: dict[str, str], later: dict[str, str]
) -> None:
    assert routes(earlier, later) == routes(as_dumped(earlier), as_dumped(later)) == []


@pytest.mark.parametrize("wrong", [None, 5, "x", [], [5], {}, {"a": 5}, [{"name": 5}], [[{}]]])
def test_wrong_shapes_are_left_to_the_checks_of_values(wrong: Any) -> None:
    frontend = {"name": wrong, "bind": wrong, "default_backend": None, "routes": wrong}
    assert check_references({"frontends": wrong, "backends": wrong, "admin": wrong}) == []
    assert found(frontend, admin={"bind": wrong}, backends={"a": wrong}) == []
    assert servers({"name": wrong, "cookie": wrong}, affinity=wrong) == []
    assert routes({"host": wrong, "path_prefix": "/x"}, {"path": "/x"}) in ([], routes({}, {}))
    for match in (
        wrong, {"method": wrong}, {"header": wrong}, {"header": {"A": wrong}},
        {"query": {"a": {"prefix": wrong}}}, {"query": {"a": {"exact": wrong}}},
    ):  # fmt: skip
        for other in (match, {"header": {"A": "x"}, "query": {"a": {"prefix": "x"}}}):
            for pair in ((match, other), (other, match)):
                routes(*({"match": one} for one in pair))


def test_a_route_with_a_condition_of_no_kind_hides_no_other() -> None:
    assert routes({"match": {"header": {"A": {}}}}, {"path": "/x"}) == []
