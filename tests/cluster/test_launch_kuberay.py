"""The RayJob: its text, its fields in the published schema, and that nothing that is given becomes YAML or code."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from cluster.launch.kuberay import NAME_CHARACTERS, RayJob, job_name, manifest, oldest_ray, ray_version
from tests.cluster.kuberay_fields import CONFIG_MAP, RAY_JOB, REQUIRED

GOLDEN = Path(__file__).parent / "golden" / "kuberay.yaml"
JOB = {
    "name": "tickets",
    "sweep": "name: tickets\nprecisions:\n- bf16\n",
    "results": "/shared/tickets",
    "image": "registry.example.org/energyaware:1",
    "nodes": 3,
    "cpus_per_node": 16,
    "gpus_per_node": 8,
    "memory_per_node": "256Gi",
    "claim": "results",
    "namespace": "research",
}
NAMES = ["tickets", "Tickets", "a.b_c", "ü漢", "-", "x" * 200, "9lives", "trailing-", "tickets-2"]


def documents(**changes):
    return list(yaml.safe_load_all(manifest(RayJob(**JOB | changes))))


def test_the_manifest_is_the_golden_one():
    assert manifest(RayJob(**JOB)).replace(ray_version(), "RAY_VERSION") == GOLDEN.read_text()


@pytest.mark.parametrize("changes", [{}, {"nodes": 1, "gpus_per_node": 0}, {"claim": None, "results": "s3://bucket/x"}])
def test_every_field_is_in_the_published_schema(changes):
    config_map, ray_job = documents(**changes)
    check(config_map, CONFIG_MAP)
    check(ray_job, RAY_JOB)


def test_the_schema_finds_what_is_not_in_it():
    ray_job = documents()[1]
    ray_job["spec"]["rayClusterSpec"]["authOptions"]["token"] = "x"
    with pytest.raises(AssertionError, match=r"authOptions: token"):
        check(ray_job, RAY_JOB)


def test_without_ray_the_version_is_the_oldest_that_is_asked_for():
    wanted = re.search(r'"ray\[default,tune\]>=(\d+\.\d+),', (GOLDEN.parents[3] / "pyproject.toml").read_text())[1]
    assert oldest_ray() == f"{wanted}.0"


def test_pods_ask_for_what_was_asked_and_one_machine_each():
    config_map, ray_job = documents()
    cluster = ray_job["spec"]["rayClusterSpec"]
    [group] = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2
    for part in (cluster["headGroupSpec"], group):
        pod = part["template"]["spec"]
        [container] = pod["containers"]
        wanted = {"cpu": "16", "memory": "256Gi", "nvidia.com/gpu": "8"}
        assert container["resources"] == {"requests": wanted, "limits": wanted}
        assert {"name": "shared", "persistentVolumeClaim": {"claimName": "results"}} in pod["volumes"]
        assert {"name": "sweep", "configMap": {"name": config_map["metadata"]["name"]}} in pod["volumes"]
        [apart] = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert apart["labelSelector"]["matchLabels"] == part["template"]["metadata"]["labels"]
    assert "workerGroupSpecs" not in documents(nodes=1)[1]["spec"]["rayClusterSpec"]


def test_the_token_is_made_by_kuberay_and_the_dashboard_stays_inside():
    cluster = documents()[1]["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    # An operator that knows no authOptions makes no token, and Ray does not start without one.
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in head["template"]["spec"]["containers"][0]["env"]
    assert "Secret" not in manifest(RayJob(**JOB))


@pytest.mark.parametrize("name", NAMES)
def test_names_are_dns_labels(name):
    # DNS-1035, as KubeRay's ValidateRayJobMetadata wants it.
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job_name(name))
    assert len(job_name(name)) <= NAME_CHARACTERS


def test_other_names_give_other_names():
    assert len({job_name(name) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("text", ["a: '{{x}}'\n---\nkind: Pod\n", "\ttab\n", "  leads\n", "'\"\\\n%x\u2028é\x07", "x"])
def test_the_sweep_file_arrives_as_it_is(text):
    config_map, _ = documents(sweep=text)
    assert config_map["data"] == {"sweep.yaml": text}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", "x; y"),
        ("image", "x\ny"),
        ("image", ""),
        ("claim", "Results"),
        ("claim", "a..b"),
        ("claim", "x" * 254),
        ("namespace", "a.b"),
        ("namespace", "x" * 64),
        ("namespace", ""),
        ("memory_per_node", "lots"),
        ("memory_per_node", "0"),
        ("results", "/shared/$(x)"),
        ("results", "/shared/a b"),
        ("results", "/shared/../etc"),
        ("results", "/elsewhere"),
        ("results", "relative"),
    ],
)
def test_what_kubernetes_or_a_shell_would_misread_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"\A{field}: [^\n]+\Z"):
        RayJob(**JOB | {field: value})


def test_a_folder_needs_a_volume():
    with pytest.raises(ValueError, match="claim: is missing: '/shared/tickets' is on the claim's volume"):
        RayJob(**JOB | {"claim": None})


def test_the_entrypoint_is_one_command():
    entrypoint = documents(results="s3://bucket/a%20b", claim=None)[1]["spec"]["entrypoint"]
    assert shlex.split(entrypoint) == [
        *("energyaware", "run", "/etc/energyaware/sweep.yaml"),
        *("--results", "s3://bucket/a%20b", "--address", "auto"),
    ]
    assert not set(entrypoint) & set("$`;&|<>*?\"'\\")


def check(value, schema, where=""):
    """Assert that a value has fields and types of the schema alone, and all that are required."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert REQUIRED.get(where, set()) <= set(value), where
        if str in schema:
            schema = dict.fromkeys(value, schema[str])
        for name, part in value.items():
            assert name in schema, f"{where}: {name}"
            check(part, schema[name], f"{where}.{name}".lstrip("."))
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for part in value:
            check(part, schema[0], where)
    elif isinstance(schema, set):
        assert value in schema, f"{where}: {value}"
    else:
        assert type(value) is schema, f"{where}: {value!r}"
