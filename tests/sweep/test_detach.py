"""What a detached run is refused for, before the shell has its prompt back."""

import io

import pytest
from rich.console import Console

from energyaware.errors import InputError
from energyaware.files import open_files
from energyaware.lease import Lease, this_process
from sweep.detach import Ended, detach

SWEEP = "precisions: [fp32]\nprunings: [none]\n"
NOBODY = "127.0.0.1:1"


@pytest.fixture
def sweep_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(SWEEP)
    return file


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=40)


@pytest.mark.parametrize("address", ["local", NOBODY])
def test_a_bad_sweep_file_is_refused_and_leaves_nothing(tmp_path, sweep_file, console, address):
    sweep_file.write_text("precisions: [fp99]\n")
    with pytest.raises(InputError, match=r"mine.yaml: precisions\[0\]: 'fp99' is no precision"):
        detach(sweep_file, str(tmp_path / "results"), address, [], console)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("again", [True, False])
def test_results_that_another_run_holds_are_refused_and_stay_as_they_are(tmp_path, sweep_file, console, again):
    results = tmp_path / "results"
    with Lease.take(open_files(results), this_process()):
        before = sorted(results.rglob("*"))
        with pytest.raises(InputError, match=f"is being written by .*process {this_process()['pid']}, since"):
            detach(sweep_file if again else None, str(results), "local", [], console)
        assert sorted(results.rglob("*")) == before


def test_what_a_run_itself_refuses_is_told_in_its_one_line_and_with_its_exit_code(
    tmp_path, sweep_file, console, capsys
):
    sweep_file.write_text(SWEEP + "resources: {cpus_per_worker: 5000}\n")
    log = tmp_path / "results" / "run.log"
    log.parent.mkdir()
    log.write_text("error: an earlier run's\n")
    assert detach(sweep_file, str(log.parent), "local", [], console) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {sweep_file}: resources: needs 1 worker with 5000 CPUs")
    assert told.count("\n") == 1
    assert log.read_text().startswith("error: an earlier run's\n")
    assert log.read_text().endswith(told)
    assert not (log.parent / "detached.json").exists()


def test_options_reach_the_run(tmp_path, sweep_file, console, capsys):
    assert detach(sweep_file, str(tmp_path / "results"), "local", ["--no-such-option"], console) == 2
    assert capsys.readouterr().err.startswith("error: No such option: --no-such-option")


def test_results_without_a_sweep_file_cannot_be_gone_on_with(tmp_path, console, capsys):
    assert detach(None, str(tmp_path / "results"), "local", [], console) == 2
    assert "holds no sweep.yaml" in capsys.readouterr().err


def test_where_no_cluster_answers_nothing_is_written(tmp_path, sweep_file, console):
    with pytest.raises(InputError, match=f"^--address: {NOBODY}: nobody answers"):
        detach(sweep_file, str(tmp_path / "results"), NOBODY, [], console)
    assert not (tmp_path / "results").exists()


def test_what_was_not_refused_is_told_in_full():
    assert Ended(1, "Traceback\nValueError: no\n").told() == "Traceback\nValueError: no"
    assert Ended(2, "other versions: …\nerror: mine.yaml: no such file\n").told() == "error: mine.yaml: no such file"
    assert Ended(137, "").told() == ""
