"""What the models refuse, and their schema in words."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from hermes_lb.affinity.cookie import CookieOptions
from hermes_lb.balancing.hashing import HashOptions
from hermes_lb.config import (
    Admin,
    Frontend,
    Route,
    Server,
)
from hermes_lb.config.allowed import allowed, json_schema, keys_of, node_at
from hermes_lb.health.probes.http import HttpOptions


def test_one_value_may_stand_without_its_brackets() -> None:
    def bind(given: object) -> list[object]:
        front = {"name": "f", "bind": given, "default_backend": "b"}
        return [one.address for one in Frontend.model_validate(front).bind]

    assert bind("*:1") == [("0.0.0.0", 1)]
    assert bind(["h:1", "h:2"]) == [("h", 1), ("h", 2)]
    assert HttpOptions.model_validate({"expect_status": "2xx"}).expect_status == ["2xx"]
    assert HttpOptions.model_validate({"expect_status": [200, "3xx"]}).expect_status == [200, "3xx"]


def test_hosts_are_compared_in_lower_case() -> None:
    assert Route(host="Agent.Example.COM", backend="b").host == "agent.example.com"
    assert Route(host="*.Example.com", backend="b").host == "*.example.com"
    assert Route(host="[::1]", backend="b").host == "[::1]"


@pytest.mark.parametrize("host", ["h:80", "http://h", "", "*", "a.*.b", "a b", "::1"])
def test_a_host_is_a_name_without_a_port(host: str) -> None:
    with pytest.raises(ValidationError, match="write a host name without a port"):
        Route(host=host, backend="b")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("health", 'a path starts with "/"'),
        ("", 'a path starts with "/"'),
        ("/a b", "as they travel, such as %20"),
        ("/ä", "as they travel, such as %20"),
        ("/a?b=1", "for the query: match.query"),
        ("/a#b", "for the query: match.query"),
    ],
)
def test_a_route_has_the_path_of_a_request(path: str, message: str) -> None:
    for key in ("path", "path_prefix"):
        with pytest.raises(ValidationError, match=message):
            Route.model_validate({key: path, "backend": "b"})


def test_a_route_has_one_kind_of_path() -> None:
    with pytest.raises(ValidationError, match="not both"):
        Route(path="/a", path_prefix="/a", backend="b")


def test_a_route_strips_the_ids_of_streams_that_it_resumes() -> None:
    assert Route(path="/a", backend="b", resume=True, resume_ids="strip").resume_ids == "strip"
    with pytest.raises(ValidationError, match="give resume = true"):
        Route(path="/a", backend="b", resume_ids="strip")


@pytest.mark.parametrize("bind", ["127.0.0.1:1", "127.1.2.3:0", "localhost:1", "[::1]:1"])
def test_the_admin_listener_may_be_on_loopback(bind: str) -> None:
    assert str(Admin.model_validate({"bind": bind}).bind) == bind


@pytest.mark.parametrize("bind", ["*:1", "10.0.0.1:1", "[::]:1", "127.example.com:1"])
def test_the_admin_listener_may_be_nowhere_else(bind: str) -> None:
    with pytest.raises(ValidationError, match="bind it to loopback"):
        Admin.model_validate({"bind": bind})


def test_a_deadline_is_above_zero_even_where_it_may_be_absent() -> None:
    assert HttpOptions.model_validate({"timeout": "2s"}).timeout == 2.0
    with pytest.raises(ValidationError, match="greater than 0"):
        HttpOptions.model_validate({"timeout": "0s"})


def test_a_server_has_a_real_port() -> None:
    with pytest.raises(ValidationError, match="a port from 1 to 65535"):
        Server.model_validate({"name": "a", "address": "h:0"})


@pytest.mark.parametrize("wrong", ["a b", 'a"', "a,b", "a;b", "a\\b", "", "é", "x" * 129])
def test_a_cookie_value_has_the_characters_of_rfc_6265(wrong: str) -> None:
    with pytest.raises(ValidationError, match="cookie"):
        Server.model_validate({"name": "a", "address": "h:1", "cookie": wrong})
    assert Server.model_validate({"name": "a", "address": "h:1", "cookie": "a:b!"}).cookie == "a:b!"


@pytest.mark.parametrize("hash_on", ["client", "header:X-Key", "cookie:sid", "query:session_id"])
def test_what_a_hash_may_go_by(hash_on: str) -> None:
    assert HashOptions.model_validate({"hash_on": hash_on}).hash_on == hash_on


@pytest.mark.parametrize("wrong", ["", "header", "header:", "path:/x", "header:a b", "client:x"])
def test_a_hash_goes_by_nothing_else(wrong: str) -> None:
    with pytest.raises(ValidationError, match="hash_on"):
        HashOptions.model_validate({"hash_on": wrong})


@pytest.mark.parametrize("factor", [0.0, 1.0, 1.25, 1000.0])
def test_a_load_factor_is_none_or_leaves_room_for_everyone(factor: float) -> None:
    assert HashOptions.model_validate({"load_factor": factor}).load_factor == factor
    with pytest.raises(ValidationError, match=r"1\.0 or more"):
        HashOptions.model_validate({"load_factor": 0.99})


def test_a_table_is_immutable() -> None:
    affinity = CookieOptions(cookie="C")
    with pytest.raises(ValidationError, match="frozen"):
        affinity.cookie = "D"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("process", "max_connections"), "an integer from 1 to 1000000"),
        (("limits", "retry_buffer"), 'a size from 0 to 16MiB, such as "16KiB" or "1MiB"'),
        (("backends", "x", "servers", 3, "max_connections"), "an integer of at least 0"),
        (("backends", "x", "affinity", "samesite"), '"Strict", "Lax" or "None"'),
        (("backends", "x", "affinity", "domain"), 'a domain such as "example.com"'),
        (("backends", "x", "health", "timeout"),
         'a duration above 0, such as "250ms", "5s", "10m" or "1h30m"'),
        (("frontends", 0, "trusted_proxies", 0),
         'a value such as "10.0.0.0/8" or "2001:db8::/32" or "unix:"'),
        (("admin", "enabled"), "true or false"),
        (("log",),
         "a table with the keys access, format, facility, tag, sample, slow, traceparent, "
         "capture_trace, otlp"),
        (("log", "bogus"), "no value"),
    ],
)  # fmt: skip
def test_the_schema_in_words(path: tuple[str | int, ...], words: str) -> None:
    assert allowed(node_at(path)) == words


def test_every_pattern_has_words() -> None:
    """No message contains a regular expression."""

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str):
                assert not allowed(node).startswith("text like")
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(json_schema())


def test_the_schema_is_json_and_knows_every_table() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["properties"]["limits"]["default"]["head_size"] == 32_768
    assert schema["$defs"]["Admin"]["properties"]["bind"]["default"] == "127.0.0.1:9900"
    assert keys_of(node_at(("backends", "any", "servers", 0)))[:2] == ["name", "address"]
    assert node_at(("backends", "any", "servers", 0, "bogus", "x")) is None
