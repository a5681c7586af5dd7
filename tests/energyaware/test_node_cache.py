"""This machine's cache, filled by processes that are killed, come at once, or find no room."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from energyaware.errors import InputError
from energyaware.model_ref import folder_ref
from energyaware.models import folder_of, load_tokenizer
from energyaware.node_cache import cache_folder, kept, near, on_network
from energyaware.tasks.data import files_ref, load_splits
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

ROOT = Path(__file__).parents[2]
FILL = """
import sys, time
from pathlib import Path
from energyaware.node_cache import kept
def fill(folder):
    (folder / "half").touch()
    print("filling", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "whole").touch()
kept(Path(sys.argv[1]), fill)
print("there", (Path(sys.argv[1]) / "whole").exists())
"""
MOUNTS = [("/", "ext4"), ("/home", "nfs4"), ("/home/me/scratch", "xfs"), ("/mnt/bucket", "fuse.gcsfuse")]


def filling(folder, seconds):
    command = [sys.executable, "-c", FILL, str(folder), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_processes_that_come_at_once_fill_an_entry_once(tmp_path):
    both = [filling(tmp_path / "entry-1", 0.5) for _ in range(3)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert sum(lines.count("filling") for lines in said) == 1
    assert all(lines[-1] == "there True" for lines in said)


def test_what_a_killed_process_left_is_removed_by_the_next_and_other_entries_stay(tmp_path):
    (tmp_path / "entry-2").mkdir()
    (tmp_path / ".entry-2-abcdefgh").mkdir()
    with filling(tmp_path / "entry-1", 600) as killed:
        assert killed.stdout.readline() == "filling\n"
        killed.send_signal(signal.SIGKILL)
    assert not (tmp_path / "entry-1").exists()
    assert len(list(tmp_path.glob(".entry-1-*/half"))) == 1
    assert filling(tmp_path / "entry-1", 0).communicate(timeout=60)[0] == "filling\nthere True\n"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"entry-1", ".entry-1.lock", "entry-2", ".entry-2-abcdefgh"}


def test_an_entry_that_cannot_be_filled_is_not_there(tmp_path):
    def fill(folder):
        (folder / "part").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"No space left on device.*ENERGYAWARE_CACHE names another folder"):
        kept(tmp_path / "entry", fill)
    assert [path.name for path in tmp_path.iterdir()] == [".entry.lock"]


@pytest.mark.parametrize(
    ("path", "held_elsewhere"),
    [
        ("/var/data", False),
        ("/home/me/models", True),
        ("/home/me/scratch/models", False),
        ("/homes", False),
        ("/mnt/bucket/data.csv", True),
    ],
)
def test_the_innermost_mount_tells_whose_disk_it_is(path, held_elsewhere):
    assert on_network(Path(path), MOUNTS) is held_elsewhere


def test_of_two_mounts_on_one_folder_the_later_counts():
    assert on_network(Path("/data"), [("/data", "nfs"), ("/data", "tmpfs")]) is False


def test_files_of_this_machine_are_read_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("ENERGYAWARE_CACHE", str(tmp_path / "cache"))
    model = folder_ref(save_gpt2(tmp_path / "model"), "model")
    assert folder_of(model) == tmp_path / "model"
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder that the table of mounts of this machine says to be on another, and a cache that is not."""
    folder = tmp_path / "shared"
    folder.mkdir()
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "filesystems").write_text("nodev\tnfs4\n\text4\n")
    (tmp_path / "proc" / "self" / "mounts").write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {folder} nfs4 rw 0 0\n")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    monkeypatch.setenv("ENERGYAWARE_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_model_of_a_shared_folder_is_copied_once_and_read_from_the_copy(shared):
    model = folder_ref(save_gpt2(shared / "model"), "model")
    copy = folder_of(model)
    assert copy == cache_folder() / "models" / f"model-{model.revision}"
    inode = (copy / "model.safetensors").stat().st_ino
    assert load_tokenizer(model).eos_token == "<eos>"
    assert (folder_of(model) / "model.safetensors").stat().st_ino == inode
    assert folder_ref(copy, "model").revision == model.revision


def test_a_model_that_changed_since_the_plan_is_refused_and_no_copy_is_kept(shared):
    model = folder_ref(save_gpt2(shared / "model"), "model")
    save_gpt2(shared / "model", seed=1)
    with pytest.raises(InputError, match="the content has changed since the plan was made"):
        folder_of(model)
    assert not list((cache_folder() / "models").glob("[!.]*"))


def test_a_copy_serves_a_model_that_was_replaced_by_another_since(shared):
    model = folder_ref(save_gpt2(shared / "model"), "model")
    before = (folder_of(model) / "model.safetensors").read_bytes()
    save_gpt2(shared / "model", seed=1)
    assert (folder_of(model) / "model.safetensors").read_bytes() == before
    assert (folder_of(folder_ref(shared / "model", "model")) / "model.safetensors").read_bytes() != before


def test_data_of_a_shared_folder_are_copied_once_and_are_the_same_records(shared):
    ref = files_ref(save_tickets(shared / "tickets.jsonl"), columns=COLUMNS)
    first = load_splits(ref, ("root_cause",))
    assert (cache_folder() / "data" / ref.revision / "tickets.jsonl").exists()
    save_tickets(shared / "tickets.jsonl", seed=1)
    assert load_splits(ref, ("root_cause",)) == first
    other = files_ref(shared / "tickets.jsonl", columns=COLUMNS)
    assert load_splits(other, ("root_cause",)) != first


def test_files_of_one_name_in_two_folders_have_a_copy_each(shared):
    files = []
    for name in ("train", "test"):
        (shared / name).mkdir()
        (shared / name / "a.txt").write_text(name)
        files.append(shared / name / "a.txt")
    assert [copy.read_text() for copy in near(files, "data", "x", lambda _: None)] == ["train", "test"]


def test_what_would_fill_the_disk_is_read_where_it_lies(shared):
    with (shared / "model.safetensors").open("wb") as file:
        file.truncate(2**43)  # all of it a hole
    assert near([shared / "model.safetensors"], "models", "x", lambda _: None) == [shared / "model.safetensors"]
    assert not list(cache_folder().iterdir())


def test_no_copies_are_made_in_a_cache_that_is_shared_itself(shared, monkeypatch):
    monkeypatch.setenv("ENERGYAWARE_CACHE", str(shared / "home" / ".cache"))
    model = folder_ref(save_gpt2(shared / "model"), "model")
    assert folder_of(model) == shared / "model"
