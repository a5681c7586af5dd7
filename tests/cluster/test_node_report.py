"""What a machine says of itself, seen from processes on machines of our making."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import psutil
import pytest
import ray.cloudpickle

import cluster
from cluster.node_report import gpus_handed_out, interfaces, report, size_of

pytest_plugins = "tests.nvml.plugin"

BARE = """
import importlib.util, json, ray.cloudpickle, sys
assert importlib.util.find_spec("cluster") is None
print(json.dumps(ray.cloudpickle.load(sys.stdin.buffer)("node", [__file__, "/nowhere"], lambda name: {"name": name})))
"""


def own_gpus():
    return [vars(gpu) for gpu in gpus_handed_out(by_ray=False)]


def test_each_gpu_is_described_as_its_driver_does(gpus):
    first, second = gpus.call(
        own_gpus,
        *("gpu GPU-aaaa 300", "gpu GPU-bbbb 70", "capability 1 8 9", "limit 1 0 450.5"),
        *("processes 0 0 4711 4712", "processes 1 0"),
    )
    assert first == {
        "uuid": "GPU-aaaa",
        "kind": "NVIDIA H200",
        "memory_bytes": 141 * 2**30,
        "capability": [9, 0],
        "power_limit_w": 700.0,
        "others": [4711, 4712],
    }
    assert (second["capability"], second["power_limit_w"], second["others"]) == ([8, 9], 450.5, [])


def test_what_the_driver_does_not_tell_is_unknown_and_not_none_at_all(gpus):
    (only,) = gpus.call(own_gpus, "gpu GPU-aaaa 300", "capability 0 0 0", "fail-context 0 3")
    assert only["uuid"] == "GPU-aaaa"
    assert [only[name] for name in ("capability", "power_limit_w", "others")] == [None, None, None]


@pytest.mark.parametrize(
    ("visible", "expected"), [("1", ["GPU-b"]), ("GPU-a", ["GPU-a"]), ("", []), ("1,0", ["GPU-b", "GPU-a"])]
)
def test_gpus_that_are_left_to_others_are_not_ours(gpus, visible, expected):
    found = gpus.call(own_gpus, "gpu GPU-a 1", "gpu GPU-b 1", CUDA_VISIBLE_DEVICES=visible)
    assert [gpu["uuid"] for gpu in found] == expected


@pytest.mark.parametrize(("visible", "expected"), [("2,0", ["GPU-c", "GPU-a"]), ("1", []), ("GPU-c", ["GPU-c"])])
def test_a_gpu_that_cannot_be_read_keeps_its_number(gpus, visible, expected):
    machine = [*(f"gpu GPU-{name} 1" for name in "abc"), "lost 1 0"]
    found = gpus.call(own_gpus, *machine, CUDA_VISIBLE_DEVICES=visible)
    assert [gpu["uuid"] for gpu in found] == expected
    assert [gpu["uuid"] for gpu in gpus.call(own_gpus, *machine)] == ["GPU-a", "GPU-c"]


def test_no_gpus_without_a_driver(gpus):
    assert gpus.call(own_gpus, "gpu GPU-a 1", NVML_SCENARIO="nowhere") == []


def test_this_machine_says_what_the_system_does():
    said = report("here", [__file__], lambda name: {"asked as": name}, by_ray=False)
    assert said["memory_bytes"] == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert said["python"] == sys.executable
    assert said["niceness"] == os.nice(0)
    assert said["sizes"] == {__file__: Path(__file__).stat().st_size}
    assert said["found"] == {"asked as": "here"}
    assert any("127.0.0.1" in addresses for addresses in interfaces().values())


def test_a_folder_is_as_large_as_its_own_files_that_are_not_hidden(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    (tmp_path / "config.json").write_bytes(b"678")
    (tmp_path / ".gitattributes").write_bytes(b"hidden")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "more").write_bytes(b"more")
    assert size_of(tmp_path) == 8
    assert size_of(tmp_path / "config.json") == 3
    assert size_of(tmp_path / "nowhere") == "No such file or directory"


def test_it_runs_where_nothing_of_ours_is_installed(tmp_path):
    program = tmp_path / "bare.py"
    program.write_text(BARE)
    ray.cloudpickle.register_pickle_by_value(cluster)
    try:
        sent = ray.cloudpickle.dumps(lambda *asked: report(*asked, by_ray=False))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(cluster)
    done = subprocess.run(
        [sys.executable, "-S", program],
        input=sent,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")},
        cwd=tmp_path,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b'"found": {"name": "node"}' in done.stdout
    assert b'"/nowhere": "No such file or directory"' in done.stdout
