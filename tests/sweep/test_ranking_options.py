"""The options of commands that rank."""

from inspect import signature

import pytest
from typer.main import get_command

from sweep import cli_figures, cli_report, cli_results
from sweep.options import app
from sweep.ranking_options import ranking_options

SHARED = [name for name in signature(ranking_options).parameters if name != "directories"]
COMMANDS = {"rank": cli_results, "figures": cli_figures, "report": cli_report}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_rank_take_the_same_options_side_by_side(command):
    options = [option.name for option in get_command(app).commands[command].params]
    first = options.index(SHARED[0])
    assert options[first : first + len(SHARED)] == SHARED
    assert "ranking" not in options


def test_what_the_command_line_leaves_open_is_as_the_sweep_files_say(tmp_path):
    (tmp_path / "sweep.yaml").write_text("ranking: {weight: 0.7, requests: 5, allow_mixed: true}\n")
    chosen = ranking_options([str(tmp_path)], requests=9, everything=True)
    assert (chosen["weight"], chosen["requests"], chosen["allow_mixed"], chosen["asked_only"]) == (0.7, 9, True, False)
    assert "phi" not in chosen


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"name: [x", "the file"),
        (b"- a", "the file"),
        (b"\xff\xfe", "the file"),
        (b"ranking: 5", "the file"),
        (b"name: 2026-02-30", "the file"),
        (b"ranking: {weight: 0.7, requests: 1e6}", "ranking.requests"),
    ],
)
def test_what_is_damaged_in_a_kept_sweep_file_is_named_and_the_defaults_count(tmp_path, capsys, text, fault):
    (tmp_path / "sweep.yaml").write_bytes(text)
    chosen = ranking_options([str(tmp_path)])
    assert "requests" not in chosen
    assert chosen.get("weight") == (0.7 if "weight" in str(text) else None)
    assert f"sweep.yaml: {fault} cannot be read; the ranking's defaults count" in capsys.readouterr().err
