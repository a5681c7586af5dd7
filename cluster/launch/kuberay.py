"""A RayJob for KubeRay: Ray on pods with GPUs, a sweep on it, and its results on a volume that all of them share."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Final

import yaml

NAME_CHARACTERS: Final = 47
"""Of a RayJob: KubeRay appends to its name and makes a service's host name of that."""

MOUNT: Final = "/shared"
"""Where pods see the volume."""

SWEEP_FOLDER: Final = "/etc/energyaware"

RETRIES: Final = 3
"""After the head was lost: a new cluster goes on where the results end."""

LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
SUBDOMAIN: Final = re.compile(rf"(?=.{{1,253}}\Z){LABEL.pattern}(\.{LABEL.pattern})*", re.ASCII)
IMAGE: Final = re.compile(r"[\w.:@/-]+", re.ASCII)
MEMORY: Final = re.compile(r"[1-9]\d*([KMGT]i?)?", re.ASCII)
PATH: Final = re.compile(r"[\w.:/@%+=,-]+", re.ASCII)


@dataclass(frozen=True)
class RayJob:
    """What is asked of KubeRay.

    Attributes:
        name: of the sweep.
        sweep: content of the sweep file.
        results: path on the volume, or a URL.
        image: with this project installed, as `energyaware[run]`.
        nodes: pods with GPUs, the head's among them.
        cpus_per_node: CPU cores of each.
        gpus_per_node: GPUs of each.
        memory_per_node: of each, as Kubernetes writes it, such as 64Gi; None for no limit.
        claim: name of a PersistentVolumeClaim that many pods can mount; None where all that is needed is elsewhere.
        namespace: None for that of whoever applies it.

    Raises:
        ValueError: what Kubernetes does not take; one line that begins with the attribute's name.
    """

    name: str
    sweep: str
    results: str
    image: str
    nodes: int
    cpus_per_node: int
    gpus_per_node: int
    memory_per_node: str | None = None
    claim: str | None = None
    namespace: str | None = None

    def __post_init__(self) -> None:
        for attribute, pattern, wanted in (
            ("results", PATH, "a path or URL of letters, digits and ._-:/@%+=,"),
            ("image", IMAGE, "such as registry.example.org/energyaware:1"),
            ("memory_per_node", MEMORY, "such as 64Gi"),
            ("claim", SUBDOMAIN, "lower case letters, digits, - and ."),
            ("namespace", LABEL, "lower case letters, digits and -, at most 63"),
        ):
            value = getattr(self, attribute)
            if value is not None and not pattern.fullmatch(value):
                raise ValueError(f"{attribute}: {value!r} cannot be used: {wanted}")
        if "://" not in self.results and self.claim is None:
            raise ValueError(f"claim: is missing: {self.results!r} is on the claim's volume, where it is no URL")
        if "://" not in self.results and not on_volume(self.results):
            raise ValueError(f"results: {self.results!r} must be in {MOUNT}, which is the claim's volume, or a URL")


def on_volume(path: str) -> bool:
    """Whether pods find the path on the volume."""
    return path.startswith(f"{MOUNT}/") and ".." not in path.split("/")


def manifest(job: RayJob) -> str:
    """ConfigMap and RayJob as YAML for `kubectl apply`.

    The token is in neither: KubeRay makes a Secret of its own for each cluster (`authOptions`) and has its pods read
    it. One that is too old for that starts nothing: RAY_AUTH_MODE without a token ends Ray.
    """
    name = job_name(job.name)
    metadata = {"name": name} | ({"namespace": job.namespace} if job.namespace else {})
    sweep = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"sweep.yaml": job.sweep}}
    run = ["energyaware", "run", f"{SWEEP_FOLDER}/sweep.yaml", "--results", job.results, "--address", "auto"]
    cluster: dict[str, Any] = {
        "rayVersion": ray_version(),
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "enableIngress": False,
            "rayStartParams": {},
            "template": _pod(job, name, "ray-head"),
        },
    }
    if job.nodes > 1:
        others = job.nodes - 1
        count = {"replicas": others, "minReplicas": others, "maxReplicas": others}
        cluster["workerGroupSpecs"] = [
            {"groupName": "nodes", **count, "rayStartParams": {}, "template": _pod(job, name, "ray-worker")}
        ]
    ray_job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": shlex.join(run),
            "submissionMode": "K8sJobMode",
            "backoffLimit": RETRIES,
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": cluster,
        },
    }
    documents: str = yaml.dump_all(
        (sweep, ray_job), Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=True, width=120
    )
    return documents


def job_name(sweep: str) -> str:
    """A DNS label that begins with a letter; names of sweeps that differ give names that differ."""
    words = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).strip("-")
    name = f"energyaware-{words}"
    if words != sweep or len(name) > NAME_CHARACTERS:
        mark = sha256(sweep.encode()).hexdigest()[:6]
        name = f"{name[: NAME_CHARACTERS - 1 - len(mark)].rstrip('-')}-{mark}"
    return name


def ray_version() -> str:
    """That runs sweeps: the one installed here, else the oldest that this project can be installed with."""
    try:
        return version("ray")
    except PackageNotFoundError:
        return oldest_ray()


def oldest_ray() -> str:
    """The lower bound of this project's own requirement of Ray."""
    asked = next(line for line in requires("energyaware") or () if line.startswith("ray["))
    return f"{re.search(r'>=([0-9.]+)', asked)[1]}.0"  # type: ignore[index] # ours has one


def _pod(job: RayJob, name: str, container: str) -> dict[str, Any]:
    resources: dict[str, Any] = {"cpu": str(job.cpus_per_node)}
    if job.memory_per_node:
        resources["memory"] = job.memory_per_node
    if job.gpus_per_node:
        resources["nvidia.com/gpu"] = str(job.gpus_per_node)
    volumes: list[dict[str, Any]] = [{"name": "sweep", "configMap": {"name": name}}]
    mounts: list[dict[str, Any]] = [{"name": "sweep", "mountPath": SWEEP_FOLDER, "readOnly": True}]
    if job.claim:
        volumes.append({"name": "shared", "persistentVolumeClaim": {"claimName": job.claim}})
        mounts.append({"name": "shared", "mountPath": MOUNT})
    mark = {"energyaware/sweep": name}
    # Two pods on one machine would both count its joules.
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": mark}}
    return {
        "metadata": {"labels": mark},
        "spec": {
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
            "containers": [
                {
                    "name": container,
                    "image": job.image,
                    "env": [
                        {"name": "RAY_AUTH_MODE", "value": "token"},
                        {"name": "RAY_worker_niceness", "value": "0"},
                        {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
                    ],
                    "resources": {"requests": resources, "limits": dict(resources)},
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        },
    }


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, and no references between parts: people read this."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, value: str) -> yaml.ScalarNode:
        node: yaml.ScalarNode = self.represent_scalar(
            "tag:yaml.org,2002:str", value, style="|" if "\n" in value else None
        )
        return node


_Dumper.add_representer(str, _Dumper.text)
