"""Fields of KubeRay's and Kubernetes' objects, as their published schemas have them.

KubeRay's are those of the Go types that its CRDs are generated from: ray-operator/apis/ray/v1/rayjob_types.go and
raycluster_types.go of github.com/ray-project/kuberay, with authOptions, which came with 1.5.1. Kubernetes' are some of
its API reference's. A dict is a type with its fields, [type] a list, {str: type} a map, a set an enumeration.
"""

INTEGER, TEXT, FLAG = int, str, bool

METADATA = {"name": TEXT, "namespace": TEXT, "labels": {str: TEXT}, "annotations": {str: TEXT}}
LABEL_SELECTOR = {"matchLabels": {str: TEXT}}
POD_AFFINITY_TERM = {
    "labelSelector": LABEL_SELECTOR,
    "topologyKey": TEXT,
    "namespaces": [TEXT],
    "namespaceSelector": LABEL_SELECTOR,
}
CONTAINER = {
    "name": TEXT,
    "image": TEXT,
    "command": [TEXT],
    "args": [TEXT],
    "workingDir": TEXT,
    "env": [{"name": TEXT, "value": TEXT, "valueFrom": {"secretKeyRef": {"name": TEXT, "key": TEXT}}}],
    "resources": {"requests": {str: TEXT}, "limits": {str: TEXT}},
    "volumeMounts": [{"name": TEXT, "mountPath": TEXT, "readOnly": FLAG, "subPath": TEXT}],
}
POD_TEMPLATE = {
    "metadata": METADATA,
    "spec": {
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [POD_AFFINITY_TERM],
            }
        },
        "containers": [CONTAINER],
        "nodeSelector": {str: TEXT},
        "restartPolicy": {"Always", "OnFailure", "Never"},
        "serviceAccountName": TEXT,
        "terminationGracePeriodSeconds": INTEGER,
        "volumes": [
            {
                "name": TEXT,
                "configMap": {"name": TEXT, "optional": FLAG, "defaultMode": INTEGER},
                "persistentVolumeClaim": {"claimName": TEXT, "readOnly": FLAG},
            }
        ],
    },
}
RAY_CLUSTER_SPEC = {
    "authOptions": {"mode": {"disabled", "token"}},
    "enableInTreeAutoscaling": FLAG,
    "headGroupSpec": {
        "enableIngress": FLAG,
        "labels": {str: TEXT},
        "rayStartParams": {str: TEXT},
        "resources": {str: TEXT},
        "serviceType": {"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"},
        "template": POD_TEMPLATE,
    },
    "headServiceAnnotations": {str: TEXT},
    "managedBy": TEXT,
    "rayVersion": TEXT,
    "suspend": FLAG,
    "workerGroupSpecs": [
        {
            "groupName": TEXT,
            "labels": {str: TEXT},
            "maxReplicas": INTEGER,
            "minReplicas": INTEGER,
            "numOfHosts": INTEGER,
            "rayStartParams": {str: TEXT},
            "replicas": INTEGER,
            "resources": {str: TEXT},
            "suspend": FLAG,
            "template": POD_TEMPLATE,
        }
    ],
}
RAY_JOB = {
    "apiVersion": {"ray.io/v1"},
    "kind": {"RayJob"},
    "metadata": METADATA,
    "spec": {
        "activeDeadlineSeconds": INTEGER,
        "backoffLimit": INTEGER,
        "clusterSelector": {str: TEXT},
        "entrypoint": TEXT,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "entrypointResources": TEXT,
        "jobId": TEXT,
        "managedBy": TEXT,
        "metadata": {str: TEXT},
        "rayClusterSpec": RAY_CLUSTER_SPEC,
        "runtimeEnvYAML": TEXT,
        "shutdownAfterJobFinishes": FLAG,
        "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
        "submitterConfig": {"backoffLimit": INTEGER},
        "submitterPodTemplate": POD_TEMPLATE,
        "suspend": FLAG,
        "ttlSecondsAfterFinished": INTEGER,
    },
}
CONFIG_MAP = {
    "apiVersion": {"v1"},
    "kind": {"ConfigMap"},
    "metadata": METADATA,
    "data": {str: TEXT},
    "immutable": FLAG,
}

REQUIRED = {
    "spec.rayClusterSpec": {"headGroupSpec"},
    "spec.rayClusterSpec.headGroupSpec": {"rayStartParams", "template"},
    "spec.rayClusterSpec.workerGroupSpecs": {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"},
}
"""Fields that the CRD wants, by where they stand."""
