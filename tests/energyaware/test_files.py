"""What holds wherever results lie: each test runs over a folder and over S3."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from energyaware.errors import InputError, StorageError
from energyaware.files import open_files, path_below
from energyaware.files_local import LocalFiles
from energyaware.files_object import ObjectFiles

pytest_plugins = "tests.s3"

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path):
    return str(tmp_path / "results") if request.param == "folder" else request.getfixturevalue("bucket") + "/results"


@pytest.fixture
def files(root):
    return open_files(root)


def test_it_opens_what_its_root_says(root, files):
    assert files.url == root
    assert isinstance(files, ObjectFiles if "://" in root else LocalFiles)
    assert files.local == (None if "://" in root else Path(root))


def test_a_file_reads_back_and_is_replaced(files):
    with pytest.raises(FileNotFoundError):
        files.read("a/b/c")
    files.write("a/b/c", b"one")
    assert files.read("a/b/c") == b"one"
    files.write("a/b/c", b"")
    assert files.read("a/b/c") == b""
    with pytest.raises(FileNotFoundError):
        files.read("a/b/c/d")


def test_names_are_sorted_and_from_the_root_and_leave_out_what_is_hidden(files):
    assert files.names("stages") == []
    for name in ("stages/b/2", "stages/b/1", "stages/a.b", "stages-of-others/x", "stages/.c/x", "stages/_c", "top"):
        files.write(name, b"x")
    assert files.names("stages") == ["stages/a.b", "stages/b/1", "stages/b/2"]
    assert files.names("stages/b") == ["stages/b/1", "stages/b/2"]
    assert files.names("stages/b/1") == []
    assert files.names("") == sorted([*files.names("stages"), "stages-of-others/x", "top"])


def test_a_file_is_created_once(files):
    assert files.create("row", b"first")
    assert not files.create("row", b"second")
    assert not files.create("row", b"first")
    assert files.read("row") == b"first"
    files.remove("row")
    assert files.create("row", b"third")


def test_of_threads_that_create_one_file_one_wins(files):
    def create(writer):
        return files.create("row", b"%d" % writer)

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(create, range(8)))
    assert sum(won) == 1
    assert files.read("row") == b"%d" % won.index(True)


def create_all(root, writer, barrier, names):
    files = open_files(root)
    files.names("")  # connected before the race begins
    barrier.wait(60)
    return [files.create(name, writer.encode()) for name in names]


def test_of_processes_that_create_one_file_one_wins(files):
    names, writers = [f"row-{number}" for number in range(20)], ["one", "two"]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, spawn.Pool(2) as pool:
        barrier = manager.Barrier(2)
        won = pool.starmap(create_all, [(files.url, writer, barrier, names) for writer in writers])
    for number, name in enumerate(names):
        winners = [writer for writer, mine in zip(writers, won, strict=True) if mine[number]]
        assert [files.read(name).decode()] == winners


def test_removing_removes_and_bears_repetition(files):
    for name in ("a/1", "a/b/2", "a/.hidden", "ab"):
        files.write(name, b"x")
    for _ in range(2):
        files.remove("a/1")
        assert files.names("a") == ["a/b/2"]
    for _ in range(2):
        files.remove_folder("a")
        assert files.names("") == ["ab"]
    with pytest.raises(FileNotFoundError):
        files.read("a/.hidden")


def test_a_folder_is_put_and_got_with_all_below_it(files, tmp_path):
    content = {"weights": bytes(300_000), "below/it": b"1", ".hidden": b"2", "empty": b""}
    for name, data in content.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(data)
    files.put(tmp_path / "here", "artifacts/abc")
    assert files.names("artifacts") == [f"artifacts/abc/{name}" for name in ("below/it", "empty", "weights")]
    files.get("artifacts/abc", tmp_path / "there")
    there = {p.relative_to(tmp_path / "there").as_posix(): p for p in (tmp_path / "there").rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in there.items()} == content
    files.get("artifacts/nothing", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_copy_that_was_pickled_goes_on(files):
    files.write("a", b"x")
    assert pickle.loads(pickle.dumps(files)).read("a") == b"x"


FORKING = """
import os, sys
from energyaware.files import open_files
files = open_files(sys.argv[1])
files.write("parent", b"x")
child = os.fork()
if not child:
    os._exit(0 if files.create("child", files.read("parent")) else 1)
_, status = os.waitpid(child, 0)
assert files.read("child") == b"x"
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_was_forked_goes_on(root):
    subprocess.run([sys.executable, "-c", FORKING, root], cwd=ROOT, check=True, timeout=60)


def test_a_name_that_leads_out_of_a_folder_is_refused(tmp_path):
    assert path_below(tmp_path, "a/b") == tmp_path / "a" / "b"
    for name in ("../a", "a/../../b", "/etc/passwd"):
        with pytest.raises(StorageError, match="is no name of a file of ours"):
            path_below(tmp_path, name)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("gs://bucket/results", "gs:// cannot be used: results need storage that can create a file once, s3://"),
        ("memory://results", "memory:// cannot be used"),
        ("s3://key:pass@bucket/results", "has a password in it; give it by AWS_PROFILE"),
        ("ftp://key:pass@host/results", "ftp:// cannot be used"),
        ("s3://", "names no bucket"),
    ],
)
def test_urls_that_cannot_be_used_are_refused_in_one_line_without_their_passwords(url, why):
    with pytest.raises(InputError) as refused:
        open_files(url)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "pass@" not in str(refused.value)
    assert "key" not in str(refused.value)


def test_a_file_url_is_a_folder(tmp_path):
    assert open_files(f"file://{tmp_path}").local == tmp_path


def test_without_s3fs_it_says_what_to_install():
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from energyaware.errors import InputError\nfrom energyaware.files import open_files\n"
        "try: open_files('s3://bucket/results')\nexcept InputError as e: print(e)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said == "s3://bucket/results: results: needs s3fs: pip install 'energyaware[s3]'\n"
