"""The dump of the running configuration: values, origins, and no secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Server, load_config
from hermes_lb.config.dump import HIDDEN, settings
from hermes_lb.config.runtime import RuntimeServers

if TYPE_CHECKING:
    from pathlib import Path

FILE = """\
[admin]
token = "a-token-that-is-long-enough"

[log]
access = "off"

[[frontends]]
name = "public"
bind = "127.0.0.1:0"
default_backend = "agents"

[backends.agents]
affinity = { cookie = "S", secret = "cookie-secret" }
pins = { redis = "redis://:${PASSWORD}@127.0.0.1/0" }

[[backends.agents.servers]]
name = "a"
address = "${HOST}:1"

[[backends.agents.servers]]
name = "b"
address = "127.0.0.1:2"
max_connections = 4
"""
SECRETS = ("a-token-that-is-long-enough", "cookie-secret", "hunter2", "127.0.0.9")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PASSWORD", "hunter2")
    monkeypatch.setenv("HOST", "127.0.0.9")
    path = tmp_path / "lb.toml"
    path.write_text(FILE)
    return load_config(path)


def dumped(config: Any, runtime: RuntimeServers | None = None) -> dict[str, tuple[Any, str]]:
    rows = settings(config, runtime or RuntimeServers(), lambda backend: {})
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: (row["value"], row["origin"].rpartition("/")[2]) for row in rows}


def test_each_value_has_its_origin(config: Any) -> None:
    rows = dumped(config)
    assert rows["log.access"] == ("off", "lb.toml:5")
    assert rows["log.format"] == ("httplog", "default")
    assert rows["frontends.public.default_backend"] == ("agents", "lb.toml:10")
    assert rows["backends.agents.servers.b.max_connections"] == (4, "lb.toml:23")
    assert rows["backends.agents.servers.a.max_connections"] == (0, "default")


def test_no_secret_is_shown(config: Any) -> None:
    rows = dumped(config)
    assert rows["admin.token"] == (HIDDEN, "lb.toml:2")
    assert rows["backends.agents.affinity.secret"][0] == HIDDEN
    assert rows["backends.agents.pins.redis"][0] == "redis://:${PASSWORD}@127.0.0.1/0"
    assert rows["backends.agents.servers.a.address"] == (
        "${HOST}:1",
        "lb.toml:18 (environment)",
    )
    text = repr(rows)
    assert [secret for secret in SECRETS if secret in text] == []


def test_a_copy_of_a_configuration_hides_the_same(config: Any) -> None:
    """`[admin]` is held back in a reload, by a copy."""
    copy = config.model_copy(update={"admin": config.admin})
    assert dumped(copy) == dumped(config)
    assert copy == config


def test_what_operators_have_set_is_of_the_runtime(config: Any) -> None:
    new = Server.model_validate({"name": "c", "address": "127.0.0.1:3"})
    [_, second] = config.backends["agents"].servers
    runtime = RuntimeServers().with_added("agents", new).with_removed("agents", "a")
    runtime = runtime.with_changed("agents", second, {"max_connections": 9})
    rows = dumped(config, runtime)
    assert rows["backends.agents.servers.a"] == ("removed", "runtime")
    assert "backends.agents.servers.a.address" not in rows
    assert rows["backends.agents.servers.b.max_connections"] == (9, "runtime")
    assert rows["backends.agents.servers.b.address"] == ("127.0.0.1:2", "lb.toml:22")
    assert rows["backends.agents.servers.c.address"] == ("127.0.0.1:3", "runtime")


def test_a_dict_has_no_lines() -> None:
    config = load_config(
        {
            "admin": {"token": "a-token-that-is-long-enough"},
            "frontends": [{"name": "f", "bind": "127.0.0.1:0", "default_backend": "b"}],
            "backends": {"b": {"servers": [{"name": "s", "address": "127.0.0.1:1"}]}},
        }
    )
    rows = dumped(config)
    assert rows["admin.token"][0] == HIDDEN
    assert rows["backends.b.servers.s.address"] == ("127.0.0.1:1", "default")
