"""EndpointSlices and Pods as a cluster has them."""

from __future__ import annotations

from typing import Any


def endpoint(
    host: str,
    pod: str | None = None,
    *,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    zone: str | None = None,
    hints: list[str] | None = None,
) -> dict[str, Any]:
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    found: dict[str, Any] = {
        "addresses": [host],
        "conditions": {key: value for key, value in conditions.items() if value is not None},
    }
    if pod is not None:
        found["targetRef"] = {"kind": "Pod", "name": pod, "namespace": "default"}
    if zone is not None:
        found["zone"] = zone
    if hints is not None:
        found["hints"] = {"forZones": [{"name": name} for name in hints]}
    return found


def endpoint_slice(
    endpoints: list[dict[str, Any]],
    *,
    name: str = "agents-abc",
    service: str = "agents",
    namespace: str = "default",
    ports: list[dict[str, Any]] | None = None,
    family: str = "IPv4",
) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}] if ports is None else ports,
        "endpoints": endpoints,
    }


def pod(name: str, namespace: str = "default") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": {}},
        "spec": {"containers": [{"name": "worker", "image": "worker"}]},
        "status": {"phase": "Running"},
    }
