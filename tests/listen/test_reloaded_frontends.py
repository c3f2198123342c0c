"""Frontends and binds that a reload brings and takes away."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import weakref
from typing import TYPE_CHECKING
from unittest.mock import patch

from hermes_lb.config import Bind
from hermes_lb.listen.listener import Listener
from tests.support.loops import on_both_loops
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import pytest

    from hermes_lb import LoadBalancer
    from hermes_lb.config import Config
    from hermes_lb.listen.frontend import Frontend
    from tests.support.stage import Stage


def with_frontends(lb: LoadBalancer, **binds: list[str]) -> Config:
    """Its configuration, but for other frontends, each by its name."""
    present = lb.config.frontends[0]
    frontends = [
        present.model_copy(
            update={"name": name, "bind": [Bind.model_validate(one) for one in some]}
        )
        for name, some in binds.items()
    ]
    return lb.config.model_copy(update={"frontends": frontends})


async def serves(stage: Stage, url: str) -> None:
    client = await stage.client(url)
    assert (await client.ask()).body == b"ok"
    client.close()


@on_both_loops
async def test_a_reload_without_descriptors_to_accept_with_is_a_whole_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []
    monkeypatch.setattr("hermes_lb.listen.listener.logger.warning", lambda *args: said.append(args))
    monkeypatch.setattr("hermes_lb.listen.listener._TRY_AGAIN", 0.01)
    lb = await stage.balancer(await stage.serving())
    new = with_frontends(lb, public=["127.0.0.1:0", "localhost:0"], more=["127.0.0.1:0"])
    lacking = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with patch.object(socket.socket, "dup", side_effect=lacking):
        await lb.reconfigure(new)
    assert lb.config == new
    told = "frontend %s can't accept: %s"
    assert said[:2] == [(told, name, "Too many open files") for name in ("public", "more")]
    assert len(lb.urls) == 3
    for url in lb.urls:
        await serves(stage, url)


@on_both_loops
async def test_a_frontend_that_is_gone_is_forgotten(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    gone: list[weakref.ref[Frontend]] = []
    for number in range(3):
        await lb.reconfigure(
            with_frontends(lb, public=["127.0.0.1:0"], **{f"more{number}": ["127.0.0.1:0"]})
        )
        gone.append(weakref.ref(lb._plane.frontends[1]))
    await lb.reconfigure(with_frontends(lb, public=["127.0.0.1:0"]))

    def are_forgotten() -> bool:
        gc.collect()
        return not any(ref() for ref in gone)

    await eventually(are_forgotten)


async def test_a_reload_that_is_cut_short_loses_sight_of_no_frontend(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lb = await stage.balancer(await stage.serving())
    await lb.reconfigure(with_frontends(lb, public=["127.0.0.1:0"], more=["127.0.0.1:0"]))
    ports = [int(url.rsplit(":", 1)[1]) for url in lb.urls]
    is_starting = asyncio.Event()

    async def starts_for_ever(_: Listener) -> None:
        is_starting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Listener, "accept", starts_for_ever)
    new = with_frontends(lb, public=["127.0.0.1:0", "localhost:0"], more=["127.0.0.1:0"])
    reloading = stage.tasks.spawn(lb._plane.reconfigure(new), name="reload")
    await is_starting.wait()
    reloading.cancel()
    await asyncio.wait({reloading})
    await lb.drain(0)
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
