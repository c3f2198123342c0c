"""The changes of a reload in words, those that need a restart, and secrets that are not shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.config import Config, ConfigError
from hermes_lb.config.changes import describe_changes, hold_back, refuse_fixed
from tests.support.examples import examples

SERVERS = [{"name": "a", "address": "10.0.0.1:80"}, {"name": "b", "address": "10.0.0.2:80"}]


def config(**sections: Any) -> Config:
    """A small configuration with these sections instead."""
    return Config.model_validate(
        {
            "frontends": [{"name": "public", "bind": "127.0.0.1:80", "default_backend": "agents"}],
            "backends": {"agents": {"servers": SERVERS}},
            **sections,
        }
    )


def frontend(**more: Any) -> Config:
    """A configuration whose frontend says this, too."""
    given = {"name": "public", "bind": "127.0.0.1:80", "default_backend": "agents", **more}
    return config(frontends=[given])


def backend(**more: Any) -> Config:
    return config(backends={"agents": {"servers": SERVERS, **more}})


def routes(*paths: str) -> Config:
    return frontend(routes=[{"path": path, "backend": "agents"} for path in paths])


# Changes.


def test_with_another_strategy_the_options_that_were_given_are_named():
    by_key = backend(balance="maglev", strategy={"hash_on": "header:X", "load_factor": 2.0})
    by_time = backend(balance="peak_ewma", strategy={"tau": "3s"})
    assert describe_changes(by_key, by_time) == [
        'backends.agents.balance: "maglev" -> "peak_ewma"',
        'backends.agents.strategy.hash_on: "header:X" -> "client"',
        "backends.agents.strategy.load_factor: 2 -> 1.25",
        "backends.agents.strategy.tau: 10 -> 3",
    ]
    assert describe_changes(backend(balance="maglev"), backend(balance="prequal")) == [
        'backends.agents.balance: "maglev" -> "prequal"'
    ]


def test_of_the_same_nothing_is_said():
    assert describe_changes(config(), config()) == []
    assert describe_changes(config(), config(timeouts={"server": 300})) == []  # the default


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (config(timeouts={"server": "1m"}), "timeouts.server: 300 -> 60"),
        (config(timeouts={"queue": "250ms"}), "timeouts.queue: 30 -> 0.25"),
        (config(limits={"body_size": "1KiB"}), "limits.body_size: 104857600 -> 1024"),
        (config(log={"access": "off"}), 'log.access: "stdout" -> "off"'),
        (config(process={"workers": "auto"}), 'process.workers: 1 -> "auto"'),
        (frontend(trace=True), "frontends.public.trace: false -> true"),
        (
            frontend(trusted_proxies=["10.0.0.0/8", "unix:"]),
            'frontends.public.trusted_proxies: [] -> ["10.0.0.0/8", "unix:"]',
        ),
        (frontend(redirect_to_https=301), "frontends.public.redirect_to_https: default -> 301"),
        (backend(balance="p2c"), 'backends.agents.balance: "round_robin" -> "p2c"'),
        (backend(health={"path": "/up"}), "backends.agents.health: default -> a table"),
        (backend(tls=True), "backends.agents.tls: default -> a table"),
    ],
)
def test_a_value_is_reported_as_it_was_and_as_it_is(new: Config, said: str):
    assert describe_changes(config(), new) == [said]


def test_what_is_inside_a_table_is_reported_alone():
    old = backend(health={"interval": "5s"}, pins={"size": 10})
    new = backend(health={"interval": "2s", "expect_status": "2xx"}, pins={"size": 20})
    assert describe_changes(old, new) == [
        "backends.agents.pins.size: 10 -> 20",
        "backends.agents.health.interval: 5 -> 2",
        'backends.agents.health.expect_status: [200] -> ["2xx"]',
    ]


def test_servers_are_reported_by_name():
    b, c = SERVERS[1], {"name": "c", "address": "10.0.0.3:80"}
    new = config(backends={"agents": {"servers": [c, {**b, "weight": 3, "address": "unix:/b"}]}})
    assert describe_changes(config(), new) == [
        "backends.agents.servers.c: added",
        'backends.agents.servers.b.address: "10.0.0.2:80" -> "unix:/b"',
        "backends.agents.servers.b.weight: 1 -> 3",
        "backends.agents.servers.a: removed",
    ]


def test_frontends_and_backends_are_reported_by_name_which_is_quoted_where_toml_does():
    servers = {"servers": SERVERS[:1]}
    old = config(backends={"agents": servers, "v1.old": servers})
    frontends = [{"name": "other", "bind": "127.0.0.1:81", "default_backend": "v1.new"}]
    new = config(frontends=frontends, backends={"agents": servers, "v1.new": servers})
    assert describe_changes(old, new) == [
        "frontends.other: added",
        "frontends.public: removed",
        'backends."v1.new": added',
        'backends."v1.old": removed',
    ]


@pytest.mark.parametrize("where", ["servers", "backends"])
def test_another_order_is_a_change_and_reported(where: str):
    servers = {"servers": SERVERS}
    if where == "servers":
        old, new = config(), backend(servers=SERVERS[::-1])
        assert describe_changes(old, new) == ["backends.agents.servers: in another order"]
    else:  # the order of tables has no meaning, and the comparison ignores it
        old = config(backends={"agents": servers, "more": servers})
        new = config(backends={"more": servers, "agents": servers})
        assert describe_changes(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            frontend(),
            frontend(bind="127.0.0.1:81"),
            ['frontends.public.bind[0].address: "127.0.0.1:80" -> "127.0.0.1:81"'],
        ),
        (
            frontend(),
            frontend(bind=["127.0.0.1:80", "127.0.0.1:81"]),
            ["frontends.public.bind[1]: added"],
        ),
        (routes("/a", "/b"), routes("/a"), ["frontends.public.routes[1]: removed"]),
        (
            routes("/a", "/b"),
            routes("/a", "/c"),
            ['frontends.public.routes[1].path: "/b" -> "/c"'],
        ),
        (
            backend(stick=[{"on": "client"}]),
            backend(stick=[{"on": "header:x-session"}]),
            ['backends.agents.stick[0].on: "client" -> "header:x-session"'],
        ),
    ],
)
def test_tables_without_names_are_reported_by_their_places(
    old: Config, new: Config, said: list[str]
):
    assert describe_changes(old, new) == said


def test_the_order_is_that_of_the_sections():
    old = config()
    new = config(
        backends={"agents": {"servers": SERVERS, "retries": 0}},
        limits={"header_count": 10},
        process={"drain_timeout": "1s"},
    )
    said = [change.split(".")[0] for change in describe_changes(old, new)]
    assert said == ["process", "limits", "backends"]


# Secrets are never shown.

SECRET = st.text("abcdefghijklmnopqrstuvwxyz", min_size=20, max_size=30)


def with_secrets(token: str | None, secret: str | None, redis: str | None) -> Config:
    """Each is where such a thing may be, or nothing is there; letters that nothing else has."""
    admin = {} if token is None else {"token": f"{token}!"}
    agents: dict[str, Any] = {"servers": SERVERS}
    if secret is not None:
        agents["affinity"] = {"cookie": "c", "secret": f"{secret}!"}
    if redis is not None:
        agents["pins"] = {"redis": f"redis://:{redis}!@127.0.0.1:6379/0"}
    return config(admin=admin, backends={"agents": agents})


@examples(50)
@given(st.lists(st.none() | SECRET, min_size=4, max_size=4))
def test_tokens_and_the_secrets_of_cookies_are_not_shown(secrets: list[str | None]):
    old, new = with_secrets(*secrets[:2], None), with_secrets(*secrets[2:], None)
    said = "\n".join(describe_changes(old, new))
    assert not any(secret in said for secret in secrets if secret)
    assert ("admin.token: changed" in said) == (secrets[0] != secrets[2])
    assert ("backends.agents.affinity" in said) == (secrets[1] != secrets[3])


def test_the_password_for_redis_is_not_shown():
    said = describe_changes(with_secrets(None, None, "oldword"), with_secrets(None, None, "word"))
    assert said == ["backends.agents.pins.redis: changed"]


# What only a restart can do.


@pytest.mark.parametrize(
    ("section", "new", "line"),
    [
        ("process", {"workers": 2}, "process.workers: the number of processes"),
        ("process", {"state_file": "/s"}, "process.state_file: the state file"),
    ],
)
def test_what_is_decided_at_the_start_is_refused(section: str, new: Any, line: str):
    with pytest.raises(ConfigError) as caught:
        refuse_fixed(config(), config(**{section: new}), "lb.toml")
    assert str(caught.value) == (
        f"lb.toml: {line} can't change while it runs: restart to change it"
    )


def test_all_that_is_refused_is_reported_at_once():
    new = config(process={"workers": 2, "state_file": "/s"})
    with pytest.raises(ConfigError) as caught:
        refuse_fixed(config(), new)
    assert [problem.key for problem in caught.value.problems] == [
        "process.state_file",
        "process.workers",
    ]


def test_the_admin_listener_waits_and_the_rest_is_applied():
    new = config(timeouts={"queue": 1}, admin={"bind": "127.0.0.1:1", "token": "0123456789abcdef"})
    held, waiting = hold_back(config(), new, instead="upgrade or restart")
    refuse_fixed(config(), held)
    assert (held.admin, held.timeouts.queue) == (config().admin, 1.0)
    assert waiting == [
        "admin.token: changed (waits for: upgrade or restart)",
        'admin.bind: "127.0.0.1:9900" -> "127.0.0.1:1" (waits for: upgrade or restart)',
    ]
    assert hold_back(new, new) == (new, [])


def test_everything_else_may_change():
    new = config(
        process={"max_connections": 5, "drain_timeout": 1},
        log={"access": "off"},
        timeouts={"queue": 1},
        limits={"head_size": "1MiB"},
        frontends=[{"name": "other", "bind": "127.0.0.1:1", "default_backend": "more"}],
        backends={"more": {"servers": SERVERS}},
    )
    refuse_fixed(config(), new)
