"""Benchmarks that need other hardware or more time than a test has are tried small, so that they run when asked to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = "tests.nvml.plugin"

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def report_of(tmp_path, benchmark, *arguments, environment=None):
    """What a benchmark writes, and what it prints."""
    results = tmp_path / "results"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / benchmark, *arguments, "--results", results],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = results.iterdir()
    return json.loads(path.read_text()), done.stdout


@pytest.mark.timeout(600)
def test_the_gpu_benchmark_runs_dry_and_invents_no_joules(tmp_path):
    small = "--device cpu --hidden 64 --layers 1 --batches 1 2 --prompt 16 --new 4 --turns 2 --seconds 0.01"
    report, printed = report_of(tmp_path, "gpu_kernels.py", *small.split())
    assert "a dry run" in printed
    cases = {(row["variant"], row["batch"], row["phase"]) for row in report["rows"]}
    assert len(cases) == len(report["rows"]) == 4 * 2 * 2
    assert all(row["tokens_per_s"]["median"] > 0 and row["energy_j_per_token"] is None for row in report["rows"])
    sparse = report["variants"]["2:4 bf16"]
    assert sparse["realisation"] == "simulated"
    assert sparse["unrealised_layers"], "why no layer is on a sparse kernel"
    sizes = {name: about["weight_mib"] for name, about in report["variants"].items()}
    assert sizes["nf4"] < sizes["int8"] < sizes["dense bf16"] == sizes["2:4 bf16"]


def test_the_counter_benchmark_runs_dry_and_holds_sampled_power_against_the_counter(tmp_path, gpus):
    environment = gpus.environment("gpu GPU-other 90", "gpu GPU-mine 300", "fail-power 0 3")
    report, printed = report_of(
        tmp_path, "gpu_counter.py", "--dry-run", "--gpu", "GPU-mine", environment=environment | {"OMP_NUM_THREADS": "1"}
    )
    assert "a dry run" in printed
    assert report["gpu"]["uuid"] == "GPU-mine"
    assert [row["state"] for row in report["rows"]] == ["idle", "idle with a context", "loaded"]
    for row in report["rows"]:
        (window,) = row["windows"]
        assert window["counter"] > 0.3 * 300 * 0.6
        assert window["power instant"] > 0
        assert window["power usage"] > 0
    assert report["steps"]["watched_s"]["median"] > 0.05


def test_without_a_counter_the_counter_benchmark_compares_nothing(tmp_path, gpus):
    report, printed = report_of(
        tmp_path, "gpu_counter.py", "--dry-run", environment=gpus.environment("gpu GPU-a 300", "fail 0 3")
    )
    assert "unknown" in printed
    assert report["idle_context_w"] is None
    for row in report["rows"]:
        assert row["counter_w"] is None
        assert row["power instant / counter"] is None
        assert row["windows"][0]["counter"] is None
        assert row["windows"][0]["power usage"] > 0


def test_the_accuracy_benchmark_measures_windows_and_shows_what_cannot_be_known(tmp_path, nvml_library):
    small = "--cases two-jobs mig --seconds 0.4 --repeats 2"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CODECARBON")}
    report, printed = report_of(tmp_path, "meter_accuracy.py", *small.split(), environment=environment)
    assert "what cannot be known" in printed
    rows = {row["name"]: row["tools"] for row in report["rows"]}
    assert set(rows["two-jobs"]) == {"energyaware", "CodeCarbon", "CodeCarbon, gpu_ids"}
    for window in rows["two-jobs"]["energyaware"]["all"]:
        assert window["true_j"] == pytest.approx(420 * (window["ended_s"] - window["began_s"]))
        assert window["energy_j"] == pytest.approx(window["true_j"], rel=0.3), "its own GPU's joules, not both GPUs'"
    assert rows["mig"]["energyaware"]["figures"] == 0
    assert rows["mig"]["energyaware"]["says"]


@pytest.mark.timeout(600)
def test_the_cost_benchmark_measures_the_actor_and_its_peers(tmp_path, nvml_library):
    report, _ = report_of(tmp_path, "meter_cost.py", "--seconds", "2", "--counted", "2", "--windows", "3")
    assert set(report["tools"]) == {"energyaware", "a bare actor", "CodeCarbon, 15 s", "CodeCarbon, 1 s"}
    ours = report["tools"]["energyaware"]
    assert ours["calls_per_s"] > 0
    assert ours["uss_mib"] > report["tools"]["a bare actor"]["uss_mib"] > 0
    assert ours["open_ms"]["max"] >= ours["open_ms"]["median"] > 0
    assert ours["unknown"] == []
    assert report["ledger"]["kib"] > 0


@pytest.mark.timeout(600)
@pytest.mark.end_to_end
def test_the_scale_benchmark_runs_the_products_schedule_small(tmp_path):
    small = "--stages 40 --slot-stages 80 --runs 2"
    report, _ = report_of(tmp_path, "scale.py", *small.split())
    assert report["plan"]["stages"] == 40
    assert report["driver"]["stages"] == 40
    assert report["driver"]["late_cpu_ms_per_stage"] > 0
    assert 0 < report["slots"]["working"] < report["slots"]["busy"] <= 1
    assert min(report["slots"]["stage"]["all"]) > 2.0


@pytest.mark.timeout(600)
@pytest.mark.end_to_end
def test_the_overhead_benchmark_runs_both_sides_small(tmp_path):
    small = "--turns 1 --stages 2 --trials 1"
    report, _ = report_of(tmp_path, "stage_overhead.py", *small.split())
    assert len(report["ours"]["all_s"]) == 2
    assert len(report["peer"]["all_s"]) == 1


@pytest.mark.timeout(600)
def test_the_ranking_benchmark_ranks_as_its_peers_do(tmp_path):
    """Small; it stops where the rows of one differ from those of another."""
    report, printed = report_of(tmp_path, "ranking_speed.py", "--rows", "1000", "--runs", "1")
    (size,) = report["sizes"]
    assert (size["energy_rows"], size["configurations"]) == (990, 40)
    assert set(size["tools"]) == {"energyaware", "DuckDB", "DuckDB, trusting", "pandas", "pandas, trusting"}
    assert all(tool["s"]["median"] > 0 and tool["peak_mib"]["median"] > 50 for tool in size["tools"].values())
    assert "| 990 | energyaware |" in printed


def test_the_report_benchmark_makes_a_page_and_a_ranking(tmp_path):
    found, printed = report_of(tmp_path, "report_speed.py", "--prunings", "2", "--runs", "1")
    assert "40 configurations, 3 seeds" in printed
    assert found["s"]["report"]["median"] > found["s"]["rank"]["median"] > 0
    assert 0.5 < found["report_mib"] < 5
