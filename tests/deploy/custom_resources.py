"""JSON Schemas of the custom resources that the chart makes, as far as it uses them.

From their reference pages: KEDA 2.20 (ScaledObject, TriggerAuthentication, scaler `metrics-api`),
the Prometheus operator (ServiceMonitor), cert-manager 1.16 (Certificate). Keys that are not listed
are errors: most mistakes are misspelt names, which an API server drops silently.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def table(*required: str, **keys: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": keys,
        "required": list(required or keys),
    }


def listed(item: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": item}


def resource(version: str, spec: Schema) -> Schema:
    metadata = table("name", name=TEXT, labels=LABELS)
    return table(apiVersion={"const": version}, kind=TEXT, metadata=metadata, spec=spec)


# autoscaling/v2: HorizontalPodAutoscalerBehavior.
_RULES = table(
    "stabilizationWindowSeconds",
    stabilizationWindowSeconds={**COUNT, "maximum": 3600},
    policies=listed(table(type={"enum": ["Pods", "Percent"]}, value=COUNT, periodSeconds=COUNT)),
)
# All values of a trigger's metadata are strings.
_METRICS_API = table(
    url={"type": "string", "pattern": r"^http://[a-z0-9.-]+\.svc:\d+/api/v1/scaling/\w+$"},
    valueLocation={"enum": ["demand"]},
    targetValue={"type": "string", "pattern": r"^[0-9.]+$"},
    aggregateFromKubeServiceEndpoints={"const": "true"},
    aggregationType={"enum": ["sum"]},
    authMode={"enum": ["bearer"]},
)

CUSTOM: dict[str, Schema] = {
    "ScaledObject": resource(
        "keda.sh/v1alpha1",
        table(
            scaleTargetRef=table(name=TEXT),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            pollingInterval=COUNT,
            cooldownPeriod=COUNT,
            advanced=table(
                horizontalPodAutoscalerConfig=table(
                    behavior=table(scaleUp=_RULES, scaleDown=_RULES)
                )
            ),
            triggers=listed(
                table(
                    type={"const": "metrics-api"},
                    metadata=_METRICS_API,
                    authenticationRef=table(name=TEXT),
                )
            ),
        ),
    ),
    "TriggerAuthentication": resource(
        "keda.sh/v1alpha1",
        table(secretTargetRef=listed(table(parameter={"const": "token"}, name=TEXT, key=TEXT))),
    ),
    "ServiceMonitor": resource(
        "monitoring.coreos.com/v1",
        table(
            selector=table(matchLabels=LABELS),
            endpoints=listed(
                table(
                    "port",
                    port=TEXT,
                    path=TEXT,
                    interval=TEXT,
                    authorization=table(credentials=table(name=TEXT, key=TEXT)),
                )
            ),
        ),
    ),
    "Certificate": resource(
        "cert-manager.io/v1",
        table(
            secretName=TEXT,
            dnsNames=listed(TEXT),
            issuerRef=table(name=TEXT, kind={"enum": ["Issuer", "ClusterIssuer"]}),
        ),
    ),
}
