"""The keys that say how servers are reached: `tls`, `proxy_protocol`, `resolve`, Unix sockets."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_lb.config import Backend, ConfigError, Server, ServerTls, UnixAddress, load_config

SERVER = {"name": "agent1", "address": "agents.internal:8443"}


def problems(**backend: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(
            {
                "frontends": [{"name": "f", "bind": ":0", "default_backend": "a"}],
                "backends": {"a": {"servers": [SERVER], **backend}},
            }
        )
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


def server(**keys: Any) -> Server:
    return Server.model_validate({**SERVER, **keys})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (True, ServerTls()),
        (False, None),
        (None, None),
        ({}, ServerTls()),
        ({"verify": False}, ServerTls(verify=False)),
    ],
)
def test_true_stands_for_a_table_in_which_nothing_is_set(
    written: object, meant: ServerTls | None
) -> None:
    assert Backend.model_validate({"tls": written, "servers": [SERVER]}).tls == meant


@pytest.mark.parametrize(
    ("tls", "problem"),
    [
        ({"key": "lb.key"}, "backends.a.tls: key belongs to a certificate: give that, too"),
        (
            {"verify": False, "ca": "ca.pem"},
            "backends.a.tls: with verify = false ca is not used: remove one of them",
        ),
        (
            {"min_version": "1.1"},
            'backends.a.tls.min_version: "1.1" is not allowed; allowed is "1.2" or "1.3"',
        ),
        (
            {"server_name": "a b"},
            'backends.a.tls.server_name: "a b" is not allowed; '
            'write a host name such as "agents.internal"',
        ),
    ],
)
def test_what_is_wrong_with_tls_is_said(tls: dict[str, Any], problem: str) -> None:
    assert problems(tls=tls) == [problem]


def test_a_certificate_has_to_be_checked_for_some_name() -> None:
    unix = {"name": "agent1", "address": "unix:/run/agent1.sock"}
    assert problems(tls=True, servers=[unix]) == [
        "backends.a: agent1 has no host name to check its certificate for: "
        "give server_name, there or in tls"
    ]
    for backend in (
        {"tls": {"server_name": "agents.internal"}, "servers": [unix]},
        {"tls": True, "servers": [{**unix, "server_name": "agents.internal"}]},
        {"tls": {"verify": False}, "servers": [unix]},
    ):
        assert Backend.model_validate(backend).tls is not None


def test_a_server_may_be_at_a_unix_socket() -> None:
    assert server(address="unix:/run/agent1.sock").address == UnixAddress("/run/agent1.sock")


def test_a_server_may_be_at_a_link_local_address() -> None:
    assert str(server(address="[fe80::1%eth0]:8000").address) == "[fe80::1%eth0]:8000"


@pytest.mark.parametrize("address", ["10.0.0.1:80", "[::1]:80", "unix:/run/agent1.sock"])
def test_what_is_no_name_is_not_resolved(address: str) -> None:
    (problem,) = problems(servers=[{**SERVER, "address": address, "resolve": "10s"}])
    assert problem == (
        f"backends.a.servers[0]: resolve is for host names, and {address} is not one: remove it"
    )


def test_a_name_to_resolve_leaves_room_for_the_address() -> None:
    assert server(name="p" * 24, resolve="10s").resolve == 10.0
    (problem,) = problems(servers=[{**SERVER, "name": "p" * 25, "resolve": "10s"}])
    assert "a name has 24 characters at most" in problem


def test_a_label_of_a_host_name_has_63_characters_at_most() -> None:
    assert server(address="a" * 63 + ".internal:80").name == "agent1"
    (problem,) = problems(servers=[{**SERVER, "address": "a" * 64 + ".internal:80"}])
    assert "is not allowed; write " in problem


def test_a_certificate_s_name_has_no_dot_at_its_end() -> None:
    assert server(server_name="agents.internal.").server_name == "agents.internal"


def test_on_marked_down_says_what_it_is_about() -> None:
    health = {"path": "/health"}
    assert problems(health=health, on_marked_down="close") == [
        'backends.a.on_marked_down: "close" is not allowed; allowed is "shutdown_sessions"'
    ]
    assert problems(on_marked_down="shutdown_sessions") == [
        "backends.a: on_marked_down needs a health table: only checks mark a server down"
    ]
    backend = {"health": health, "servers": [SERVER]}
    assert Backend.model_validate(backend).on_marked_down is None
    backend["on_marked_down"] = "shutdown_sessions"
    assert Backend.model_validate(backend).on_marked_down == "shutdown_sessions"
