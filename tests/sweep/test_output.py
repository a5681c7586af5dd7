"""What a command writes is there as a whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from energyaware.errors import InputError
from sweep.output import save

ROOT = Path(__file__).parents[2]

FULL = """
import resource, sys
from pathlib import Path
from energyaware.errors import InputError
from sweep.output import save
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save(bytes(5000), Path(sys.argv[1]), [])
except InputError as problem:
    print(problem)
"""


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "page.html"


def test_who_reads_a_file_meanwhile_reads_what_was_there_to_its_end(file):
    file.write_bytes(b"old" * 100_000)
    with file.open("rb") as reader:
        assert reader.read(3) == b"old"
        save(b"new", file, [])
        assert reader.read() == b"old" * 99_999
    assert file.read_bytes() == b"new"
    assert [*file.parent.iterdir()] == [file]


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_that_does_not_fit_leaves_what_was_there_before(file, before):
    if before:
        file.write_bytes(before)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, file], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"--output: {file}: cannot be written: File too large\n"
    assert {found.name: found.read_bytes() for found in file.parent.iterdir()} == (
        {file.name: before} if before else {}
    )


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(file, tmp_path):
    file.write_bytes(b"old")
    link = tmp_path / "latest.html"
    link.symlink_to(file)
    save(b"new", link, [])
    assert link.is_symlink()
    assert file.read_bytes() == b"new"


def test_who_may_read_a_file_stays_the_same(file):
    file.write_bytes(b"old")
    file.chmod(0o640)
    save(b"new", file, [])
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write whatever is protected")
def test_a_file_that_is_write_protected_stays(file):
    file.write_bytes(b"old")
    file.chmod(0o440)
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        save(b"new", file, [])
    assert file.read_bytes() == b"old"
    assert [*file.parent.iterdir()] == [file]


def test_a_device_is_written_directly():
    save(b"gone", Path("/dev/null"), [])
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("place", ["..", "nowhere/page.html"])
def test_where_nothing_can_be_written_is_said_in_one_line(file, place):
    with pytest.raises(
        InputError, match=r"^--output: .*: cannot be written: (Is a directory|No such file or directory)$"
    ):
        save(b"new", file.parent / place, [])
    assert [*file.parent.iterdir()] == []


def test_a_link_into_the_results_is_refused(file, tmp_path):
    (tmp_path / "linked").symlink_to(file.parent)
    with pytest.raises(InputError, match="lies in the results folder"):
        save(b"new", tmp_path / "linked" / "page.html", [tmp_path / "other", file.parent])
    assert [*file.parent.iterdir()] == []
