"""Readers of results on object storage see a local copy that is brought up to date, cheaply."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from energyaware.errors import InputError
from energyaware.files import open_files
from energyaware.files_mirror import mirror

pytest_plugins = "tests.s3"

ROOT = Path(__file__).parents[2]
FOLDERS, AT_TOP = ("stages", "attempts"), ("plan.parquet", "sweep.yaml")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ENERGYAWARE_CACHE", str(tmp_path))


@pytest.fixture
def files(bucket):
    return open_files(f"{bucket}/results")


def content(folder):
    names = open_files(folder).names("")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_copy_has_what_is_asked_for_and_nothing_else(files):
    assert content(mirror(files.url, FOLDERS, AT_TOP)) == {}
    for name in ("stages/finetune/a.parquet", "attempts/a-1.parquet", "plan.parquet", "other.txt", "artifacts/a/w"):
        files.write(name, name.encode())
    files.write("stages/.incoming/x", b"hidden")
    copy = mirror(files.url, FOLDERS, AT_TOP)
    wanted = ("attempts/a-1.parquet", "plan.parquet", "stages/finetune/a.parquet")
    assert content(copy) == {name: name.encode() for name in wanted}


def test_only_what_is_new_or_changed_is_fetched_and_what_is_gone_is_removed(files, proxy, monkeypatch):
    for number in range(20):
        files.write(f"stages/inference/{number}.parquet", b"one")
    copy = mirror(files.url, FOLDERS, AT_TOP)
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*.parquet")}
    files.write("stages/inference/3.parquet", b"two")
    files.write("stages/inference/new.parquet", b"new")
    files.remove("stages/inference/4.parquet")

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    assert mirror(files.url, FOLDERS, AT_TOP) == copy
    assert proxy.seen < 15, "two listings, two files at the top, and two that changed"
    changed = {path.name for path in copy.rglob("*.parquet") if times.get(path) != path.stat().st_mtime_ns}
    assert changed == {"3.parquet", "new.parquet"}
    assert (copy / "stages/inference/3.parquet").read_bytes() == b"two"
    assert not (copy / "stages/inference/4.parquet").exists()


def test_a_copy_that_was_cleaned_in_part_or_holds_what_nobody_knows_is_mended(files):
    files.write("stages/inference/a.parquet", b"a")
    copy = mirror(files.url, FOLDERS, AT_TOP)
    (copy / "stages/inference/a.parquet").unlink()
    (copy / "stages/inference/of-a-copy-that-was-killed.parquet").write_bytes(b"x")
    assert content(mirror(files.url, FOLDERS, AT_TOP)) == {"stages/inference/a.parquet": b"a"}


def test_copies_of_two_results_are_two(files):
    assert mirror(files.url, FOLDERS, AT_TOP) != mirror(f"{files.url}-2", FOLDERS, AT_TOP)


def test_a_storage_that_cannot_be_used_is_refused():
    with pytest.raises(InputError, match="gs:// cannot be used"):
        mirror("gs://bucket/results", FOLDERS, AT_TOP)


def test_a_mirror_loads_no_heavy_library(files):
    code = (
        "import sys; from energyaware.files_mirror import mirror; mirror(sys.argv[1], ['stages'], [])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, files.url], cwd=ROOT, env=os.environ, check=True, capture_output=True, text=True
    )
    loaded = set(ran.stdout.split())
    assert "s3fs" in loaded
    assert not {"ray", "torch", "pandas", "transformers", "deepspeed"} & loaded
