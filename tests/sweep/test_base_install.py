"""Commands that need what the base installation does not have say in one line what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys
for library in ("ray", "filelock", "fsspec", "s3fs"):
    sys.modules[library] = None  # as where it is not installed
from sweep.cli import main
main()
"""
NO_RAY = "error: ray is not installed: pip install 'energyaware[run]'"
NO_S3 = "error: s3://bucket/results: results: needs s3fs: pip install 'energyaware[s3]'"
QUICKSTART = str(ROOT / "examples" / "quickstart.yaml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cluster", "check"], NO_RAY),
        (["run", QUICKSTART, "--results", "results", "--detach"], NO_RAY),
        (["run", QUICKSTART, "--results", "results", "--detach", "--address", "127.0.0.1:1"], NO_RAY),
        (["status", "s3://bucket/results"], NO_S3),
        (["query", "s3://bucket/results", "select 1"], NO_S3),
    ],
)
def test_what_is_to_be_installed_is_said_in_one_line(tmp_path, arguments, said):
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, f"{said}\n")
    assert list(tmp_path.iterdir()) == []
