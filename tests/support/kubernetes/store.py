"""Objects by resource, namespace and name; each change has a version of the whole store, as in
etcd. A list is a snapshot of a version, and a watch the changes after one."""

from __future__ import annotations

import asyncio
import copy
import uuid
from bisect import bisect_right
from operator import attrgetter
from typing import Any, NamedTuple

Object = dict[str, Any]


class Event(NamedTuple):
    version: int
    kind: str  # ADDED, MODIFIED, DELETED
    resource: str
    namespace: str
    object: Object


_version = attrgetter("version")


class Gone(Exception):
    """The version is older than the history."""


class Conflict(Exception):
    """The object has another version than the change names."""


def matches(selector: str, item: Object) -> bool:
    """An equality-based label selector."""
    labels = item["metadata"].get("labels", {})
    for part in filter(None, selector.split(",")):
        key, _, value = part.replace("==", "=").partition("=")
        if labels.get(key) != value:
            return False
    return True


class Store:
    def __init__(self) -> None:
        self.version = 1000
        self.compacted = 1000  # versions up to this one can't be watched from
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._history: list[Event] = []
        self._changed = asyncio.Event()

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        return self._objects.get((resource, namespace, name))

    def list(self, resource: str, namespace: str | None, selector: str = "") -> list[Object]:
        """In the order of namespace and name, as etcd has its keys."""
        return [
            item
            for (kind, where, _), item in sorted(self._objects.items())
            if kind == resource and namespace in (None, where) and matches(selector, item)
        ]

    def put(self, resource: str, item: Object) -> Object:
        """Create or replace. Raises Conflict if the object names another version."""
        item = copy.deepcopy(item)
        metadata = item["metadata"]
        metadata.setdefault("namespace", "default")
        key = resource, metadata["namespace"], metadata["name"]
        before = self._objects.get(key)
        named = metadata.get("resourceVersion")
        if before is not None and named not in (None, before["metadata"]["resourceVersion"]):
            raise Conflict
        metadata["uid"] = before["metadata"]["uid"] if before else str(uuid.uuid4())
        metadata.setdefault("creationTimestamp", "2026-12-01T00:00:00Z")
        self._add("MODIFIED" if before else "ADDED", resource, item)
        self._objects[key] = item
        return item

    def delete(self, resource: str, namespace: str, name: str) -> Object | None:
        item = self._objects.pop((resource, namespace, name), None)
        if item is not None:
            item = copy.deepcopy(item)
            self._add("DELETED", resource, item)
        return item

    def _add(self, kind: str, resource: str, item: Object) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        namespace = item["metadata"]["namespace"]
        self._history.append(Event(self.version, kind, resource, namespace, item))
        self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def compact(self) -> None:
        """Forget the history: watches from older versions get 410."""
        self._history.clear()
        self.compacted = self.version

    def after(
        self, version: int, resource: str, namespace: str | None, selector: str
    ) -> list[Event]:
        """The events after a version. Raises Gone."""
        if version < self.compacted:
            raise Gone
        return [
            event
            for event in self._history[bisect_right(self._history, version, key=_version) :]
            if event.resource == resource
            and namespace in (None, event.namespace)
            and matches(selector, event.object)
        ]

    async def wait(self, seconds: float) -> None:
        """Until something changes, for `seconds` at most."""
        changed = self._changed
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return
