"""A worker that was killed while it compiled an operator holds up no other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from energyaware.operators import remove_if_left

HOLD = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("held", flush=True)
time.sleep(600)
"""

COMPILE = """
from energyaware.operators import compile_operators
compile_operators()
import deepspeed
deepspeed.init_distributed(verbose=False)
print("compiled")
"""


@pytest.fixture
def holder(tmp_path):
    """A process that says it compiles, as PyTorch does."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_what_a_living_process_holds_stays_and_what_a_killed_one_left_goes(tmp_path, holder):
    remove_if_left(tmp_path / "lock")
    assert (tmp_path / "lock").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    remove_if_left(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
    remove_if_left(tmp_path / "lock")


@pytest.mark.end_to_end
def test_workers_start_although_one_was_killed_while_it_compiled(tmp_path):
    """In a folder of its own: the operator is compiled anew, killed in the middle of it, and compiled again."""
    environment = os.environ | {
        "TORCH_EXTENSIONS_DIR": str(tmp_path), "DS_ACCELERATOR": "cpu", "RANK": "0", "WORLD_SIZE": "1",
        "LOCAL_RANK": "0", "LOCAL_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
    }  # fmt: skip
    started = [sys.executable, "-c", COMPILE]
    killed = subprocess.Popen(started, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 120
    while not list(Path(tmp_path).rglob("lock")):
        assert killed.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert list(Path(tmp_path).rglob("lock")), "what would hold up everybody"
    done = subprocess.run(started, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "compiled" in done.stdout
