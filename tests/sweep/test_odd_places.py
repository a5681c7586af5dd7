"""Results folders whose names cannot be right."""

import errno
import os
from pathlib import Path

import pytest

from sweep.cli import main
from sweep.options import _may_be


@pytest.mark.parametrize(
    "command",
    [
        *["status {}", "rank {}", "figures {}", "report {} -o x.html", "statistics {}", "compact {}", "resume {}"],
        *["query {} SELECT", "plan s.yaml --results {}", "run s.yaml --results {}"],
    ],
)
@pytest.mark.parametrize(
    ("name", "why"),
    [("loop", "loop: Too many levels of symbolic links"), ("a" * 300, "a" * 100 + "…: File name too long")],
    ids=["a link to itself", "too long"],
)
def test_what_can_be_no_folder_is_one_line(tmp_path, monkeypatch, capsys, command, name, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "s.yaml").write_text("precisions: [bf16]")
    monkeypatch.setattr("sys.argv", ["energyaware", *command.format(name).split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (2, f"error: {why}\n")


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EACCES, errno.ENOENT])
def test_storage_that_is_away_may_come_back(monkeypatch, code):
    def away(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "stat", away)
    assert _may_be(["/shared/sweep"]) == ["/shared/sweep"]
