"""`[store]` and `[frontends.routes.turns]`: defaults, and contradictions."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from hermes_lb.config import ConfigError, load_config
from hermes_lb.config.changes import refuse_fixed


def config(turns: dict[str, Any] | None = None, **route: Any) -> dict[str, Any]:
    one = {"path_prefix": "/v1/", "backend": "b", **route}
    if turns is not None:
        one["turns"] = turns
    return {
        "frontends": [{"name": "f", "bind": "127.0.0.1:0", "routes": [one]}],
        "backends": {
            "b": {"servers": [{"name": "s", "address": "127.0.0.1:1"}]},
            "c": {"servers": [{"name": "s", "address": "127.0.0.1:1"}]},
        },
    }


@pytest.mark.parametrize(
    ("turns", "route", "leaves"),
    [
        (None, {}, "abort"),
        ({}, {}, "detach"),
        ({"idempotency": "off"}, {}, "abort"),
        ({"idempotency": "off", "session": "header:X-S"}, {}, "detach"),
        ({"idempotency": "off"}, {"on_disconnect": "drain"}, "drain"),
        ({}, {"on_disconnect": "drain"}, "drain"),
    ],
)
def test_what_happens_when_a_client_leaves(
    turns: dict[str, Any] | None, route: dict[str, Any], leaves: str
) -> None:
    loaded = load_config(config(turns, **route))
    [one] = loaded.frontends[0].routes
    assert one.when_client_leaves == leaves
    # As a worker process gets it.
    again = type(loaded).model_validate(loaded.model_dump())
    assert again.frontends[0].routes[0].when_client_leaves == leaves


@pytest.mark.parametrize(
    ("turns", "route", "problem"),
    [
        ({}, {"on_disconnect": "abort"}, "would cancel what a retry with the same key asks for"),
        ({"journal": False}, {"resume": True}, "resume goes on behind the last event of a journal"),
        ({}, {"resume": True, "resume_ids": "strip"}, "clients resume by the ids"),
        ({"on_unknown": "retry", "idempotency": "off"}, {}, "needs idempotency"),
        ({"session_required": True}, {}, "session_required needs session"),
        ({"idempotency": "off", "journal": False}, {}, "no request is a turn"),
        ({"idempotencyy": "off"}, {}, 'did you mean "idempotency"'),
        ({"principal": "Authorization"}, {}, '"header:NAME"'),
        ({"principal": []}, {}, "empty"),
        ({"session": "json:session_id"}, {}, '"json:/session_id"'),
        ({"key": "cookie:k"}, {}, '"query:NAME"'),
        ({"busy": "queue"}, {}, '"wait" or "reject"'),
        ({"journal_size": "1 elephant"}, {}, "size"),
    ],
)
def test_a_contradiction_is_named(
    turns: dict[str, Any], route: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(config(turns, **route))
    assert problem in str(error.value)
    assert "frontends[0].routes[0]" in str(error.value)


def test_one_source_of_principals_needs_no_brackets() -> None:
    loaded = load_config(config({"principal": "cookie:sid"}))
    turns = loaded.frontends[0].routes[0].turns
    assert turns is not None
    assert turns.principal == ["cookie:sid"]
    assert loaded.backends_with_turns == {"b"}
    assert not load_config(config()).backends_with_turns


@pytest.mark.parametrize(
    ("store", "is_refused"),
    [
        ({"url": "redis://other"}, True),
        ({"url": "redis://h", "key_file": "other"}, True),
        ({}, True),
        ({"url": "redis://user:password@h"}, False),
    ],
)
def test_another_store_needs_a_restart_and_another_login_does_not(
    store: dict[str, str], is_refused: bool
) -> None:
    old = load_config({**config({}), "store": {"url": "redis://h"}})
    new = load_config({**config({}), "store": store})
    refused = pytest.raises(ConfigError, match="the store of turns can't change while it runs")
    with refused if is_refused else nullcontext():
        refuse_fixed(old, new)


def test_a_principal_by_certificate_needs_certificates() -> None:
    with pytest.raises(ConfigError, match="client_headers = true"):
        load_config(config({"principal": "certificate"}))
