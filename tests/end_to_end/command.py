"""The command line as real processes, and what they leave."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq

COMMAND = str(Path(sys.executable).with_name("energyaware"))


def energyaware(*arguments, cwd, check=0, env=None):
    done = subprocess.run(
        [COMMAND, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done


def rows(results, table):
    return [row for path in sorted((results / table).rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def kill_one(process, title, deadline):
    """SIGKILL the first descendant whose title begins so; Ray names its processes after what they do."""
    while time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                if child.cmdline()[0].startswith(title):
                    child.kill()
                    return
        time.sleep(0.05)
    raise AssertionError(f"no process {title}")
