"""The fields of KubeRay's RayService (ray.io/v1) that our manifest uses, and no others.

Written by hand after KubeRay's CRD and what its operator refuses: an unknown key, which Kubernetes
drops in silence, fails here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Strings = dict[str, str]


class Part(BaseModel):
    """A group of fields that knows no others; numbers stay numbers, and text stays text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Port(Part):
    name: str
    containerPort: int  # noqa: N815 - Kubernetes' names, here and below


class HttpGet(Part):
    path: Annotated[str, Field(pattern="^/")]
    port: int


class Probe(Part):
    httpGet: HttpGet  # noqa: N815
    initialDelaySeconds: int = 0  # noqa: N815
    periodSeconds: int = 10  # noqa: N815
    timeoutSeconds: int = 1  # noqa: N815
    failureThreshold: int = 3  # noqa: N815


class Exec(Part):
    command: list[str]


class Hook(Part):
    exec: Exec


class Lifecycle(Part):
    preStop: Hook  # noqa: N815


class Mount(Part):
    name: str
    mountPath: str  # noqa: N815


class Reference(Part):
    name: str
    optional: bool = False


class EnvironmentFrom(Part):
    configMapRef: Reference | None = None  # noqa: N815
    secretRef: Reference | None = None  # noqa: N815


class Variable(Part):
    name: str
    value: str


class Resources(Part):
    requests: Strings
    limits: Strings


class Container(Part):
    name: str
    image: str
    command: list[str] = []
    envFrom: list[EnvironmentFrom] = []  # noqa: N815
    env: list[Variable] = []
    ports: list[Port] = []
    lifecycle: Lifecycle | None = None
    readinessProbe: Probe | None = None  # noqa: N815
    livenessProbe: Probe | None = None  # noqa: N815
    securityContext: dict[Literal["runAsUser"], int] = {}  # noqa: N815
    volumeMounts: list[Mount] = []  # noqa: N815
    resources: Resources | None = None


class HostPath(Part):
    path: str
    type: Literal["DirectoryOrCreate"]


class Claim(Part):
    claimName: str  # noqa: N815


class Volume(Part):
    name: str
    hostPath: HostPath | None = None  # noqa: N815
    persistentVolumeClaim: Claim | None = None  # noqa: N815


class PodSpec(Part):
    restartPolicy: Literal["Never"]  # noqa: N815 - what the autoscaler's version 2 asks for
    terminationGracePeriodSeconds: int  # noqa: N815
    containers: Annotated[list[Container], Field(min_length=1, max_length=1)]
    initContainers: list[Container] = []  # noqa: N815
    volumes: list[Volume] = []
    tolerations: list[Strings] = []
    topologySpreadConstraints: list[dict[str, Any]] = []  # noqa: N815


class Template(Part):
    spec: PodSpec


class Group(Part):
    rayStartParams: Strings  # noqa: N815
    template: Template


class WorkerGroup(Group):
    groupName: str  # noqa: N815
    replicas: int
    minReplicas: int  # noqa: N815
    maxReplicas: int  # noqa: N815

    @model_validator(mode="after")
    def _is_ordered(self) -> "WorkerGroup":
        assert self.minReplicas <= self.replicas <= self.maxReplicas
        return self


class AutoscalerOptions(Part):
    version: Literal["v1", "v2"]
    idleTimeoutSeconds: int  # noqa: N815
    resources: Resources


class AuthOptions(Part):
    mode: Literal["token"]


class GcsFaultTolerance(Part):
    redisAddress: str  # noqa: N815
    redisPassword: dict[Literal["valueFrom"], dict[Literal["secretKeyRef"], Strings]]  # noqa: N815


class Cluster(Part):
    rayVersion: str  # noqa: N815
    enableInTreeAutoscaling: bool  # noqa: N815
    autoscalerOptions: AutoscalerOptions  # noqa: N815
    authOptions: AuthOptions  # noqa: N815
    gcsFaultToleranceOptions: GcsFaultTolerance | None = None  # noqa: N815
    headGroupSpec: Group  # noqa: N815
    workerGroupSpecs: list[WorkerGroup]  # noqa: N815


class UpgradeStrategy(Part):
    type: Literal["None", "NewCluster"]


class Spec(Part):
    upgradeStrategy: UpgradeStrategy  # noqa: N815
    rayClusterDeletionDelaySeconds: Annotated[int, Field(ge=0)]  # noqa: N815
    excludeHeadPodFromServeSvc: bool  # noqa: N815
    serveConfigV2: str  # noqa: N815
    rayClusterConfig: Cluster  # noqa: N815


class RayService(Part):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayService"]
    metadata: Strings
    spec: Spec
