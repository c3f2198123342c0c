"""What a route may have, and the errors for all else."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_lb.config import Config, load_config
from hermes_lb.options.problems import ConfigError

SERVERS = {"servers": [{"name": "s", "address": "127.0.0.1:1"}]}


def configured(**keys: Any) -> dict[str, Any]:
    route = {"path_prefix": "/api/", **keys}
    if not keys.keys() & {"backend", "backends", "return"}:
        route["backend"] = "a"
    return {
        "frontends": [{"name": "f", "bind": "*:1", "default_backend": "a", "routes": [route]}],
        "backends": {"a": SERVERS, "b": {**SERVERS, "affinity": {"cookie": "SERVERID"}}},
    }


@pytest.mark.parametrize(
    ("keys", "place", "says"),
    [
        ({"backend": None}, "", "give one of backend"),
        ({"backend": "a", "return": 404}, "", "give one of backend"),
        ({"backends": {"a": 0, "b": 0}}, "", "a weight above 0"),
        ({"backends": {"a": 1, "c": 1}}, ".backends.c", 'there is no backend "c"'),
        ({"backends": {"a": -1}}, ".backends.a", "allowed is an integer from 0 to 65535"),
        ({"split_by": "client"}, None, ""),
        ({"split_by": "header:X"}, "", "split_by is about several backends"),
        ({"backends": {"a": 1, "b": 1}, "split_by": "ip"}, ".split_by", "write \"client\""),
        ({"allow": ["10.0.0.1/8"]}, ".allow[0]", 'write "10.0.0.0/8"'),
        ({"strip_prefix": "/ap"}, "", "a beginning of path_prefix"),
        ({"strip_prefix": "/api/v1"}, "", "a beginning of path_prefix"),
        ({"strip_prefix": "api"}, ".strip_prefix", 'a path starts with "/"'),
        ({"strip_prefix": "/api", "replace_prefix": "/x"}, "", "not both"),
        ({"path_prefix": None, "replace_prefix": "/x"}, "", "takes the place of path_prefix"),
        ({"add_prefix": "/x?y"}, ".add_prefix", 'a path ends before "?"'),
        ({"add_prefix": "/x\r\n"}, ".add_prefix", "as they travel"),
        ({"strip_prefx": "/api"}, ".strip_prefx", 'did you mean "strip_prefix"?'),
        ({"return": 404, "timeouts": {"server": "1s"}}, "", "timeouts would do nothing"),
        ({"return": 404, "strip_prefix": "/api"}, "", "strip_prefix would do nothing"),
        ({"return": {"status": 302}}, ".return", "location goes with"),
        ({"return": {"status": 200, "location": "/x"}}, ".return", "location goes with"),
        ({"return": {"status": 204, "body": "x"}}, ".return", "has no body"),
        ({"return": {"status": 100}}, ".return.status", "too small"),
        ({"return": {"status": 299}}, ".return.status", "is no registered status"),
        ({"return": {"status": 302, "location": "//evil"}}, ".return.location", "write a path"),
        ({"return": {"status": 302, "location": "/{path}"}}, ".return.location", "write a path"),
        ({"return": {"status": 302, "location": "/{query}"}}, ".return.location", "write a path"),
        ({"return": {"status": 302, "location": "{query}"}}, ".return.location", "write a path"),
        ({"return": {"status": 302, "location": "https://a{host}"}}, ".return.location",
         "write a path"),
        ({"return": {"status": 302, "location": "https://{path}"}}, ".return.location",
         "write a path"),
        ({"return": {"status": 302, "location": "javascript:x"}}, ".return.location",
         "write a path"),
        ({"return": {"status": 302, "location": "/a b"}}, ".return.location", "no blanks"),
        ({"return": {"status": 302, "location": "/\\x"}}, ".return.location", "no backslashes"),
        ({"return": {"status": 302, "location": "/x\n"}}, ".return.location", "line end"),
        ({"return": {"status": 200, "content_type": "x\r\ny"}}, ".return.content_type",
         "a media type"),
        ({"cors": {"origins": []}}, ".cors.origins", "it is empty"),
        ({"cors": {"origins": ["app.example"]}}, ".cors.origins[0]", "an origin in lower case"),
        ({"cors": {"origins": ["https://a.example/"]}}, ".cors.origins[0]", "an origin"),
        ({"cors": {"origins": ["https://a.*.example"]}}, ".cors.origins[0]", "an origin"),
        ({"cors": {"origins": ["*"], "credentials": True}}, ".cors", "name the origins"),
        ({"cors": {"origins": ["null"], "credentials": True}}, ".cors", "name the origins"),
        ({"request_headers": {"set": {"Host": "x"}}}, ".request_headers.set",
         "give host to match it"),
        ({"request_headers": {"set": {"Content-Length": "1"}}}, ".request_headers.set",
         "the balancer's own"),
        ({"request_headers": {"add": {"Transfer-Encoding": "chunked"}}}, ".request_headers.add",
         "the balancer's own"),
        ({"request_headers": {"set": {"X": "a\r\nb"}}}, ".request_headers.set", "line end"),
        ({"request_headers": {"set": {"X": "{status}"}}}, ".request_headers.set",
         "in a response only"),
        ({"request_headers": {"set": {"X": "1", "x": "2"}}}, ".request_headers.set",
         "the same field"),
        ({"request_headers": {"set": {"X Y": "1"}}}, '.request_headers.set."X Y"',
         "letters, digits"),
        ({"request_headers": {"remove": ["Content-*"]}}, ".request_headers.remove",
         "would remove content-length"),
        ({"response_headers": {"set": {"Set-Cookie": "a=b"}}}, ".response_headers.set",
         "the affinity cookie is in one"),
        ({"backend": "b", "response_headers": {"add": {"Set-Cookie": "SERVERID=s"}}},
         ".response_headers.add", "is the affinity cookie of backends.b"),
        ({"backend": "a", "response_headers": {"add": {"Set-Cookie": "SERVERID=s"}}}, None, ""),
        ({"response_headers": {"remove": ["Connection"]}}, ".response_headers.remove",
         "the balancer's own"),
        ({"timeouts": {"server": "0s"}}, ".timeouts.server", "too small"),
        ({"timeouts": {"keep_alive": "1s"}}, ".timeouts.keep_alive", "unknown key"),
        ({"limits": {"head_size": "1KiB"}}, ".limits.head_size", "unknown key"),
        ({"limits": {"body_size": "2048GiB"}}, ".limits.body_size", "too large"),
        ({"log": {"sample": 2.0}}, ".log.sample", "too large"),
        ({"retries": 101}, ".retries", "too large"),
    ],
)  # fmt: skip
def test_each_mistake_is_explained_at_its_key(
    keys: dict[str, Any], place: str | None, says: str
) -> None:
    tables = configured(**keys)
    route = tables["frontends"][0]["routes"][0]
    tables["frontends"][0]["routes"] = [{k: v for k, v in route.items() if v is not None}]
    if place is None:
        assert load_config(tables)
        return
    with pytest.raises(ConfigError) as caught:
        load_config(tables)
    problems = {problem.key: problem.message for problem in caught.value.problems}
    assert list(problems) == [f"frontends[0].routes[0]{place}"]
    assert says in problems[f"frontends[0].routes[0]{place}"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"backends": {"a": 95, "b": 5}}, "/api/* -> a 95, b 5"),
        ({"return": 404}, "/api/* -> return 404"),
        ({"return": {"status": 302, "location": "/x"}}, "/api/* -> return 302 /x"),
        ({"strip_prefix": "/api", "deny": ["10.0.0.0/8"], "retries": 0},
         '/api/* -> a (deny, strip_prefix "/api", retries 0)'),
    ],
)  # fmt: skip
def test_check_says_what_a_route_does(keys: dict[str, Any], text: str) -> None:
    config = load_config(configured(**keys))
    assert str(config.frontends[0].routes[0]) == text
    assert Config.inherited(config.model_dump(mode="json")) == config
