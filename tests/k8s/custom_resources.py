"""The custom resources that the overlays use, as strict models: only fields that their operators know.

Curated from the definitions of KEDA (keda.sh/v1alpha1), the Prometheus operator (monitoring.coreos.com/v1) and the
Gateway API (gateway.networking.k8s.io/v1), cut down to what is used here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, StringConstraints

Duration = Annotated[str, StringConstraints(pattern=r"^([0-9]+(ms|s|m|h))+$")]


class Strict(BaseModel):
    """Refuses what it does not know, and turns nothing into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str
    namespace: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Policy(Strict):
    type: Literal["Pods", "Percent"]
    value: PositiveInt
    periodSeconds: Annotated[int, Field(gt=0, le=1800)]


class Direction(Strict):
    stabilizationWindowSeconds: Annotated[int, Field(ge=0, le=3600)]
    policies: Annotated[list[Policy], Field(min_length=1)]
    selectPolicy: Literal["Max", "Min", "Disabled"] = "Max"


class Behaviour(Strict):
    scaleUp: Direction
    scaleDown: Direction


class HpaConfig(Strict):
    behavior: Behaviour


class Advanced(Strict):
    horizontalPodAutoscalerConfig: HpaConfig


class PrometheusQuery(Strict):
    serverAddress: str
    query: str
    threshold: Annotated[str, StringConstraints(pattern=r"^[0-9.]+$")]
    activationThreshold: Annotated[str, StringConstraints(pattern=r"^[0-9.]+$")] | None = None


class Trigger(Strict):
    type: Literal["prometheus"]
    metricType: Literal["AverageValue", "Value"]
    metadata: PrometheusQuery


class TargetRef(Strict):
    apiVersion: str
    kind: str
    name: str


class Fallback(Strict):
    failureThreshold: NonNegativeInt
    replicas: NonNegativeInt
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


class Scaling(Strict):
    scaleTargetRef: TargetRef
    pollingInterval: PositiveInt
    cooldownPeriod: NonNegativeInt
    minReplicaCount: NonNegativeInt
    maxReplicaCount: PositiveInt
    fallback: Fallback
    advanced: Advanced
    triggers: Annotated[list[Trigger], Field(min_length=1)]


class ScaledObject(Strict):
    apiVersion: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: Scaling


class Selector(Strict):
    matchLabels: dict[str, str]


class Endpoint(Strict):
    port: str
    path: str
    interval: Duration
    scrapeTimeout: Duration


class Monitoring(Strict):
    selector: Selector
    endpoints: list[Endpoint]


class ServiceMonitor(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["ServiceMonitor"]
    metadata: Metadata
    spec: Monitoring


class Rule(Strict):
    alert: str
    expr: str
    for_: Annotated[Duration, Field(alias="for")]
    labels: dict[str, str]
    annotations: dict[str, str]


class Group(Strict):
    name: str
    rules: list[Rule]


class Rules(Strict):
    groups: list[Group]


class PrometheusRule(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: Rules


class ParentRef(Strict):
    name: str
    namespace: str


class PathMatch(Strict):
    type: Literal["PathPrefix", "Exact"]
    value: str


class Match(Strict):
    path: PathMatch


class Timeouts(Strict):
    request: Duration


class Backend(Strict):
    name: str
    port: int


class RouteRule(Strict):
    matches: list[Match]
    timeouts: Timeouts
    backendRefs: list[Backend]


class Routing(Strict):
    parentRefs: list[ParentRef]
    hostnames: list[str]
    rules: list[RouteRule]


class HTTPRoute(Strict):
    apiVersion: Literal["gateway.networking.k8s.io/v1"]
    kind: Literal["HTTPRoute"]
    metadata: Metadata
    spec: Routing


MODELS: dict[str, type[Strict]] = {
    model.__name__: model for model in (ScaledObject, ServiceMonitor, PrometheusRule, HTTPRoute)
}
