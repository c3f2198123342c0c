"""The HTTP API. Strict: an unknown path, parameter, method or media type is refused, as are a
request without the right token and one that RBAC does not allow."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from tests.support.kubernetes.faults import Faults
from tests.support.kubernetes.store import Conflict, Gone, Object, Store

if TYPE_CHECKING:
    import ssl

# By group and version: resource, kind, short names.
_RESOURCES = {
    "v1": [("pods", "Pod", ["po"])],
    "discovery.k8s.io/v1": [("endpointslices", "EndpointSlice", [])],
}
_KINDS = {name: (api, kind) for api, rows in _RESOURCES.items() for name, kind, _ in rows}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]

# Of a list or watch; others are refused.
_KNOWN = {
    "labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch",
    "allowWatchBookmarks", "timeoutSeconds", "resourceVersionMatch", "sendInitialEvents",
}  # fmt: skip

_BOOKMARK_EVERY = 0.2


def status(code: int, reason: str, message: str) -> Object:
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    }  # fmt: skip


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.body = status(code, reason, message)


class FakeApiServer:
    """`async with FakeApiServer() as api:`; objects are in `api.store`, its address is `api.url`.

    `tokens`: those that are accepted; None: no authentication. `allowed`: verbs and resources, as
    RBAC has them; None: everything.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.store = Store()
        self.faults = Faults()
        self.tokens: set[str] | None = None
        self.allowed: set[tuple[str, str]] | None = None
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # method, path, query
        self.watching = 0  # watches that are open
        self.bookmarks: list[int] = []  # versions that were sent
        self.url = ""
        self._tls = tls
        self._is_ending = False

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_ending = True
        self.store.wake()
        await self._runner.cleanup()

    def lists(self) -> int:
        """First pages of EndpointSlices that were asked for."""
        return sum(
            path.endswith("/endpointslices") and "watch" not in query and "continue" not in query
            for _, path, query in self.requests
        )

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, dict(request.query)))
        try:
            self._authenticate(request)
            self._fail_on_demand()
            return await self._answer(request)
        except Refused as refusal:
            code = refusal.body["code"]
            self.faults.refused.append(code)
            headers = {"Retry-After": self.faults.retry_after} if code == 429 else {}
            if self.faults.date is not None:
                headers["Date"] = self.faults.date
            return web.json_response(refusal.body, status=code, headers=headers)

    def _authenticate(self, request: web.Request) -> None:
        if self.tokens is None:
            return
        given = request.headers.get("Authorization", "")
        if given.removeprefix("Bearer ") not in self.tokens or not given.startswith("Bearer "):
            raise Refused(401, "Unauthorized", "Unauthorized")

    def _fail_on_demand(self) -> None:
        if self.faults.too_many:
            self.faults.too_many -= 1
            raise Refused(429, "TooManyRequests", "too many requests, please try again later")
        if self.faults.errors:
            self.faults.errors -= 1
            raise Refused(500, "InternalError", "etcdserver: request timed out")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = [part for part in request.path.split("/") if part]
        document = _discovery_document(parts)
        if document is not None:
            return web.json_response(document)
        api, rest = ("v1", parts[2:]) if parts[:2] == ["api", "v1"] else (
            "/".join(parts[1:3]), parts[3:]
        )  # fmt: skip
        namespace = None
        if rest[:1] == ["namespaces"] and len(rest) >= 3:
            namespace, rest = rest[1], rest[2:]
        if not rest or len(rest) > 2 or _KINDS.get(rest[0], ("", ""))[0] != api:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        resource = rest[0]
        if len(rest) == 2:
            return await self._one(request, resource, namespace, rest[1])
        return await self._many(request, resource, namespace)

    def _allow(self, verb: str, resource: str, namespace: str | None) -> None:
        if self.allowed is not None and (verb, resource) not in self.allowed:
            raise Refused(
                403, "Forbidden",
                f'{resource} is forbidden: User "system:serviceaccount:default:lb" cannot {verb} '
                f'resource "{resource}" in the namespace "{namespace}"',
            )  # fmt: skip

    async def _many(
        self, request: web.Request, resource: str, namespace: str | None
    ) -> web.StreamResponse:
        if request.method == "POST":
            self._allow("create", resource, namespace)
            made = self.store.put(resource, await request.json())
            return web.json_response(made, status=201)
        if request.method != "GET":
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method")
        unknown = request.query.keys() - _KNOWN
        if unknown:
            raise Refused(400, "BadRequest", f"unknown parameters {sorted(unknown)}")
        if request.query.get("watch") in ("1", "true"):
            self._allow("watch", resource, namespace)
            return await self._watch(request, resource, namespace)
        self._allow("list", resource, namespace)
        return await self._list(request, resource, namespace)

    # Lists.

    async def _list(
        self, request: web.Request, resource: str, namespace: str | None
    ) -> web.Response:
        if self.faults.slow_list:
            await asyncio.sleep(self.faults.slow_list)
        if self.faults.list_body is not None:
            return web.Response(body=self.faults.list_body, content_type="application/json")
        query = request.query
        items = self.store.list(resource, namespace, query.get("labelSelector", ""))
        limit = int(query.get("limit", "0"))
        start, version = 0, self.store.version
        if "continue" in query:
            try:
                token = json.loads(base64.urlsafe_b64decode(query["continue"]))
            except ValueError:
                raise Refused(400, "BadRequest", "continue key is not valid") from None
            start, version = token["start"], token["version"]
            if version < self.store.compacted:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
        metadata = {"resourceVersion": str(version)}
        page = items[start:]
        if limit and len(page) > limit:
            page = page[:limit]
            token = {"start": start + limit, "version": version}
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps(token).encode()).decode()
            metadata["remainingItemCount"] = len(items) - start - limit  # type: ignore[assignment]
        api, kind = _KINDS[resource]
        # As the real one: items of a list have neither kind nor version.
        bare = [
            {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
            for item in page
        ]
        if "as=Table" in request.headers.get("Accept", ""):
            return web.json_response(_table(page, metadata))
        return web.json_response(
            {"kind": f"{kind}List", "apiVersion": api, "metadata": metadata, "items": bare}
        )

    # Watches.

    async def _watch(
        self, request: web.Request, resource: str, namespace: str | None
    ) -> web.StreamResponse:
        query, faults = request.query, self.faults
        given = query.get("resourceVersion", "")
        version = int(given) if given not in ("", "0") else self.store.version
        if version > self.store.version:
            raise Refused(504, "Timeout", "Too large resource version")
        if faults.expire_versions and not faults.expire_in_stream:
            faults.expire_versions -= 1
            raise Refused(410, "Expired", "too old resource version")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        self.watching += 1
        try:
            if faults.watch_body is not None:
                for _ in range(faults.watch_times):
                    await response.write(faults.watch_body)
                return response
            await self._send_events(request, response, resource, namespace, version)
        except (ConnectionResetError, ConnectionError):
            pass
        finally:
            self.watching -= 1
        return response

    async def _send_events(
        self,
        request: web.Request,
        response: web.StreamResponse,
        resource: str,
        namespace: str | None,
        version: int,
    ) -> None:
        query, faults = request.query, self.faults
        is_table = "as=Table" in request.headers.get("Accept", "")
        ends = asyncio.get_running_loop().time() + float(query.get("timeoutSeconds", "1800"))

        async def send(kind: str, item: Object) -> None:
            if is_table and kind != "ERROR":
                item = _table([item], {"resourceVersion": str(version)})
            await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")

        while not self._is_ending and asyncio.get_running_loop().time() < ends:
            if faults.expire_versions and faults.expire_in_stream:
                faults.expire_versions -= 1
                return await send("ERROR", status(410, "Expired", "too old resource version"))
            try:
                events = self.store.after(
                    version, resource, namespace, query.get("labelSelector", "")
                )
            except Gone:
                return await send("ERROR", status(410, "Expired", "too old resource version"))
            for event in events:
                await send(event.kind, event.object)
                version = event.version
                if faults.drop_watches:
                    faults.drop_watches -= 1
                    if request.transport is not None:
                        request.transport.abort()
                    return None
            if not events:
                wait = min(_BOOKMARK_EVERY, max(0.0, ends - asyncio.get_running_loop().time()))
                before = self.store.version
                await self.store.wait(wait)
                if self.store.version == before and query.get("allowWatchBookmarks") == "true":
                    version = self.store.version
                    api, kind = _KINDS[resource]
                    metadata = {"resourceVersion": str(version)}
                    mark = {"kind": kind, "apiVersion": api, "metadata": metadata}
                    await send("BOOKMARK", mark)
                    self.bookmarks.append(version)
        return None

    # One object.

    async def _one(
        self, request: web.Request, resource: str, namespace: str | None, name: str
    ) -> web.Response:
        namespace = namespace or "default"
        verb = {"GET": "get", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}.get(
            request.method
        )
        if verb is None:
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method")
        self._allow(verb, resource, namespace)
        item = self.store.get(resource, namespace, name)
        if item is None:
            raise Refused(404, "NotFound", f'{resource} "{name}" not found')
        if verb == "delete":
            self.store.delete(resource, namespace, name)
            return web.json_response({**status(200, "", ""), "status": "Success"})
        if verb == "patch":
            kinds = ("application/merge-patch+json", "application/strategic-merge-patch+json")
            if request.content_type not in kinds:
                raise Refused(415, "UnsupportedMediaType", "a merge patch is needed")
            item = _merged(item, await request.json())
        elif verb == "update":
            item = await request.json()
        if verb != "get":
            try:
                item = self.store.put(resource, item)
            except Conflict:
                raise Refused(409, "Conflict", "the object has been modified") from None
        if "as=Table" in request.headers.get("Accept", ""):
            metadata = {"resourceVersion": item["metadata"]["resourceVersion"]}
            return web.json_response(_table([item], metadata))
        return web.json_response(item)


def _merged(item: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(item) if isinstance(item, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _table(items: list[Object], metadata: dict[str, str]) -> Object:
    """What `kubectl get` asks for."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}
        ],
        "rows": [
            {"cells": [item.get("metadata", {}).get("name", "")], "object": item} for item in items
        ],
    }


def _discovery_document(parts: list[str]) -> Object | None:
    """The documents by which clients find resources."""
    match parts:
        case ["version"]:
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            version = {"groupVersion": "discovery.k8s.io/v1", "version": "v1"}
            group = {"name": "discovery.k8s.io", "versions": [version], "preferredVersion": version}
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
        case ["api", "v1"] | ["apis", "discovery.k8s.io", "v1"]:
            api = "v1" if parts[0] == "api" else "discovery.k8s.io/v1"
            resources = [
                {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind,
                 "verbs": _VERBS, "shortNames": short}
                for name, kind, short in _RESOURCES[api]
            ]  # fmt: skip
            return {
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api,
                "resources": resources,
            }  # fmt: skip
    return None
