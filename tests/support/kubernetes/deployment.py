"""A Deployment at the fake API server: pods are real worker processes, and this is their controller
and their kubelet.

A pod that is terminated has `serving` and `terminating` until its process has ended. Its `preStop`
is a condition here, where a cluster has a pause: all balancers drain it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from agent_worker.pod_deletion_cost import ANNOTATION
from tests.support.kubernetes.objects import endpoint, endpoint_slice, pod

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.kubernetes.server import FakeApiServer


class Deployment:
    """`agents`; `stop` ends all pods at once."""

    def __init__(self, api: FakeApiServer, token: Path, *options: str) -> None:
        self.api = api
        self.ports: dict[str, int] = {}
        self._token = token
        self._options = options
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._started = 0

    @property
    def pods(self) -> list[str]:
        """Those that are not terminating, oldest first."""
        return list(self.ports)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def cost(self, name: str) -> int | None:
        item = self.api.store.get("pods", "default", name) or {}
        found = item.get("metadata", {}).get("annotations", {}).get(ANNOTATION)
        return None if found is None else int(found)

    async def add(self) -> str:
        """Start a pod; returns when it is ready."""
        self._started += 1
        name = f"agents-{self._started}"
        self.api.store.put("pods", pod(name))
        about = {
            "POD_NAME": name, "POD_NAMESPACE": "default",
            "FAKE_API": self.api.url, "FAKE_TOKEN": str(self._token),
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.agent.pod", "--port", "0", "--name", name,
            "--pod-deletion-cost", *self._options,
            env=os.environ | about, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._processes[name] = process
        assert process.stdout is not None
        said = ""
        while "listening on http://" not in said:
            line = (await process.stdout.readline()).decode()
            assert line, f"{name} has ended: {said}"
            said += line
        self.ports[name] = int(said.split("listening on http://127.0.0.1:")[1].split()[0])
        self._put(name, ready=True)
        return name

    def _put(self, name: str, **conditions: Any) -> None:
        ports = [{"name": "http", "port": self.ports[name], "protocol": "TCP"}]
        found = endpoint("127.0.0.1", name, **conditions)
        slices = endpoint_slice([found], name=f"agents-{name}", ports=ports)
        self.api.store.put("endpointslices", slices)

    async def remove(self, name: str, pre_stop: Callable[[str], Awaitable[None]]) -> int:
        """Terminate a pod -> its exit status, when it is gone."""
        self._put(name, ready=False, serving=True, terminating=True)
        del self.ports[name]
        await pre_stop(name)
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        self.api.store.delete("endpointslices", "default", f"agents-{name}")
        self.api.store.delete("pods", "default", name)
        assert process.returncode is not None
        return process.returncode

    def emptiest(self) -> str:
        """The pod that a ReplicaSet removes first: that with the lowest cost."""
        return min(self.pods, key=lambda name: self.cost(name) or 0)

    async def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            await process.communicate()
