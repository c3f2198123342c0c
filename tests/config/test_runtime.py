"""Servers that operators have added, removed or changed, over those of the file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hermes_lb.config import ConfigError, Server, load_config
from hermes_lb.config.runtime import RuntimeServers, checked


def config(*servers: dict[str, Any], name: str = "agents") -> Any:
    return load_config(
        {
            "frontends": [{"name": "f", "bind": "127.0.0.1:0", "default_backend": name}],
            "backends": {name: {"servers": list(servers)}},
        }
    )


A = {"name": "a", "address": "127.0.0.1:1", "max_connections": 5}
B = {"name": "b", "address": "127.0.0.1:2"}
FILE = config(A, B)
NEW = Server.model_validate({"name": "c", "address": "127.0.0.1:3"})


def names(runtime: RuntimeServers, file: Any = FILE) -> dict[str, str]:
    servers = runtime.applied(file.backends)["agents"].servers
    return {server.name: str(server.address) for server in servers}


def changed(runtime: RuntimeServers, **values: Any) -> RuntimeServers:
    [server, *_] = runtime.applied(FILE.backends)["agents"].servers
    return runtime.with_changed("agents", server, values)


def limit(runtime: RuntimeServers, file: Any = FILE) -> int:
    return int(runtime.applied(file.backends)["agents"].servers[0].max_connections)


def test_nothing_set_is_the_file() -> None:
    assert RuntimeServers().applied(FILE.backends) == FILE.backends


def test_servers_are_added_and_removed() -> None:
    runtime = RuntimeServers().with_added("agents", NEW).with_removed("agents", "a")
    assert names(runtime) == {"b": "127.0.0.1:2", "c": "127.0.0.1:3"}
    assert names(runtime.with_removed("agents", "c")) == {"b": "127.0.0.1:2"}


def test_a_removed_name_may_be_added_with_another_address() -> None:
    again = NEW.model_copy(update={"name": "a"})
    runtime = RuntimeServers().with_removed("agents", "a").with_added("agents", again)
    assert names(runtime) == {"b": "127.0.0.1:2", "a": "127.0.0.1:3"}


def test_keys_are_changed_one_over_the_other() -> None:
    runtime = changed(changed(RuntimeServers(), max_connections=7), address="127.0.0.1:9")
    assert names(runtime)["a"] == "127.0.0.1:9"
    assert limit(runtime) == 7
    assert limit(changed(runtime, max_connections=0)) == 0
    assert runtime.origin_of("agents", "a") == {"max_connections", "address"}


@pytest.mark.parametrize(
    ("file", "holds"),
    [
        (config(A, B), True),
        (config(A, {**B, "weight": 3}), True),
        (config({**A, "weight": 3}, B), True),  # another key
        (config({**A, "max_connections": 6}, B), False),  # newer
        (config(A, B, name="others"), False),
    ],
)
def test_a_change_survives_a_reload_unless_the_file_is_newer(file: Any, holds: bool) -> None:
    runtime = changed(RuntimeServers(), max_connections=7)
    after = runtime.after_reload(FILE.backends, file.backends)
    assert (after.origin_of("agents", "a") == {"max_connections"}) is holds


def test_added_and_removed_survive_a_reload_unless_the_file_is_newer() -> None:
    runtime = RuntimeServers().with_added("agents", NEW).with_removed("agents", "b")
    same = runtime.after_reload(FILE.backends, FILE.backends)
    assert names(same) == {"a": "127.0.0.1:1", "c": "127.0.0.1:3"}
    newer = config(A, {"name": "c", "address": "127.0.0.1:33"})
    after = runtime.after_reload(FILE.backends, newer.backends)
    assert names(after, newer) == {"a": "127.0.0.1:1", "c": "127.0.0.1:33"}
    back = after.after_reload(newer.backends, FILE.backends)
    assert names(back) == {"a": "127.0.0.1:1", "b": "127.0.0.1:2"}


def test_a_backend_never_loses_all_by_removals() -> None:
    """Discovery may take away the one that was left."""
    runtime = RuntimeServers().with_removed("agents", "a").with_removed("agents", "b")
    assert names(runtime) == names(RuntimeServers())


def test_they_are_handed_to_the_next_generation() -> None:
    runtime = changed(RuntimeServers(), max_connections=7).with_added("agents", NEW)
    runtime = runtime.with_removed("agents", "b")
    restored = RuntimeServers.restored(json.loads(json.dumps(runtime.state())))
    assert restored.applied(FILE.backends) == runtime.applied(FILE.backends)
    after = restored.after_reload(FILE.backends, config({**A, "max_connections": 6}, B).backends)
    assert after.origin_of("agents", "a") == frozenset()


@pytest.mark.parametrize(
    "values",
    [
        {"address": "nowhere"},
        {"address": "127.0.0.1:0"},
        {"max_connections": -1},
        {"max_connections": "many"},
        {"fail_timeout": "soon"},
        {"server_name": "a\r\nb"},
        {"max_connections": [1] * 100},
    ],
)
def test_values_that_are_not_allowed_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        checked(FILE, changed(RuntimeServers(), **values), FILE.backends)


def test_servers_have_to_fit_together_as_in_a_file() -> None:
    with_cookies = load_config(
        {
            "frontends": [{"name": "f", "bind": "127.0.0.1:0", "default_backend": "agents"}],
            "backends": {
                "agents": {"affinity": {"cookie": "S"}, "servers": [{**A, "cookie": "one"}, B]},
            },
        }
    )
    twin = NEW.model_copy(update={"cookie": "one"})
    with pytest.raises(ConfigError, match="cookie"):
        checked(with_cookies, RuntimeServers().with_added("agents", twin), with_cookies.backends)
