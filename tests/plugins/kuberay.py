"""What ray.io/v1 takes, by KubeRay's reference of 1.7, as JSON schemas; pods are held against Kubernetes' own."""

import copy
import functools

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils

KUBERNETES = "1.33"
"""Version whose schemas are used."""
# They are megabytes, which would be read again for each resource.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def _object(required=(), **fields):
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


TEXT, NUMBER, FLAG, ANY = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def _one_of(*values):
    return {"enum": list(values)}


def _list(of):
    return {"type": "array", "items": of}


CREDENTIAL = _object(value=TEXT, valueFrom=ANY)
AUTOSCALER = _object(
    version=_one_of("v1", "v2"),
    upscalingMode=_one_of("Default", "Aggressive", "Conservative"),
    idleTimeoutSeconds=NUMBER,
    resources=ANY,
    image=TEXT,
    imagePullPolicy=TEXT,
    securityContext=ANY,
    env=_list(ANY),
    envFrom=_list(ANY),
    volumeMounts=_list(ANY),
    command=_list(TEXT),
    args=_list(TEXT),
)
HEAD = _object(
    required=("template", "rayStartParams"),
    template=ANY,
    rayStartParams=TEXTS,
    resources=TEXTS,
    labels=TEXTS,
    headService=ANY,
    serviceType=TEXT,
    enableIngress=FLAG,
    ingressOptions=ANY,
)
GROUP = _object(
    required=("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=TEXT,
    replicas=NUMBER,
    minReplicas=NUMBER,
    maxReplicas=NUMBER,
    numOfHosts=NUMBER,
    idleTimeoutSeconds=NUMBER,
    priority={"type": "integer"},
    suspend=FLAG,
    resources=TEXTS,
    labels=TEXTS,
    rayStartParams=TEXTS,
    template=ANY,
    scaleStrategy=_object(workersToDelete=_list(TEXT)),
)
CLUSTER = _object(
    required=("headGroupSpec",),
    rayVersion=TEXT,
    suspend=FLAG,
    managedBy=_one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    authOptions=_object(mode=_one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    gcsFaultToleranceOptions=_object(
        backend=_one_of("redis", "rocksdb"),
        redisAddress=TEXT,
        redisUsername=CREDENTIAL,
        redisPassword=CREDENTIAL,
        externalStorageNamespace=TEXT,
        storage=ANY,
    ),
    headServiceAnnotations=TEXTS,
    upgradeStrategy=_object(type=_one_of("Recreate", "None")),
    historyServerOptions=ANY,
    networkPolicy=ANY,
    tlsOptions=_object(enabled=FLAG),
    headGroupSpec=HEAD,
    workerGroupSpecs=_list(GROUP),
)
JOB = _object(
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    metadata=TEXTS,
    entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    submissionMode=_one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterPodTemplate=ANY,
    submitterConfig=_object(backoffLimit=NUMBER),
    clusterSelector=TEXTS,
    rayClusterSpec=CLUSTER,
    activeDeadlineSeconds=NUMBER,
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=NUMBER,
    ttlSecondsAfterFinished=NUMBER,
    shutdownAfterJobFinishes=FLAG,
    deletionStrategy=ANY,
    managedBy=TEXT,
    suspend=FLAG,
)
SERVICE = _object(
    required=("serveConfigV2", "rayClusterConfig"),
    serveConfigV2=TEXT,
    rayClusterConfig=CLUSTER,
    upgradeStrategy=_object(
        type=_one_of("NewCluster", "NewClusterWithIncrementalUpgrade", "None"), clusterUpgradeOptions=ANY
    ),
    excludeHeadPodFromServeSvc=FLAG,
    rayClusterDeletionDelaySeconds=NUMBER,
    serveService=ANY,
    managedBy=TEXT,
    suspend=FLAG,
)
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVICE}


def cluster_of(resource):
    """The cluster that a resource describes, or None."""
    spec = resource["spec"]
    return {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec"), "RayService": spec.get("rayClusterConfig")}[
        resource["kind"]
    ]


def pods_of(cluster):
    """Name of a group → its pod template."""
    groups = {group["groupName"]: group["template"] for group in cluster.get("workerGroupSpecs", [])}
    return {"head": cluster["headGroupSpec"]["template"], **groups}


def check(resource):
    """Raise where a resource has a field that its kind does not know, lacks one, or has a value that cannot be."""
    if resource["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(copy.deepcopy(resource), KUBERNETES, strict=True)
        return
    kind = resource["kind"]
    whole = _object(
        required=("apiVersion", "kind", "metadata", "spec"),
        apiVersion=TEXT,
        kind=_one_of(*SPECS),
        metadata=ANY,
        spec=SPECS[kind],
    )
    jsonschema.validate(resource, whole)
    if kind == "RayJob":
        assert not (resource["spec"].get("clusterSelector") and resource["spec"].get("backoffLimit"))
    if (cluster := cluster_of(resource)) is not None:
        for template in pods_of(cluster).values():
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
            kubernetes_validate.validate(copy.deepcopy(pod), KUBERNETES, strict=True)
