"""What is loaded from a checkpoint: data, DeepSpeed's few classes, and nothing else."""

import errno
import json
import os
import pickle
import random
import resource
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from energyaware.checkpoint_content import ALLOWED, load_data, problem_of, random_states, restore_random_states

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")


def dynamic_scaler():
    """As fp16 has it after an overflow."""
    scaler = DynamicLossScaler(2**16, scale_window=1000, min_scale=1, delayed_shift=2, consecutive_hysteresis=False)
    scaler.cur_iter, scaler.cur_scale, scaler.last_overflow_iter = 17, 2.0**15, 16
    return scaler


def test_every_class_that_is_allowed_comes_back_as_it_was(tmp_path):
    state = {
        "dynamic": dynamic_scaler(),
        "static": LossScaler(4.0),
        "stage": ZeroStageEnum.weights,
        "fragment": fragment_address(numel=8, start=16),
        "tensors": [torch.arange(3), torch.Size([2, 3])],
    }
    assert {type(state[name]) for name in ("dynamic", "static", "stage", "fragment")} == set(ALLOWED)
    torch.save(state, tmp_path / "state.pt")
    loaded = load_data(tmp_path / "state.pt")
    assert vars(loaded["dynamic"]) == vars(state["dynamic"])
    assert vars(loaded["static"]) == vars(state["static"])
    assert loaded["stage"] is ZeroStageEnum.weights
    assert loaded["fragment"] == state["fragment"]
    assert torch.equal(loaded["tensors"][0], torch.arange(3))


class Calls:
    """Unpickled by somebody who trusts it, it calls a function."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize(
    "attack",
    [
        lambda trap: Calls(open, trap, "w"),
        lambda trap: Calls(exec, f"open({trap!r}, 'w')"),
        lambda trap: Calls(getattr, ZeroStageEnum.weights, "__class__"),
        lambda trap: {"fine": torch.zeros(1), "deep": [Calls(np.savetxt, trap, [1])]},
    ],
)
def test_a_file_that_asks_for_a_call_is_refused_before_it_is_made(tmp_path, attack):
    path, trap = tmp_path / "state.pt", tmp_path / "trap"
    torch.save(attack(str(trap)), path)
    for mmap in (False, True):
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            load_data(path, mmap=mmap)
    problem = problem_of(tmp_path, {path.name: path.stat().st_size})
    assert problem.startswith("state.pt is not what was written: Weights only load failed")
    assert "\n" not in problem
    assert not trap.exists()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_what_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch, error):
    path = tmp_path / "state.pt"
    torch.save({"a": 1}, path)
    monkeypatch.setattr("energyaware.checkpoint_content.load_data", Mock(side_effect=error))
    with pytest.raises(type(error)):
        problem_of(tmp_path, {path.name: path.stat().st_size})


def with_no_file_to_spare():
    """Tries a checkpoint that is whole in a process that may open one file more."""
    torch.save({"a": torch.zeros(3)}, "state.pt")
    size = Path("state.pt").stat().st_size
    assert problem_of(Path(), {"state.pt": size}) is None
    free = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, free + 1))
    os.close(free)
    try:
        problem_of(Path(), {"state.pt": size})
    except OSError as problem:
        print(problem)


def test_what_torch_cannot_map_now_is_not_called_damaged(tmp_path):
    code = f"from {__name__} import with_no_file_to_spare as f; f()"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Too many open files" in told.stdout


def test_an_error_without_words_is_named_by_its_kind(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    torch.save({"a": 1}, path)
    monkeypatch.setattr("energyaware.checkpoint_content.load_data", Mock(side_effect=EOFError()))
    assert problem_of(tmp_path, {path.name: path.stat().st_size}) == "state.pt is not what was written: EOFError"


def test_a_plain_pickle_is_refused_too(tmp_path):
    path, trap = tmp_path / "state.pt", tmp_path / "trap"
    path.write_bytes(pickle.dumps(Calls(open, str(trap), "w")))
    assert "not what was written" in problem_of(tmp_path, {path.name: path.stat().st_size})
    assert not trap.exists()


def test_generators_go_on_where_they_were():
    def draw():
        return random.random(), np.random.standard_normal(), torch.randn(1).item()  # noqa: NPY002

    draw()
    states = json.loads(json.dumps(random_states()))
    expected = draw()
    assert draw() != expected
    restore_random_states(states)
    assert draw() == expected
