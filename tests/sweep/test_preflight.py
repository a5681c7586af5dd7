"""What is wrong with nodes, from what they said; and `energyaware cluster check` on this machine, as a user runs it."""

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import ray.cloudpickle
from safetensors import safe_open

from cluster.node import Gpu, Node
from cluster.survey import Clock, NodeReport
from energyaware.errors import InputError
from energyaware.spec import FinetuneSpec
from energyaware.store import Store
from energyaware.versions import versions
from sweep import node_probe
from sweep.checkpoint_size import BYTES_PER_WEIGHT, checkpoints_bytes, trained_weights
from sweep.cli import main
from sweep.needs import refuse_unmetered
from sweep.node_probe import meet
from sweep.node_problems import Launcher, disk_problems, problems_of
from sweep.plan import make_plan
from sweep.preflight import meeting_at, paths_of
from sweep.runner import resolve_hardware
from sweep.sweep_file import load
from tests.own_data import COLUMNS, save_tickets
from tests.powercap import Powercap, intel
from tests.tiny import save_gpt2

pytest_plugins = ["tests.nvml.plugin", "tests.s3"]

ROOT = Path(__file__).parents[2]
HERE = Launcher({"python": "3.11.7", "code": "aaaa", "energyaware": "0.1.0", "torch": "2.13.0"}, {"/data": 8})
FOUND = {"versions": dict(HERE.versions), "broken": None, "results": None, "meters": ()}
GPU = Gpu("GPU-aaaa", "NVIDIA H200", 141 * 2**30, (9, 0), 700.0)

RIGHT = Clock(0.0, 0.01)


def node(index, *gpus, silent=None, clock=RIGHT, **said):
    about = Node(f"id{index}", f"host{index}", f"10.0.0.{index}", 8.0, len(gpus), 2**34, gpus)
    report = NodeReport(
        about,
        silent,
        "/usr/bin/python",
        interfaces={"lo": ["127.0.0.1"], "eth0": [about.address]},
        chosen={"GLOO": "", "NCCL": ""},
        sizes={"/data": 8},
        found=FOUND | said.pop("found", {}),
        clock=clock,
    )
    return replace(report, **said)


def lines_of(*reports, launcher=HERE, unseen=()):
    return [(problem.line, problem.refuses) for problem in problems_of(reports, launcher, unseen)]


def test_nothing_is_said_of_nodes_that_are_as_they_should_be():
    assert lines_of(node(1, GPU), node(2)) == []


def test_other_versions_and_other_code_are_refused_by_name():
    other = HERE.versions | {"torch": "2.12.1", "code": "bbbb"}
    missing = {name: value for name, value in HERE.versions.items() if name != "torch"}
    (first, refused), (second, _) = lines_of(
        node(1), node(2, found={"versions": other}), node(3, found={"versions": missing})
    )
    assert refused
    assert "host2: other versions than here: code of energyaware bbbb, here aaaa; torch 2.12.1, here 2.13.0:" in first
    assert "host3: other versions than here: torch missing, here 2.13.0:" in second


def test_code_that_is_the_same_may_go_by_another_version():
    assert lines_of(node(1, found={"versions": HERE.versions | {"energyaware": "0.2.0"}})) == []
    shipped = {name: value for name, value in HERE.versions.items() if name != "energyaware"}
    assert lines_of(node(1, found={"versions": shipped})) == []


def test_a_node_without_our_software_says_so_and_no_more():
    absent = {"versions": None, "broken": "No module named 'energyaware' (/usr/bin/python)"}
    ((line, refused),) = lines_of(node(2, found=absent))
    assert refused
    assert line.startswith("host2: energyaware cannot be loaded: No module named 'energyaware' (/usr/bin/python): ")


def test_what_several_nodes_have_in_common_is_one_line():
    ill = [node(index, found={"results": "is not there"}) for index in range(1, 8)]
    ((line, refused),) = lines_of(node(9), *ill)
    assert refused
    assert line.startswith("host1, host2, host3, host4, host5 and 2 more: the results folder is not there: every node")


def test_a_word_that_is_not_seen_here_is_another_folder():
    ((line, refused),) = lines_of(node(1), node(2), unseen=["host2"])
    assert refused
    assert line.startswith("host2: what it writes to the results folder is not seen here")


@pytest.mark.parametrize(
    ("there", "what"), [("No such file or directory", "/data: No such file"), (7, "/data: holds 7 bytes there, 8 here")]
)
def test_data_that_are_not_the_same_there_are_refused(there, what):
    ((line, refused),) = lines_of(node(1, sizes={"/data": there}))
    assert refused
    assert what in line


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (Clock(0.9, 0.01), []),
        (Clock(40.0, 39.5), []),
        (Clock(-2.5, 0.01), [("2.5 s behind", False)]),
        (Clock(29.0, 0.01), [("29.0 s ahead", False)]),
        (Clock(31.0, 0.01), [("31.0 s ahead", True)]),
        (None, []),
    ],
)
def test_a_clock_is_told_from_1_s_on_and_refused_from_30_s_on(clock, expected):
    found = lines_of(node(1, clock=clock))
    assert [(what in line, refuses) for (line, refuses), (what, _) in zip(found, expected, strict=True)] == [
        (True, refuses) for _, refuses in expected
    ]


@pytest.mark.parametrize(
    ("library", "chosen", "exists"),
    [
        ("GLOO", "eth0", True),
        ("GLOO", "eth0,lo", True),
        ("GLOO", "eth", False),
        ("GLOO", "ib0", False),
        ("NCCL", "eth", True),
        ("NCCL", "=eth0", True),
        ("NCCL", "=eth", False),
        ("NCCL", "^docker", True),
        ("NCCL", "ib", False),
    ],
)
def test_an_interface_that_was_chosen_has_to_be_there(library, chosen, exists):
    found = lines_of(node(1, chosen={"GLOO": "", "NCCL": "", library: chosen}))
    if exists:
        assert found == []
        return
    ((line, refused),) = found
    assert refused
    assert f"host1: {library}_SOCKET_IFNAME is {chosen}, and no interface is called so; there are lo, eth0" in line


def test_an_address_of_no_interface_is_told_where_there_is_more_than_one_node():
    translated = {"lo": ["127.0.0.1"], "eth0": ["172.17.0.2"]}
    assert lines_of(node(1, interfaces=translated)) == []
    ((line, refused),) = lines_of(node(1, interfaces=translated), node(2))
    assert not refused
    assert "host1: none of its network interfaces has 10.0.0.1" in line
    chosen = {"GLOO": "eth0", "NCCL": "eth0"}
    assert lines_of(node(1, interfaces=translated, chosen=chosen), node(2)) == []


def test_other_processes_on_a_gpu_are_told_or_refused():
    shared = replace(GPU, others=(4711, 4712))
    ((line, refused),) = lines_of(node(1, GPU, shared))
    assert not refused
    assert "host1: other processes are on its GPUs, and their joules would count as ours: GPU-aaaa (4711, 4712)" in line
    strict = replace(HERE, refuse_shared_gpus=True)
    assert [refused for _, refused in lines_of(node(1, shared), launcher=strict)] == [True]


def test_processes_that_the_driver_does_not_tell_are_no_promise():
    secretive = node(1, replace(GPU, others=None))
    assert lines_of(secretive) == []
    ((line, refused),) = lines_of(secretive, launcher=replace(HERE, refuse_shared_gpus=True))
    assert refused
    assert "does not tell which processes are on GPU-aaaa" in line


def test_workers_that_yield_to_others_are_told():
    ((line, refused),) = lines_of(node(1, niceness=15))
    assert not refused
    assert "niceness 15" in line
    assert "RAY_worker_niceness=0" in line


def test_a_silent_node_is_named():
    ((line, refused),) = lines_of(node(1), node(2, silent="no answer in 90 s"))
    assert refused
    assert line.startswith("host2: does not answer: no answer in 90 s: ")


@pytest.mark.parametrize(
    ("component", "state", "expected"),
    [
        ("cpu", "ok", []),
        ("cpu", "absent", [True]),
        ("dram", "unreadable", [True]),
        ("dram", "left out", []),
        ("gpu", "absent", []),
        ("gpu", "unreadable", [False]),
    ],
)
def test_a_component_that_nothing_reads_is_refused_and_a_gpu_told(component, state, expected):
    line = {"component": component, "name": "it", "state": state, "reason": "because", "advice": None}
    found = lines_of(node(1, found={"meters": (line,)}))
    assert [refuses for _, refuses in found] == expected
    assert all(said.startswith("host1: it cannot be read: because: see `energyaware meters`") for said, _ in found)


def test_stages_of_which_nothing_would_be_metered_are_refused():
    with pytest.raises(InputError, match=r"^mine.yaml: energy.components: gpu alone is for stages that hold GPUs: "):
        refuse_unmetered(("gpu",), 0, "mine.yaml")
    refuse_unmetered(("gpu",), 1, "mine.yaml")
    refuse_unmetered(("gpu", "dram"), 0, "mine.yaml")


@pytest.mark.parametrize("command", ["run", "cluster check"])
def test_they_are_refused_before_anything_starts(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("precisions: [bf16]\nresources: {device: cpu}\nenergy: {components: gpu}")
    monkeypatch.setattr("sys.argv", ["energyaware", *command.split(), "s.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: s.yaml: energy.components: gpu alone is for stages that hold ")


def test_room_for_checkpoints_is_looked_at():
    assert list(disk_problems("/results", 2 * 10**9, None)) == []
    assert list(disk_problems("/results", 2 * 10**9, 10**9)) == []
    ((few,), (less,)) = list(disk_problems("/results", 5 * 10**8, None)), list(disk_problems("/r", 10**9, 4 * 10**9))
    assert "/results: 0.5 GB are free: " in few.line
    assert "/r: 1.0 GB are free; checkpoints of one fine-tuning take up to 4.0 GB: " in less.line
    assert not few.refuses


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("user")
    save_gpt2(home / "my-gpt2")
    save_tickets(home / "tickets.jsonl")
    (home / "texts.jsonl").write_text('{"text": "link down"}\n')
    data = f"{{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}"
    (home / "mine.yaml").write_text(
        f"model: ./my-gpt2\ndata: {data}\nprecisions: fp32\nfinetune: {{method: full, steps: 2}}\n"
        "prunings: [none, wanda-50%]\ncalibration: {path: texts.jsonl}\n"
    )
    return home


@pytest.fixture(scope="module")
def specs(home):
    sweep = load(home / "mine.yaml")
    return [stage.spec for stage in make_plan(sweep, resolve_hardware(sweep))]


def test_what_stages_read_is_looked_for_on_every_node(home, specs):
    assert paths_of(specs) == [str(home / name) for name in ("my-gpt2", "tickets.jsonl", "texts.jsonl")]


def test_checkpoints_are_as_large_as_the_weights_that_are_trained(home, specs):
    with safe_open(home / "my-gpt2" / "model.safetensors", "pt") as model:
        shapes = [model.get_slice(name).get_shape() for name in model.keys()]  # noqa: SIM118
    full = next(spec for spec in specs if isinstance(spec, FinetuneSpec))
    assert trained_weights(full) == sum(shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in shapes)
    lora = replace(full, method="lora", lora_rank=4)
    assert 0 < trained_weights(lora) < trained_weights(full)
    assert checkpoints_bytes([full, lora], keep=2) == 3 * BYTES_PER_WEIGHT * trained_weights(full)
    assert checkpoints_bytes([], keep=2) is None


def test_the_probe_runs_where_nothing_of_ours_is_installed(tmp_path):
    ray.cloudpickle.register_pickle_by_value(node_probe)
    try:
        sent = ray.cloudpickle.dumps(node_probe.probe_of(node_probe.Meeting("/r", "f", "w"), ["cpu"]))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(node_probe)
    code = "import json, ray.cloudpickle, sys; print(json.dumps(ray.cloudpickle.load(sys.stdin.buffer)('host')))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],  # without site, ours is not found: it is installed for development
        input=sent,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")},
        cwd=tmp_path,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["broken"] == f"No module named 'energyaware' ({sys.executable})"
    assert (found["versions"], found["results"], found["meters"]) == (None, None, [])


def test_nodes_meet_in_one_folder_and_leave_nothing(tmp_path):
    store = Store(tmp_path / "results")
    store.create()
    with meeting_at(store) as meeting:
        folder = tmp_path / "results" / meeting.folder
        assert meet("host1", meeting.url, meeting.folder, meeting.word) is None
        assert (folder / "host1").read_text() == (folder / "launcher").read_text() == meeting.word
        elsewhere = tmp_path / "other"
        assert meet("host2", str(elsewhere), meeting.folder, meeting.word) == "is not there"
        elsewhere.mkdir()
        assert meet("host2", str(elsewhere), meeting.folder, meeting.word) == "is another folder there than here"
        assert not list(elsewhere.iterdir())
    assert not folder.exists()


def test_nodes_meet_on_object_storage_and_say_when_they_cannot(bucket, monkeypatch):
    store = Store(f"{bucket}/results")
    with meeting_at(store) as meeting:
        assert meet("host1", meeting.url, meeting.folder, meeting.word) is None
        assert store.files.read(f"{meeting.folder}/host1") == meeting.word.encode()
        with monkeypatch.context() as cut_off:
            cut_off.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
            assert meet("host2", meeting.url, meeting.folder, meeting.word).startswith("cannot be read there: ")
    assert store.files.versions("") == {}


def check(*arguments, environment=None, code=0, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from sweep.cli import main; main()", "cluster", "check", *arguments],
        cwd=cwd,
        env=(os.environ if environment is None else environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def powercap(tmp_path):
    return intel(Powercap(tmp_path / "powercap"))


def test_this_machine_is_one_table_with_a_line_for_each_gpu(gpus, powercap):
    machine = ["gpu GPU-aaaaaaaaaa 300", "gpu GPU-bbbbbbbbbb 70", "capability 1 8 9"]
    table = check(environment=gpus.environment(*machine) | powercap.environment)
    head, first, second = table.splitlines()
    assert head.split() == [
        *("node", "CPUs", "memory", "network", "clock", "python", "code", "meters"),
        *("GPU", "kind", "memory", "capability", "limit", "others", "on", "it"),
    ]
    assert (
        first.split()[-17:]
        == [
            *(
                "lo",
                "127.0.0.1",
                "+0.00",
                "s",
                versions()["python"],
                versions()["code"],
                "cpu",
                "dram",
                "gpu",
                "measured",
            ),
            *("GPU-aaaaaaaa", "NVIDIA", "H200", "141.0", "GiB", "9.0", "700", "W", "none"),
        ][-17:]
    )
    assert second.split() == ["GPU-bbbbbbbb", "NVIDIA", "H200", "141.0", "GiB", "8.9", "700", "W", "none"]


def test_a_foreign_process_is_told_and_refused_where_gpus_are_to_be_ones_own(gpus, powercap, home):
    environment = gpus.environment("gpu GPU-aaaa 300", "processes 0 0 4711") | powercap.environment
    assert "GPU-aaaa (4711): see `nvidia-smi` there" in check(environment=environment)
    text = (home / "mine.yaml").read_text()
    (home / "alone.yaml").write_text(text + "resources: {device: cpu, exclusive: gpu}\n")
    assert "GPU-aaaa (4711)" in check(home / "alone.yaml", "--results", home / "none", environment=environment, code=2)


def test_a_sweep_is_looked_for_and_its_results_folder_is_not_left_behind(powercap, home, tmp_path):
    asked = [home / "mine.yaml", "--results", tmp_path / "deep" / "results", "--format", "json"]
    answer = json.loads(check(*asked, environment=os.environ | powercap.environment))
    (said,) = answer["nodes"]
    assert answer["problems"] == []
    assert (said["silent"], said["clock"]["ahead_s"]) == (None, 0.0)
    assert said["versions"] == versions()
    assert {line["component"]: line["state"] for line in said["meters"]}["cpu"] == "ok"
    assert not (tmp_path / "deep").exists()


def test_results_that_are_there_stay(powercap, home, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "sweep.yaml").write_text("kept")
    check("--results", tmp_path / "results", environment=os.environ | powercap.environment)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["sweep.yaml"]
