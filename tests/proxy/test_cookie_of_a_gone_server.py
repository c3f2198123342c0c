"""A server that a reload removes finishes its requests, and no client is sent back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.loops import on_both_loops

if TYPE_CHECKING:
    from tests.support.stage import Stage


@pytest.mark.parametrize("mode", ["insert", "rewrite", "prefix"])
@on_both_loops
async def test_no_cookie_names_a_server_that_is_gone(stage: Stage, mode: str) -> None:
    affinity: dict[str, Any] = {"cookie": "S", "mode": mode}
    lb, client, at_origin = await stage.asked(backend={"affinity": affinity})
    other = await stage.serving()
    server = {"name": "other", "address": f"127.0.0.1:{other.port}"}
    config = lb.config.model_dump(mode="json", exclude_defaults=True)
    config["backends"] = {"agents": {"servers": [server], "affinity": affinity}}
    await lb.reconfigure(config)
    await at_origin.respond(b"last", "Set-Cookie: S=own")
    answer = await client.read_response()
    assert (answer.body, answer.get("Set-Cookie")) == (b"last", "S=own")
    await client.get()
    assert (await client.read_response()).body == b"ok"
