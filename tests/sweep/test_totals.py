"""Sums over windows: an unknown part makes them unknown, and what was mixed says so."""

import pytest

from sweep.totals import Totals, per_request


def row(window="train", energy_j=10.0, **columns):
    return {
        "window": window, "epoch": None, "repeat": None, "requests": None, "energy_j": energy_j, "energy_net_j": 4.0,
        "measured": True, "carbon_g": 1.0, "cost": None, "marks": [], "node": "a", "component": "gpu",
    } | columns  # fmt: skip


def test_what_lies_around_the_windows_is_counted_apart():
    totals = Totals.of([row(), row("evaluate", 5.0), row("other", 100.0)])
    assert (totals.energy_j, totals.other_j, totals.net_j, totals.carbon_g) == (15, 100, 8, 2)


def test_an_attempt_that_ended_before_its_first_window_has_joules_around_it_alone():
    totals = Totals.of([row("other", 7.0)])
    assert (totals.energy_j, totals.other_j, totals.kind) == (0, 7, "measured")


def test_an_unknown_part_makes_the_sum_unknown_and_nothing_is_known_of_nothing():
    totals = Totals.of([row(), row(energy_j=None, energy_net_j=None)])
    assert (totals.energy_j, totals.measured_j, totals.net_j) == (None, None, None)
    assert totals.other_j == 0
    assert Totals.of([]).columns() == {
        "energy_j": None, "energy_other_j": None, "energy_kind": None, "energy_measured_j": None,
        "energy_estimated_j": None, "energy_net_j": None, "carbon_g": None, "cost": None, "measured": None, "marks": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "kind", "parts"),
    [((True, True), "measured", (20, 0)), ((False, False), "estimated", (0, 20)), ((True, False), "mixed", (10, 10))],
)
def test_a_sum_says_what_it_is_a_sum_of(measured, kind, parts):
    totals = Totals.of([row(measured=flag) for flag in measured])
    assert (totals.kind, (totals.measured_j, totals.estimated_j)) == (kind, parts)
    assert totals.columns()["measured"] is (kind == "measured")


def test_marks_name_their_window_once():
    totals = Totals.of([row("decode", marks=["short"]), row("decode", marks=["short", "shared: 1 other processes"])])
    assert totals.marks == ("decode: short", "decode: shared: 1 other processes")


def windows(window, repeats, requests, joules, nodes=("a",), components=("cpu", "gpu")):
    return [
        row(window, joules, repeat=repeat, requests=requests, node=node, component=component)
        for repeat in range(1, repeats + 1)
        for node in nodes
        for component in components
    ]


def test_joules_per_request_are_over_all_repeats_nodes_and_components():
    energy = windows("prefill", 3, 10, 5.0, nodes=("a", "b")) + windows("decode", 3, 4, 8.0, nodes=("a", "b"))
    # Four rows a repeat: 20 J for 10 requests read, 32 J for 4 answered.
    assert per_request(energy) == pytest.approx(20 / 10 + 32 / 4)
    assert per_request(energy, "energy_net_j") == pytest.approx(16 / 10 + 16 / 4)
    assert per_request(energy + windows("decode", 1, 4, None)) is None
    assert per_request([row()]) is None
