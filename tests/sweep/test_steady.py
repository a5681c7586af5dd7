"""What a run tells goes where it can, and ends no run where it cannot."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from sweep.options import console
from sweep.steady import Steady


def test_what_can_be_written_is():
    stream = io.StringIO()
    Console(file=Steady(stream)).print("[bold]told[/]")
    assert stream.getvalue() == "told\n"


def test_a_full_disk_is_no_reason_to_end():
    with Path("/dev/full").open("wb", buffering=0) as full:
        stream = io.TextIOWrapper(full, write_through=True)
        with pytest.raises(OSError, match="No space left"):
            stream.write("told")
        out = Console(file=Steady(stream))
        out.print("told")
        with Live("a picture", console=out):
            out.print("told beside it")


def test_a_run_has_such_a_console_on_stderr(capsys):
    console(steady=True).print("told")
    assert capsys.readouterr().err == "told\n"


def test_a_closed_stderr_is_no_reason_to_end(monkeypatch, capsys):
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stderr", None)
        console(steady=True).print("told to nobody")
    assert capsys.readouterr() == ("", "")


def test_an_answer_that_cannot_be_written_is_one_line(tmp_path):
    command = [sys.executable, "-m", "sweep", "query", "--help"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
