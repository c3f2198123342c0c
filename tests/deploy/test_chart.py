"""The Helm chart: rendered and linted by real Helm, for several versions of Kubernetes.

No cluster was seen: what is checked is that objects are valid, and that they fit together.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Config, load_config
from tests.deploy.custom_resources import CUSTOM
from tests.deploy.environment import DEPLOY, PROGRAMS, needs_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [needs_environment, pytest.mark.slow, pytest.mark.timeout(240)]

# The oldest that Chart.yaml accepts, and some up to the newest of the package.
VERSIONS = ["1.27", "1.31", "1.34", "1.37"]

SERVERS = {"discovery": "servers", "servers": [{"name": "agent1", "address": "10.0.0.1:8000"}]}
CERTIFICATE = {
    "certManager": {"enabled": True, "issuer": "letsencrypt", "dnsNames": ["agents.example"]}
}

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "small": {
        "balancer": {"replicas": 1, "podDisruptionBudget": {"enabled": False}},
        "worker": {"replicas": 1, "podDisruptionBudget": {"enabled": False}},
        "networkPolicy": {"enabled": False},
        "waitForServerSeconds": 0,
    },
    "hpa": {"autoscaling": {"kind": "hpa"}, "serviceMonitor": {"enabled": True}},
    "keda": {"autoscaling": {"kind": "keda", "minReplicas": 0, "sessionsPerWorker": 2.5}},
    "tls": {"tls": {"secret": "site-tls"}, "balancer": {"service": {"port": 443}}},
    "cert-manager": {"tls": CERTIFICATE},
    "dns": {"discovery": "dns", "redisSecret": "redis"},
    "servers": {**SERVERS, "worker": {"enabled": False}},
    "everything": {
        "image": {"repository": "registry.example/team/hermes-lb", "tag": "1.2.3"},
        "imagePullSecrets": ["registry"],
        "secret": "own-secrets",
        "redisSecret": "redis",
        "tls": CERTIFICATE,
        "autoscaling": {"kind": "keda", "maxReplicas": 200},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "balancer": {
            "replicas": 4,
            "processes": 4,
            "maxConnections": 1_000_000,
            "drainSeconds": 7200,
            "service": {"type": "LoadBalancer", "annotations": {"example/kind": "network"}},
            "podDisruptionBudget": {"maxUnavailable": "25%"},
            "nodeSelector": {"pool": "edge"},
            "tolerations": [{"key": "edge", "operator": "Exists", "effect": "NoSchedule"}],
            "podAnnotations": {"example/a": "b"},
            "config": '[limits]\nbody_size = "10MiB"',
        },
        "worker": {
            "args": ["--engine", "openai"],
            "env": [
                {
                    "name": "HERMES_ENGINE_KEY",
                    "valueFrom": {"secretKeyRef": {"name": "engine", "key": "key"}},
                }
            ],
            "podDeletionCost": True,
        },
    },
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name that is misspelt": ({"balancer": {"replica": 3}}, "additional properties 'replica'"),
    "scale to zero by an hpa": (
        {"autoscaling": {"kind": "hpa", "minReplicas": 0}},
        "minimum: got 0, want 1",
    ),
    "a duration as text": ({"balancer": {"drainSeconds": "10m"}}, "got string, want integer"),
    "servers that are not given": ({"discovery": "servers"}, "minItems"),
    "a certificate of no issuer": (
        {"tls": {"certManager": {"enabled": True, "dnsNames": ["a.example"]}}},
        "minLength",
    ),
    "discovery of workers that are not there": ({"worker": {"enabled": False}}, "value must be"),
    "autoscaling of workers that are not there": (
        {**SERVERS, "worker": {"enabled": False}, "autoscaling": {"kind": "hpa"}},
        "autoscaling is of the chart's workers",
    ),
}


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    asked = {
        "chart": str(DEPLOY / "helm/hermes-lb"),
        "variants": VARIANTS | {name: values for name, (values, _) in REFUSED.items()},
        "versions": VERSIONS,
        "custom": CUSTOM,
    }
    done = subprocess.run(
        [PROGRAMS / "python", DEPLOY.parent / "tests/deploy/rendering.py"],
        input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Objects:
    """Those of one variant."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        self.all = found

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        return (one for one in self.all if one["kind"] == kind)

    def names(self, kind: str) -> set[str]:
        return {one["metadata"]["name"] for one in self.of(kind)}

    @property
    def pods(self) -> Iterator[dict[str, Any]]:
        return (one["spec"]["template"] for one in self.of("Deployment"))

    def has_pods_with(self, labels: dict[str, str]) -> bool:
        return any(labels.items() <= pod["metadata"]["labels"].items() for pod in self.pods)

    @property
    def config(self) -> str:
        [found] = self.of("ConfigMap")
        text: str = found["data"]["lb.toml"]
        return text


@pytest.fixture(params=VARIANTS)
def objects(request: pytest.FixtureRequest, rendered: dict[str, Any]) -> Objects:
    assert "refused" not in rendered[request.param], rendered[request.param]
    return Objects(rendered[request.param]["objects"])


@pytest.mark.parametrize("name", VARIANTS)
def test_helm_and_kubernetes_accept_it(name: str, rendered: dict[str, Any]) -> None:
    found = rendered[name]
    assert found.get("refused") is None
    assert found["lint"] == ["icon is recommended"]
    assert found["problems"] == []
    assert len(found["objects"]) > 5


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_values_are_refused(name: str, rendered: dict[str, Any]) -> None:
    assert REFUSED[name][1] in rendered[name]["refused"]


def test_each_kind_is_rendered_by_some_variant(rendered: dict[str, Any]) -> None:
    kinds = {one["kind"] for name in VARIANTS for one in rendered[name]["objects"]}
    assert kinds == CUSTOM.keys() | {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy",
        "PodDisruptionBudget", "Role", "RoleBinding", "Secret", "Service", "ServiceAccount",
    }  # fmt: skip


def test_names_refer_to_what_is_there(objects: Objects) -> None:
    given = {"own-secrets", "redis", "site-tls", "registry", "engine"}  # of the values
    given |= {one["spec"]["secretName"] for one in objects.of("Certificate")}
    secrets = objects.names("Secret") | given
    for pod in objects.pods:
        spec = pod["spec"]
        assert spec["serviceAccountName"] in objects.names("ServiceAccount")
        [container] = spec["containers"]
        ports = {port["name"] for port in container["ports"]}
        probes = [container[f"{kind}Probe"] for kind in ("readiness", "startup", "liveness")]
        asked = {(probe.get("httpGet") or probe["tcpSocket"])["port"] for probe in probes}
        assert asked <= ports
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes.keys() == {mount["name"] for mount in container["volumeMounts"]}
        for volume in volumes.values():
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets
            if "configMap" in volume:
                assert volume["configMap"]["name"] in objects.names("ConfigMap")
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for one in objects.of(kind):
            selector = one["spec"].get("selector") or one["spec"]["podSelector"]
            assert objects.has_pods_with(selector["matchLabels"])
    for one in objects.of("Service"):
        assert objects.has_pods_with(one["spec"]["selector"])
    for one in (*objects.of("HorizontalPodAutoscaler"), *objects.of("ScaledObject")):
        assert one["spec"]["scaleTargetRef"]["name"] in objects.names("Deployment")
    for one in objects.of("RoleBinding"):
        assert one["roleRef"]["name"] in objects.names("Role")
        assert {each["name"] for each in one["subjects"]} <= objects.names("ServiceAccount")
    for one in objects.of("ServiceMonitor"):
        labels = one["spec"]["selector"]["matchLabels"].items()
        watched = [s for s in objects.of("Service") if labels <= s["metadata"]["labels"].items()]
        [service] = watched
        [endpoint] = one["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    for one in objects.of("ScaledObject"):
        [trigger] = one["spec"]["triggers"]
        host = trigger["metadata"]["url"].split("/")[2].split(".")[0]
        assert host in objects.names("Service")
        assert trigger["authenticationRef"]["name"] in objects.names("TriggerAuthentication")


def test_pods_can_do_little(objects: Objects) -> None:
    for pod in objects.pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        [container] = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = [m for m in container["volumeMounts"] if not m.get("readOnly")]
        assert [mount["mountPath"] for mount in writable] == ["/tmp"]
        assert not any("subPath" in mount for mount in container["volumeMounts"])


def test_roles_may_do_what_they_need(objects: Objects) -> None:
    rules = [rule for role in objects.of("Role") for rule in role["rules"]]
    allowed = {(what, verb) for one in rules for what in one["resources"] for verb in one["verbs"]}
    assert allowed <= {("endpointslices", "list"), ("endpointslices", "watch"), ("pods", "patch")}
    # A pod has a token only if its role has rules.
    bound = {subject["name"] for one in objects.of("RoleBinding") for subject in one["subjects"]}
    for pod in objects.pods:
        has_token = pod["spec"]["automountServiceAccountToken"]
        assert has_token is (pod["spec"]["serviceAccountName"] in bound)


def test_a_drain_has_its_time(objects: Objects, tmp_path: Path) -> None:
    for pod in objects.pods:
        [container] = pod["spec"]["containers"]
        hook = container["lifecycle"]["preStop"]["exec"]["command"]
        if container["name"] == "balancer":
            pause, drain = int(hook[1]), _loaded(objects, tmp_path).process.drain_timeout
        else:
            assert "/drain" in hook[2]
            pause = int(hook[2].rpartition("time.sleep(")[2].rstrip(")\n"))
            [given] = [each for each in container["args"] if each.startswith("--drain-timeout=")]
            drain = float(given.partition("=")[2].removesuffix("s"))
        assert pod["spec"]["terminationGracePeriodSeconds"] >= pause + drain + 10


def test_the_balancer_accepts_its_configuration(objects: Objects, tmp_path: Path) -> None:
    config = _loaded(objects, tmp_path)
    [balancer] = [
        container
        for pod in objects.pods
        for container in pod["spec"]["containers"]
        if container["name"] == "balancer"
    ]
    mounted = {mount["mountPath"] for mount in balancer["volumeMounts"]}
    named = [config.admin.token_file]
    if (tls := config.frontends[0].tls) is not None:
        named += [tls.certificate, tls.key]
    for file in named:
        assert file is not None
        assert f"/etc/hermes-lb/{file.split('/')[-2]}" in mounted
    assert balancer["args"][-1].rpartition("/")[0] in mounted
    assert config.process.reload_on_change
    ports = {port["name"]: port["containerPort"] for port in balancer["ports"]}
    assert ports == {"public": config.frontends[0].bind[0].address.port, "admin": 9900}  # type: ignore[union-attr]


def _loaded(objects: Objects, folder: Path) -> Config:
    """The configuration, with its Secrets in a folder."""
    for name in ("secrets/cookie-secret", "secrets/admin-token", "redis/url"):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("redis://redis:6379/0")
    path = folder / "lb.toml"
    path.write_text(objects.config.replace("/etc/hermes-lb", str(folder)))
    return load_config(path)
