"""Models of a hub, downloaded by the hub's own client from a stand-in on this machine, each time in new processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from energyaware.model_ref import folder_ref
from energyaware.models import load_model
from energyaware.precision import PRECISIONS
from tests.hub import COMMIT, Hub
from tests.tiny import save_gpt2

ROOT = Path(__file__).parents[2]
NAME = "someone/tiny"
LOAD = """
import json, sys
from energyaware.errors import InputError
from energyaware.model_ref import hub_ref, pinned
from energyaware.models import folder_of
try:
    model = pinned(hub_ref(sys.argv[1], sys.argv[2], "model"))
    folder = folder_of(model)
    print(json.dumps([model.location, str(folder), sorted(p.name for p in folder.iterdir())]))
except InputError as error:
    print(json.dumps([error.source, error.field, error.problem]))
"""


@pytest.fixture
def hub(tmp_path):
    save_gpt2(tmp_path / "hub" / NAME)
    for name in ("pytorch_model.bin", "consolidated.safetensors", "notes.md", "modeling.py"):
        (tmp_path / "hub" / NAME / name).write_text("is not for us")
    (tmp_path / "hub" / NAME / "original").mkdir()
    (tmp_path / "hub" / NAME / "original" / "model.safetensors").write_text("nor is this")
    with Hub(tmp_path / "hub") as hub:
        yield hub


def start(hub, home, *arguments, **environment):
    env = os.environ | hub.environment(home) | {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-c", LOAD, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(process):
    said, trouble = process.communicate(timeout=200)
    assert process.returncode == 0, trouble
    return json.loads(said)


def load(hub, home, revision="main", name=NAME, **environment):
    return answer(start(hub, home, name, revision, **environment))


def test_only_what_loading_reads_is_downloaded_and_only_once(hub, tmp_path):
    location, folder, files = load(hub, tmp_path / "home")
    assert location == f"{NAME}@{COMMIT}"
    assert Path(folder).is_relative_to(tmp_path / "home")
    assert set(files) == {"config.json", "generation_config.json", "model.safetensors"} | {
        name for name in files if name.startswith("tokenizer")
    }
    assert type(load_model(folder_ref(Path(folder), "model"), PRECISIONS["fp32"], "cpu")).__name__ == "GPT2LMHeadModel"
    assert set(hub.sent().values()) == {1}
    hub.asked.clear()
    assert load(hub, tmp_path / "home", COMMIT)[1:] == [folder, files]
    assert not hub.sent()


def test_workers_that_ask_at_once_download_once_between_them(hub, tmp_path):
    workers = [start(hub, tmp_path / "home", NAME, "main") for _ in range(3)]
    assert len({answer(worker)[1] for worker in workers}) == 1
    assert hub.sent(".safetensors") == {"model.safetensors": 1}


def test_a_pinned_model_stays_what_it_was_when_the_branch_moves(hub, tmp_path):
    location = load(hub, tmp_path / "one")[0]
    hub.commits["main"] = "f" * 40
    hub.commits["before"] = COMMIT
    assert load(hub, tmp_path / "two", COMMIT)[0] == location
    assert load(hub, tmp_path / "two")[0] == f"{NAME}@{'f' * 40}"


def test_without_a_network_the_cache_is_enough_and_half_a_model_is_not(hub, tmp_path):
    load(hub, tmp_path / "home")
    hub.asked.clear()
    assert load(hub, tmp_path / "home", HF_HUB_OFFLINE="1")[0] == f"{NAME}@{COMMIT}"
    next((tmp_path / "home").rglob("snapshots/*/model.safetensors")).unlink()
    _, field, problem = load(hub, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert (field, hub.asked) == ("model.hub", [])
    assert f"{NAME} at revision '{COMMIT}' cannot be had" in problem
    assert "\n" not in problem


def test_a_download_that_was_killed_is_completed_by_the_next(hub, tmp_path):
    hub.broken_after = 1000
    worker = start(hub, tmp_path / "home", NAME, "main")
    deadline_s = time.monotonic() + 60
    while not hub.sent(".safetensors"):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    hub.broken_after = None
    folder = Path(load(hub, tmp_path / "home")[1])
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / NAME / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "revision", "problem"),
    [
        ("someone/else", "main", "someone/else at revision 'main' cannot be had"),
        (NAME, "none", f"{NAME} at revision 'none' cannot be had"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(hub, tmp_path, name, revision, problem):
    source, field, told = load(hub, tmp_path / "home", revision, name=name)
    assert (source, field) == (name, "model.hub")
    assert told.startswith(problem)
    assert "\n" not in told


def test_a_model_without_safetensors_is_refused(hub, tmp_path):
    shutil.rmtree(tmp_path / "hub" / NAME / "original")
    for weights in (tmp_path / "hub" / NAME).glob("*.safetensors"):
        weights.unlink()
    assert "weights are loaded from safetensors alone" in load(hub, tmp_path / "home")[2]
