"""Binds and TLS: valid values, and the messages for invalid ones."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_lb.config import ConfigError, Frontend, load_config
from hermes_lb.config import frontend as frontend_module
from hermes_lb.config.allowed import allowed, node_at

TLS_BIND = {"address": "*:443", "tls": True}


def frontend(**given: Any) -> Frontend:
    [loaded] = load_config(
        {
            "frontends": [{"name": "f", "default_backend": "b", **given}],
            "backends": {"b": {"servers": [{"name": "a", "address": "h:1"}]}},
        }
    ).frontends
    return loaded


def problems(**given: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        frontend(**given)
    return [str(problem).removeprefix("frontends[0]") for problem in caught.value.problems]


@pytest.mark.parametrize(
    "bind",
    [
        "*:443",
        ["*:443"],
        {"address": "*:443"},
        [{"address": "*:443", "tls": False, "proxy_protocol": False}],
    ],
)
def test_an_address_may_stand_for_its_table(bind: Any) -> None:
    [one] = frontend(bind=bind).bind
    assert (str(one), one.tls, one.proxy_protocol, one.mode) == ("0.0.0.0:443", False, False, None)


def test_forms_may_be_mixed() -> None:
    binds = frontend(bind=["[::1]:80", {"address": "unix:/run/lb.sock", "mode": "0660"}]).bind
    assert [str(bind) for bind in binds] == ["[::1]:80", "unix:/run/lb.sock"]
    assert binds[1].mode == "0660"


def test_a_schema_tells_editors_of_all_forms() -> None:
    text = allowed(node_at(("frontends", 0, "bind")))
    assert text == (
        'an array of at least one, each a value such as "0.0.0.0:8080", "[::1]:8000" or '
        '"unix:/run/name.sock" or a table with the keys address, tls, proxy_protocol, mode'
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"bind": "unix:lb.sock"}, '.bind: "unix:lb.sock" is not allowed; write a socket with its '
         'whole path, such as "unix:/run/name.sock"'),
        ({"bind": "unix:/" + "x" * 107}, f'.bind: "unix:/{"x" * 51}..." is not allowed; the path '
         "of a socket has 107 bytes at most"),
        ({"bind": {"address": "*:80", "mode": "0660"}}, ".bind: mode is for sockets in the file "
         'system, such as "unix:/run/lb.sock"'),
        ({"bind": {"address": "unix:/s", "mode": "rw"}}, '.bind.mode: "rw" is not allowed; write '
         'the permissions of a file in octal, such as "0660"'),
        ({"bind": {"adress": "*:80", "address": "*:80"}}, '.bind.adress: unknown key; did you mean '
         '"address"?'),
        ({"bind": ["*:80", {"address": "*:0", "tls": 1}]}, ".bind[1].tls: 1 is not a boolean; "
         "allowed is true or false"),
        ({"bind": ["unix:/s", {"address": "unix:/s"}]}, '.bind[1]: "unix:/s" is taken by '
         "frontends[0].bind[0] already"),
        ({"bind": TLS_BIND}, ": a bind has tls = true: give its certificate in [frontends.tls]"),
        ({"bind": "*:80", "tls": {"certificate": "c"}}, ": [frontends.tls] is used by no bind: "
         'write bind = [{ address = "0.0.0.0:80", tls = true }]'),
        ({"bind": TLS_BIND, "tls": {}}, ".tls.certificate: missing; give text in quotes, not "
         "empty"),
        ({"bind": TLS_BIND, "tls": {"certificate": "c", "min_version": "1.1"}}, '.tls.min_version: '
         '"1.1" is not allowed; allowed is "1.2" or "1.3"'),
        ({"bind": TLS_BIND, "tls": {"certificate": "c", "client_headers": True}}, ".tls: "
         "client_headers needs clients' certificates: give client_ca"),
        ({"bind": TLS_BIND, "tls": {"certificate": "c", "hsts_subdomains": True}}, ".tls: "
         'hsts_subdomains and hsts_preload go with hsts, such as hsts = "365d"'),
        ({"bind": TLS_BIND, "tls": {"certificate": "c", "hsts": "30d", "hsts_preload": True}},
         '.tls: hsts_preload needs hsts = "365d" or more and hsts_subdomains = true '
         "(https://hstspreload.org)"),
        ({"bind": "*:80", "redirect_to_https": 200}, ".redirect_to_https: 200 is not allowed; "
         "allowed is 301, 302, 307 or 308"),
        ({"bind": TLS_BIND, "tls": {"certificate": "c"}, "redirect_to_https": 308,
          "default_backend": None}, ": give default_backend, or at least one route"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_what_is_allowed(given: dict[str, Any], problem: str) -> None:
    assert problems(**given) == [problem]


def test_a_frontend_that_only_redirects_needs_no_backend() -> None:
    assert frontend(bind="*:80", redirect_to_https=301, default_backend=None).routes == []


@pytest.mark.parametrize(
    ("written", "has_ngh2", "speaks", "says"),
    [
        ({"tls": {"certificate": "a.pem"}}, True, True, False),
        ({"tls": {"certificate": "a.pem"}}, False, False, True),
        ({"tls": {"certificate": "a.pem"}, "http2": False}, True, False, False),
        ({"tls": {"certificate": "a.pem"}, "http2": False}, False, False, False),
        ({"tls": {"certificate": "a.pem"}, "http2": True}, True, True, False),
        ({}, True, False, False),
        ({}, False, False, False),
        ({"http2": True}, True, True, False),
    ],
)
def test_http2_is_on_with_tls_where_it_can_be(
    written: dict[str, Any], has_ngh2: bool, speaks: bool, says: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(frontend_module, "find_spec", lambda name: has_ngh2 or None)
    bind = {"address": "127.0.0.1:0", "tls": "tls" in written}
    made = frontend(bind=bind, **written)
    assert made.speaks_http2 is speaks
    assert bool(made.http2_is_off) is says


def test_http2_that_is_asked_for_and_can_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend_module, "find_spec", lambda name: None)
    [problem] = problems(bind="127.0.0.1:0", http2=True)
    assert "http2 needs the package ngh2: pip install 'hermes-lb[http2]'" in problem
