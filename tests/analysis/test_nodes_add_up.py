import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from analysis import status
from analysis.status import as_json, as_table
from tests.analysis.builders import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "results")
    lab.inference("a", needs=None)
    return lab


def printed(lab: Lab, *, colour: bool = False) -> str:
    console = Console(width=100, file=io.StringIO(), force_terminal=colour, color_system="standard" if colour else None)
    console.print(as_table(status(lab.results())))
    return console.file.getvalue()


def test_a_node_is_the_sum_of_its_runs_and_components(lab):
    lab.node("node-1", "cpu", 2000.0, 1000.0, 900.0, 100.0)
    lab.node("node-1", "gpu", 10_000.0, 9755.0, 0.0, 245.0, device="GPU-1")
    lab.node("node-1", "cpu", 345.0, 245.0, 100.0, 0.0, run="r2")
    lab.node("node-2", "cpu", 10.0, 4.0, 6.0, 0.0)
    first, second = status(lab.results()).nodes
    assert (first.energy_j, first.stages_j, first.idle_j, first.unattributed_j) == (12_345.0, 11_000.0, 1000.0, 345.0)
    assert (first.difference, first.adds_up, first.reason) == (0.0, True, None)
    assert (second.node, second.energy_j, second.adds_up) == ("node-2", 10.0, True)
    line = "node-1: 12,345 J = stages 11,000 + idle 1,000 + unattributed 345 (difference 0.00 %)"
    assert line in printed(lab)
    assert "\x1b[31m" not in printed(lab, colour=True)
    content = json.loads(as_json(status(lab.results())))
    assert [(row["run"], row["component"]) for row in content["nodes"][0]["rows"]] == [
        ("r1", "cpu"),
        ("r1", "gpu"),
        ("r2", "cpu"),
    ]


@pytest.mark.parametrize(("stages_j", "adds_up"), [(995.0, True), (1005.0, True), (994.0, False), (1006.0, False)])
def test_a_difference_of_more_than_half_a_percent_is_flagged(lab, stages_j, adds_up):
    lab.node("n1", "cpu", 1000.0, stages_j, 0.0, 0.0)
    (node,) = status(lab.results()).nodes
    assert node.adds_up is adds_up
    assert node.difference == pytest.approx(stages_j / 1000 - 1)
    assert ("\x1b[31mn1: 1,000 J" in printed(lab, colour=True)) is not adds_up


def test_components_that_miss_as_much_as_others_exceed_do_not_add_up(lab):
    lab.node("n1", "cpu", 1000.0, 900.0, 0.0, 0.0)
    lab.node("n1", "gpu", 1000.0, 1100.0, 0.0, 0.0, device="GPU-1")
    (node,) = status(lab.results()).nodes
    assert (node.difference, node.adds_up) == (0.0, False)
    assert node.reason == "cpu differs by -10 %; gpu GPU-1 differs by +10 %"


def test_small_differences_of_one_sign_are_judged_by_their_share_of_the_whole(lab):
    for run in range(4):
        lab.node("n1", "cpu", 1000.0, 1004.0, 0.0, 0.0, run=f"r{run}")
    (node,) = status(lab.results()).nodes
    assert (node.difference, node.adds_up) == (pytest.approx(0.004), True)


def test_a_sum_with_an_unknown_part_is_unknown_and_says_why(lab):
    lab.node("n1", "cpu", 1000.0, 400.0, 600.0, 0.0)
    lab.node("n1", "gpu", 50.0, None, 1.0, 0.0, device="GPU-1", reason="the counter went backwards (reset)")
    (node,) = status(lab.results()).nodes
    assert (node.energy_j, node.stages_j, node.idle_j, node.difference) == (1050.0, None, 601.0, None)
    assert (node.adds_up, node.reason) == (False, "gpu GPU-1: the counter went backwards (reset)")
    text = " ".join(printed(lab).split())
    assert "n1: 1,050 J = stages ? + idle 601 + unattributed 0 (difference unknown): gpu GPU-1: the counter" in text


def test_a_machine_that_drew_nothing_adds_up_only_to_nothing(lab):
    lab.node("n1", "gpu", 0.0, 0.0, 0.0, 0.0)
    lab.node("n2", "gpu", 0.0, 1.0, 0.0, 0.0)
    assert [(node.difference, node.adds_up) for node in status(lab.results()).nodes] == [(0.0, True), (None, False)]


def test_idle_and_unattributed_joules_are_shown_apart(lab):
    windows = [{"window": "idle"}, {"window": "unattributed"}, {"window": "idle", "component": "gpu", "energy_j": None}]
    lab.energy(None, *windows, attempt=None)
    now = status(lab.results())
    assert (now.idle_energy_j, now.unattributed_energy_j) == (1.0, 1.0)
    assert "unattributed: 1 J" in printed(lab)
