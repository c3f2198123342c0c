"""The real `kubectl` at the fake API server, which must not be a mirror of the balancer's client:
it lists, watches, patches and deletes there, and the balancer follows."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from tests.discovery.followed import followed
from tests.support.kubernetes.objects import endpoint, endpoint_slice, pod
from tests.support.kubernetes.server import FakeApiServer
from tests.support.needs import needs_outside
from tests.support.programs import run
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

KUBECTL = needs_outside("kubectl", "kubectl")


def command(api: FakeApiServer, folder: Path, *arguments: str) -> list[str]:
    config = folder / "kubeconfig"
    config.touch()
    common = ["--server", api.url, "--cache-dir", str(folder / "cache"), "--kubeconfig"]
    return [KUBECTL, *common, str(config), *arguments]


async def test_kubectl_lists_watches_patches_and_deletes(tmp_path: Path) -> None:
    async with FakeApiServer() as api:

        async def kubectl(*arguments: str) -> str:
            ran = await run(*command(api, tmp_path, *arguments), within=50.0)
            assert ran.status == 0, ran.said
            return ran.said

        for n in (1, 2, 3):
            api.store.put("pods", pod(f"pod-{n}"))
        endpoints = [endpoint("10.0.0.1", "pod-1"), endpoint("10.0.0.2", "pod-2")]
        manifest = tmp_path / "slice.json"
        manifest.write_text(json.dumps(endpoint_slice(endpoints)))

        # A list by pages, with the continue token of the server.
        said = await kubectl("get", "pods", "-o", "name", "--chunk-size", "1")
        assert said.split() == ["pod/pod-1", "pod/pod-2", "pod/pod-3"]
        assert sum("continue" in query for _, _, query in api.requests) == 2

        watching = await asyncio.create_subprocess_exec(
            *command(api, tmp_path, "get", "endpointslices", "-o", "json", "--watch"),
            "--output-watch-events",
            stdout=asyncio.subprocess.PIPE,
        )
        table = {"service": "agents", "namespace": "default", "server": api.url}
        try:
            async with followed({"kubernetes": table, "empty_after": "10ms"}) as found:
                await until(lambda: api.watching == 2)
                await kubectl("create", "--validate=false", "-f", str(manifest))
                await until(lambda: set(found.addresses) == {"pod-1", "pod-2"})

                patch = json.dumps({"endpoints": [endpoint("10.0.0.9", "pod-1")]})
                slices = "endpointslice", "agents-abc"
                await kubectl("patch", *slices, "--type", "merge", "-p", patch)
                await until(lambda: found.is_at({"pod-1": "10.0.0.9:8000"}))

                await kubectl("delete", "endpointslice", "agents-abc", "--wait=false")
                await until(lambda: found.is_at({}))
            # What kubectl has seen meanwhile: one object for each event.
            assert watching.stdout is not None
            seen = ""
            while '"DELETED"' not in seen:
                seen += (await watching.stdout.read(65536)).decode()
            order = [seen.index(kind) for kind in ('"ADDED"', '"MODIFIED"', '"DELETED"')]
            assert order == sorted(order)
        finally:
            watching.kill()
            await watching.wait()

        await kubectl("annotate", "pod", "pod-2", "controller.kubernetes.io/pod-deletion-cost=7")
        item = api.store.get("pods", "default", "pod-2")
        assert item is not None
        cost = {"controller.kubernetes.io/pod-deletion-cost": "7"}
        assert item["metadata"]["annotations"] == cost
        await kubectl("delete", "pod", "pod-3", "--wait=false")
        assert [item["metadata"]["name"] for item in api.store.list("pods", None)] == [
            "pod-1", "pod-2",
        ]  # fmt: skip


async def test_kubectl_names_the_refusals(tmp_path: Path) -> None:
    async with FakeApiServer() as api:
        api.allowed = {("get", "pods")}
        ran = await run(*command(api, tmp_path, "get", "endpointslices"), within=50.0)
        assert ran.status == 1
        assert "(Forbidden)" in ran.said
        assert "cannot list resource" in ran.said
