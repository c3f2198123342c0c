"""Keeps the annotation `controller.kubernetes.io/pod-deletion-cost` of the worker's own pod at its
number of open turns, so that a scale-in removes the emptiest pods first.

Kubernetes asks not to update it often: it is written when it has changed, at intervals. Nothing
depends on it: a failure is logged once, and the next change is tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from agent_worker.tasks import cancel_and_wait, spawn_reporting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

log = logging.getLogger(__name__)

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EVERY_S = 10.0
_TAKES_S = 10.0
# Of the server's reason in the log.
_MOST_TEXT = 200


class PodDeletionCost:
    """Of one pod. `load` is called for the present number of turns."""

    def __init__(
        self,
        load: Callable[[], int],
        *,
        server: str,
        namespace: str,
        pod: str,
        token_file: Path = _ACCOUNT / "token",
        ca_file: Path = _ACCOUNT / "ca.crt",
        every_s: float = _EVERY_S,
    ) -> None:
        self._load = load
        self._url = f"{server}/api/v1/namespaces/{namespace}/pods/{pod}"
        self._token_file = token_file
        self._ca_file = ca_file
        self._every_s = every_s
        self._written: int | None = None
        self._has_failed = False

    def __repr__(self) -> str:
        return f"<PodDeletionCost {self._written} at {self._url}>"

    @classmethod
    def of_this_pod(
        cls, load: Callable[[], int], environment: Mapping[str, str] = os.environ
    ) -> PodDeletionCost:
        """Raises ValueError with the variable that is missing."""
        values = {}
        for name in ("KUBERNETES_SERVICE_HOST", "POD_NAME", "POD_NAMESPACE"):
            if not environment.get(name):
                raise ValueError(f"--pod-deletion-cost needs {name} in the environment")
            values[name] = environment[name]
        host = values["KUBERNETES_SERVICE_HOST"]
        host = f"[{host}]" if ":" in host else host
        server = f"https://{host}:{environment.get('KUBERNETES_SERVICE_PORT', '443')}"
        return cls(load, server=server, namespace=values["POD_NAMESPACE"], pod=values["POD_NAME"])

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep it up to date within the block."""
        task = spawn_reporting(self._run(), name="pod deletion cost")
        try:
            yield
        finally:
            await cancel_and_wait(task)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TAKES_S), cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            while True:
                load = self._load()
                if load != self._written:
                    await self._write(session, load)
                # Workers that were started together do not write together.
                await asyncio.sleep(self._every_s * random.uniform(0.9, 1.1))

    async def _write(self, session: aiohttp.ClientSession, load: int) -> None:
        try:
            refusal = await self._patch(session, load)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            refusal = str(error) or type(error).__name__
        if not refusal:
            self._written = load
            if self._has_failed:
                log.info("the pod-deletion-cost is written again")
        elif not self._has_failed:
            log.warning("the pod-deletion-cost can't be written: %s", refusal)
        self._has_failed = bool(refusal)

    async def _patch(self, session: aiohttp.ClientSession, load: int) -> str:
        """-> the reason of a refusal, or "". Raises OSError, ValueError or ClientError."""
        token = (await asyncio.to_thread(self._token_file.read_text, "ascii")).strip()
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/merge-patch+json",
        }
        tls: ssl.SSLContext | bool = True
        if self._url.startswith("https:"):
            tls = ssl.create_default_context(cafile=self._ca_file)
        patch = {"metadata": {"annotations": {ANNOTATION: str(load)}}}
        async with session.patch(
            self._url, json=patch, headers=headers, ssl=tls, allow_redirects=False
        ) as response:
            if response.status == 200:
                return ""
            text = (await response.content.read(_MOST_TEXT)).decode(errors="replace")
            return f"{response.status}: {ascii(' '.join(text.split()))[1:-1]}"
