"""Benchmarks that need other hardware than a test has are tried small, so that they run when it is at hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.timeout(600)
def test_the_gpu_benchmark_runs_dry_and_invents_no_joules(tmp_path):
    small = "--device cpu --hidden 64 --layers 1 --batches 1 2 --prompt 16 --new 4 --turns 2 --seconds 0.01"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu_kernels.py", *small.split(), "--results", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "a dry run" in done.stdout
    (path,) = tmp_path.iterdir()
    report = json.loads(path.read_text())
    cases = {(row["variant"], row["batch"], row["phase"]) for row in report["rows"]}
    assert len(cases) == len(report["rows"]) == 4 * 2 * 2
    assert all(row["tokens_per_s"]["median"] > 0 and row["energy_j_per_token"] is None for row in report["rows"])
    sparse = report["variants"]["2:4 bf16"]
    assert sparse["realisation"] == "simulated"
    assert sparse["unrealised_layers"], "why no layer is on a sparse kernel"
    sizes = {name: about["weight_mib"] for name, about in report["variants"].items()}
    assert sizes["nf4"] < sizes["int8"] < sizes["dense bf16"] == sizes["2:4 bf16"]
