"""`kubernetes = { service = "agents" }`: the EndpointSlices of a service, listed and watched.

As Kubernetes' own clients do it: list, then watch from the list's resource version; bookmarks move
it on without a change, and 410 (too old) means another list. A watch that ends is opened again from
the last version. The permission needed is `list, watch` on `endpointslices` in the namespace.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from hermes_lb.discovery.sources.base import Answer, DiscoveryFailed, Source, SourceOptions
from hermes_lb.discovery.sources.endpoint_slices import EndpointSlices, OtherZones, Wanted
from hermes_lb.options.patterns import pattern

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from random import Random

    from hermes_lb.discovery.sources.kubernetes_api import KubernetesApi

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVICE_NAME = "kubernetes.io/service-name"
_LABEL = pattern(  # RFC 1123 section 2.1, as Kubernetes' names
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", "1 to 63 lower-case letters, digits or -"
)
_URL = pattern(r"^https?://[^\s/?#]+(/[^\s?#]*)?$", 'a URL such as "https://10.96.0.1:443"')

# Seconds of a watch; a random time, so that those of many balancers do not end together.
_WATCH = (60, 120)
# Watches in a row that end within a second and without an event: something is wrong.
_ENDS_AT_ONCE = 3
_AT_ONCE = 1.0


class KubernetesOptions(SourceOptions):
    """`[backends.NAME.discovery.kubernetes]`."""

    service: str = Field(pattern=_LABEL)
    namespace: str | None = Field(None, pattern=_LABEL)
    port: str | int | None = None
    address_type: Literal["IPv4", "IPv6"] = "IPv4"
    zone: str | None = Field(None, min_length=1)
    other_zones: OtherZones = "backup"
    server: str | None = Field(None, pattern=_URL)
    token_file: str | None = Field(None, min_length=1)
    ca_file: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _has_a_safe_token(self) -> Self:
        if self.token_file and self.server and self.server.startswith("http:"):
            raise ValueError("token_file needs a server with https, or everyone can read the token")
        return self


class KubernetesSource(Source):
    options = KubernetesOptions

    def __init__(self, options: KubernetesOptions, rng: Random) -> None:
        self._options = options
        self._rng = rng
        self._api: KubernetesApi | None = None

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()

    async def answers(self) -> AsyncIterator[Answer]:
        from hermes_lb.discovery.sources.kubernetes_api import Expired, KubernetesApi  # aiohttp

        await self.close()  # what has failed is not used again
        options = self._options
        self._api = api = KubernetesApi(*_server_of(options))
        namespace = options.namespace or _own_namespace()
        wanted = Wanted(
            options.service, namespace, options.port, options.address_type,
            options.zone, options.other_zones,
        )  # fmt: skip
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        selected = {"labelSelector": f"{_SERVICE_NAME}={options.service}"}
        relists = 0
        while True:
            try:
                slices, version = EndpointSlices(wanted), ""
                async for page in api.pages(path, selected):
                    items = page.get("items")
                    for item in items if isinstance(items, list) else ():
                        slices.put(item)
                    version = _version_of(page)
                yield slices.all
                async for answer in self._watched(api, path, selected, slices, version):
                    relists = 0
                    yield answer
            except Expired:
                relists += 1
                if relists > _ENDS_AT_ONCE:
                    raise DiscoveryFailed("the API server calls each version expired") from None

    async def _watched(
        self,
        api: KubernetesApi,
        path: str,
        selected: dict[str, str],
        slices: EndpointSlices,
        version: str,
    ) -> AsyncIterator[Answer]:
        """Each change from `version` on. Raises DiscoveryFailed, or Expired."""
        from asyncio import sleep  # not to validate a configuration

        clock = time.monotonic
        in_vain = 0
        while in_vain < _ENDS_AT_ONCE:
            began, has_events = clock(), False
            params = {**selected, "resourceVersion": version}
            async for event in api.watch(path, params, self._rng.randint(*_WATCH)):
                has_events = True
                answer = _applied(event, slices)
                version = _version_of(event.get("object")) or version
                yield answer
            took = clock() - began
            in_vain = 0 if has_events or took >= _AT_ONCE else in_vain + 1
            await sleep(max(0.0, _AT_ONCE - took))  # a server may end each of them at once
        raise DiscoveryFailed("the API server ends each watch at once")


def _applied(event: dict[str, Any], slices: EndpointSlices) -> Answer:
    """The changes of an event. Raises DiscoveryFailed, or Expired."""
    from hermes_lb.discovery.sources.kubernetes_api import Expired

    item = event.get("object")
    match event.get("type"):
        case "ADDED" | "MODIFIED":
            return slices.put(item)
        case "DELETED":
            return slices.remove(item)
        case "BOOKMARK":
            return Answer({}, is_complete=False, problem=slices.problem)
        case "ERROR":
            code = item.get("code") if isinstance(item, dict) else None
            if code == 410:
                raise Expired
            raise DiscoveryFailed(f"the API server ends the watch with an error, code {code!r:.20}")
    raise DiscoveryFailed("the API server sent an event of an unknown type")


def _version_of(item: Any) -> str:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version[:256] if isinstance(version, str) else ""


def _own_namespace() -> str:
    """That of the pod in which this runs."""
    try:
        return (_ACCOUNT / "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


def _server_of(options: KubernetesOptions) -> tuple[str, str | None, str | None]:
    """URL, token and authority: the given ones, or those of the pod's service account. Raises
    DiscoveryFailed."""
    if options.server is not None:
        return options.server, options.token_file, options.ca_file
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if not host:
        raise DiscoveryFailed(
            "not in a pod: the environment has no KUBERNETES_SERVICE_HOST; set server"
        )
    host = f"[{host}]" if ":" in host else host
    url = f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
    token = options.token_file or str(_ACCOUNT / "token")
    return url, token, options.ca_file or str(_ACCOUNT / "ca.crt")
