"""The deletion cost of a worker's pod, beside a fake API server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.pod_deletion_cost import ANNOTATION, PodDeletionCost
from tests.support.kubernetes.objects import pod
from tests.support.kubernetes.server import FakeApiServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


def cost(api: FakeApiServer, name: str = "worker-1") -> str | None:
    item = api.store.get("pods", "default", name)
    assert item is not None
    found: str | None = item["metadata"]["annotations"].get(ANNOTATION)
    return found


async def test_it_follows_the_load_and_is_written_when_it_has_changed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("good\n")
    load = 0
    async with FakeApiServer() as api:
        api.tokens, api.allowed = {"good"}, {("patch", "pods")}
        for name in ("worker-1", "worker-2"):
            api.store.put("pods", pod(name))
        kept = PodDeletionCost(
            lambda: load, server=api.url, namespace="default", pod="worker-1",
            token_file=token, every_s=0.01,
        )  # fmt: skip
        async with kept.kept():
            await until(lambda: cost(api) == "0")
            written = len(api.requests)
            load = 7
            await until(lambda: cost(api) == "7")
            assert len(api.requests) == written + 1
        assert cost(api, "worker-2") is None


async def test_a_refusal_is_logged_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_text("good")
    async with FakeApiServer() as api:
        api.allowed = set()
        api.store.put("pods", pod("worker-1"))
        kept = PodDeletionCost(
            lambda: 3, server=api.url, namespace="default", pod="worker-1",
            token_file=token, every_s=0.01,
        )  # fmt: skip
        caplog.set_level("INFO")
        async with kept.kept():
            await until(lambda: len(api.requests) >= 3)
            api.allowed = None
            await until(lambda: cost(api) == "3")
            await until(lambda: "written again" in caplog.text)
    assert caplog.text.count("the pod-deletion-cost can't be written: 403") == 1


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "POD_NAME", "POD_NAMESPACE"])
def test_a_missing_variable_is_named(missing: str) -> None:
    environment = dict.fromkeys(("KUBERNETES_SERVICE_HOST", "POD_NAME", "POD_NAMESPACE"), "a")
    PodDeletionCost.of_this_pod(lambda: 0, environment)
    del environment[missing]
    with pytest.raises(ValueError, match=missing):
        PodDeletionCost.of_this_pod(lambda: 0, environment)
