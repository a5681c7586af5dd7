"""Storage that is away, full or failing: survived, or a clear end, with nothing torn."""

import os
import subprocess
import sys
import threading
import time

import pytest

from energyaware.errors import StorageError
from energyaware.files import INCOMING, open_files
from energyaware.files_local import RESERVED_S, LocalFiles, link_new, reserve_new
from energyaware.patience import Patience, without_credentials

pytest_plugins = "tests.s3"

BRIEF = Patience(away_s=0.5, full_s=0.5)


@pytest.fixture
def through(bucket, proxy, monkeypatch):
    """Files on S3, by way of the proxy."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    return open_files(f"{bucket}/results")


def each_once(files, folder):
    """Everything that is done with files, each on a new name."""
    files.write("a", b"1")
    assert files.create("b", b"2")
    assert (files.read("a"), files.names("")) == (b"1", ["a", "b"])
    (folder / "c").write_bytes(b"3" * 1000)
    files.put(folder, "d")
    files.get("d", folder / "got")
    assert (folder / "got" / "c").read_bytes() == b"3" * 1000
    files.remove("a")
    files.remove_folder("d")
    assert files.names("") == ["b"]


def test_errors_of_the_server_are_survived(through, proxy, tmp_path):
    proxy.errors = 7
    each_once(through, tmp_path)
    assert proxy.errors == 0


@pytest.mark.parametrize("every", [2, 3])
def test_lost_connections_are_survived_whatever_they_hit(through, proxy, tmp_path, every):
    proxy.drop_every = every
    each_once(through, tmp_path)
    assert proxy.seen > 2 * every


def test_an_outage_of_half_a_minute_is_waited_for(through, proxy):
    with proxy.outage(30.0):
        assert through.create("a", b"x")
        assert not proxy.away.is_set()
    assert through.read("a") == b"x"


@pytest.mark.parametrize("answers", [1, 4])
def test_a_create_whose_answer_was_lost_knows_its_own(through, proxy, answers):
    proxy.lost_answers = answers
    assert through.create("row", b"mine")
    assert proxy.lost_answers == 0
    assert through.read("row") == b"mine"


def test_a_create_whose_answer_was_lost_knows_anothers(through, proxy):
    through.write("row", b"theirs")
    proxy.lost_answers = 1
    assert not through.create("row", b"mine")
    assert through.read("row") == b"theirs"


@pytest.mark.parametrize("do", ["names", "read", "write", "create", "remove", "version"])
def test_what_stays_away_is_an_error_in_one_line_that_names_the_file_and_no_secret(through, proxy, do, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url.replace("//", "//user:very-secret@"))
    files = through.with_patience(BRIEF)
    proxy.away.set()
    with pytest.raises(StorageError) as away:
        getattr(files, do)("stages/row", *([b"x"] if do in {"write", "create"} else []))
    said = str(away.value)
    assert said.startswith(f"{through.url}/stages/row: cannot be ")
    assert ", for 0.5 s: " in said
    assert said.endswith("; run the same command again when the storage is back")
    assert "\n" not in said
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said


def test_what_waiting_does_not_cure_is_said_at_once(bucket):
    began_s = time.monotonic()
    with pytest.raises(StorageError, match=r"no-such-bucket/results/a: cannot be written: .*bucket does not exist"):
        open_files("s3://no-such-bucket/results").write("a", b"x")
    assert time.monotonic() - began_s < 60, "patience is 120 s"


def test_errors_tell_no_passwords():
    said = without_credentials("cannot connect to http://me:hu/sh@host/x and s3://bucket/a@b and https://k@host")
    assert said == "cannot connect to http://me:hu/sh@host/x and s3://bucket/a@b and https://host"


# -- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def left_behind(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_a_full_disk_is_a_clear_end_with_nothing_torn(small_disk, tmp_path):
    files = LocalFiles(small_disk, BRIEF)
    files.write("row", b"old")
    for act in (files.write, files.create):
        with pytest.raises(StorageError) as full:
            act("row" if act == files.write else "new", bytes(300_000))
        name = "row" if act == files.write else "new"
        assert str(full.value) == (
            f"{small_disk}/{name}: cannot be written: No space left on device; "
            "free space and run the same command again"
        )
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "weights").write_bytes(bytes(300_000))
    with pytest.raises(StorageError, match="artifacts/abc/weights: cannot be written: No space left on device"):
        files.put(tmp_path / "here", "artifacts/abc")
    assert left_behind(small_disk) == ["row"]
    assert files.read("row") == b"old"


def test_a_disk_that_is_emptied_in_time_is_waited_for(small_disk):
    files = LocalFiles(small_disk)
    (small_disk / "others").write_bytes(bytes(200_000))
    timer = threading.Timer(1.0, (small_disk / "others").unlink)
    timer.start()
    assert files.create("row", bytes(150_000))
    assert not (small_disk / "others").exists()
    assert left_behind(small_disk) == ["row"]
    timer.join()


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    files = LocalFiles(tmp_path / "file" / "results")
    for act in (files.write, files.create):
        with pytest.raises(StorageError, match="results/a/row: cannot be written: Not a directory"):
            act("a/row", b"x")
    assert files.names("a") == []
    inside = LocalFiles(tmp_path)
    for act in (inside.write, inside.create):
        with pytest.raises(StorageError, match="cannot be written: File exists"):
            act("file/row", b"x")


def test_another_launcher_may_sweep_the_hidden_folder_at_any_time(tmp_path):
    files = LocalFiles(tmp_path)
    stop = threading.Event()

    def sweep():
        while not stop.wait(0.01):
            files.remove_folder(INCOMING)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for number in range(30):
            assert files.create(f"row-{number}", b"x")
            files.write(f"row-{number}", b"y")
    finally:
        stop.set()
        sweeper.join()
    assert all(files.read(f"row-{number}") == b"y" for number in range(30))


def test_a_link_that_was_made_and_is_asked_for_again_was_made(tmp_path):
    staged, final = tmp_path / "staged", tmp_path / "final"
    staged.write_text("mine")
    assert link_new(staged, final)
    assert link_new(staged, final), "NFS repeats a request whose answer was lost"
    other = tmp_path / "other"
    other.write_text("theirs")
    assert not link_new(other, final)


RESERVING = """
import sys
from pathlib import Path
from energyaware.files_local import reserve_new
folder, writer = Path(sys.argv[1]), sys.argv[2]
won = []
for number in range(300):
    staged = folder / f"staged-{writer}-{number}"
    staged.write_text(writer)
    if reserve_new(staged, folder / f"row-{number}"):
        won.append(number)
print(*won)
"""


def test_where_there_are_no_links_one_wins_too(tmp_path):
    racers = [
        subprocess.Popen([sys.executable, "-c", RESERVING, tmp_path, writer], stdout=subprocess.PIPE, text=True)
        for writer in "ab"
    ]
    won = {writer: set(map(int, racer.communicate()[0].split())) for writer, racer in zip("ab", racers, strict=True)}
    assert won["a"] | won["b"] == set(range(300))
    assert not won["a"] & won["b"]
    for number in range(300):
        assert number in won[(tmp_path / f"row-{number}").read_text()]
    assert list(tmp_path.glob(".*")) == []


def test_a_reservation_that_was_left_behind_expires(tmp_path):
    staged, reservation = tmp_path / "staged", tmp_path / ".row.reserved"
    staged.write_text("x")
    reservation.touch()
    then = time.time() - RESERVED_S - 5
    os.utime(reservation, (then, then))
    assert reserve_new(staged, tmp_path / "row")
    assert [path.name for path in tmp_path.iterdir()] == ["row"]
