import io
import json
import math
import warnings
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from analysis import answer
from analysis.ranking_table import as_table
from analysis.show import as_csv, as_json
from tests.analysis.builders import Lab

GOLDEN = Path(__file__).parent / "golden"
QUALITY = {"root_cause": {"accuracy": 0.9, "macro_f1": 0.8}, "response": {"bleu": 1 / 3}}
PRUNED = {"pruning": "magnitude-50%", "pruning_applied": "after", "realisation": "simulated"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "results")
    lab.finetune(energy_j=1234.5)
    lab.inference("a", precision="fp32", energy=4.0, quality=QUALITY)
    lab.inference("b", precision="bf16", energy=1.7, quality=QUALITY)
    lab.inference("c", precision="bf16", energy=1.6, quality=QUALITY, carbon_g_per_kwh=None, **PRUNED)
    lab.inference("d", precision="nf4", energy=math.nan, quality=QUALITY)
    lab.inference("e", precision="int8", run=False)
    lab.infeasible("e", "int8 needs [bold]a GPU")
    return lab


def printed(lab: Lab, width: int = 100, *, weights: bool = False, break_even: bool = False, **options) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(as_table(answer(lab.results(), **options), weights=weights, break_even=break_even))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def ranked_lines(text: str) -> list[str]:
    """The rows of the ranking as they are printed."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if "──" in line) + 1
    return lines[start : lines.index("", start)]


@pytest.fixture
def grid(tmp_path: Path) -> Lab:
    """Three precisions, dense and pruned in two ways, and a base model, under three seeds; synthetic figures."""
    lab = Lab(tmp_path / "grid")
    prunings = [("none", None, "none", 1.0, 0.0), ("wanda-2:4", "after", "simulated", 1.0, 0.03)]
    prunings += [("neurons-50%", "before", "physical", 0.6, 0.09)]

    def serve(stage_id: str, energy: float, accuracy: float, **more) -> None:
        drawn = sum(map(ord, stage_id)) % 5 - 2
        quality = {"root_cause": {"accuracy": round(accuracy + 0.015 * drawn, 3)}}
        lab.inference(stage_id, energy=energy * (1 + 0.01 * drawn), quality=quality, **more)

    for seed in range(3):
        base = {"precision": "bf16", "finetune_method": "none", "needs": None}
        serve(f"base-{seed}", 2.2, 0.6, seed=seed, **base)
        for precision, request_j, accuracy in [("fp32", 4.0, 0.91), ("bf16", 2.2, 0.905), ("nf4", 1.1, 0.83)]:
            trained = {"precision": precision, "finetune_precision": precision, "seed": seed}
            tuned = lab.finetune(f"{precision}-{seed}", energy_j=3000 * request_j * (1 + 0.02 * seed), **trained)
            for pruning, applied, realisation, share, lost in prunings:
                pruned = {"pruning": pruning, "pruning_applied": applied, "realisation": realisation}
                name = f"{precision}-{pruning[:4]}-{seed}"
                serve(name, request_j * share, accuracy - lost, needs=tuned, **pruned, **trained)
    lab.inference("fp8", precision="fp8", finetune_precision="fp8", needs=None, run=False)
    lab.infeasible("fp8", "fp8 needs a GPU")
    return lab


@pytest.mark.parametrize("width", [80, 140])
def test_the_whole_answer_as_people_read_it(grid, width):
    text = printed(grid, width, weights=True, break_even=True)
    assert text == (GOLDEN / f"rank-{width}.txt").read_text()


def test_the_whole_answer_as_programs_read_it(lab):
    content = json.loads(as_json(answer(lab.results())))
    assert rounded(content) == rounded(json.loads((GOLDEN / "rank.json").read_text()))


def rounded(value):
    """Floats to nine digits: the last ones depend on the processor."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def test_json_has_the_agreed_keys(lab):
    content = json.loads(as_json(answer(lab.results(), weight=0.7, requests=500, phi="ratio")))
    assert (content["weight"], content["requests"], content["phi"]) == (0.7, 500, "ratio")
    agreed = ["rank", "score", "phi", "rho", "model", "precision", "pruning", "realisation", "energy_j_per_request"]
    agreed += ["finetune_energy_j", "carbon_g_per_request", "measured", "seeds", "stage_ids"]
    also = ["applied", "phi_minmax", "phi_ratio", "energy_from", "own_energy_j_per_request", "quality"]
    assert len(content["rows"]) == 3
    for row in content["rows"]:
        assert set(agreed + also) <= set(row)
        assert row["quality"] == {
            "root_cause.accuracy": 0.9,
            "root_cause.macro_f1": 0.8,
            "response.bleu": pytest.approx(1 / 3),
        }
    left = {row["precision"]: (row["pruning"], row["state"], row["reason"]) for row in content["left_out"]}
    assert left == {
        "nf4": ("none", "incomplete", "energy per request is NaN J"),
        "int8": ("none", "infeasible", "int8 needs [bold]a GPU"),
    }


def test_json_is_strict(lab):
    lab.inference("nan", precision="x", energy=1.0, carbon_g_per_kwh=math.nan)

    def refuse(name):
        raise AssertionError(name)

    content = json.loads(as_json(answer(lab.results())), parse_constant=refuse)
    assert content["rows"]


def test_csv_reads_back_as_the_same_numbers(lab):
    shown = answer(lab.results())
    back = pl.read_csv(io.StringIO(as_csv(shown)))
    numbers = [
        "rank",
        "score",
        "phi",
        "rho",
        "energy_j_per_request",
        "carbon_g_per_request",
        "own_energy_j_per_request",
    ]
    assert back.select(numbers).equals(shown.rows.select(numbers))
    assert back.select("precision", "pruning", "measured").equals(shown.rows.select("precision", "pruning", "measured"))
    assert back["stage_ids"].to_list() == [" ".join(ids) for ids in shown.rows["stage_ids"]]
    assert back["root_cause.accuracy"].to_list() == [0.9] * 3
    assert back["response.bleu"].to_list() == [1 / 3] * 3


def test_a_list_that_is_empty_everywhere_is_empty_in_csv(lab):
    assert "[]" not in as_csv(answer(lab.results()))


def test_nothing_to_rank_is_said_without_a_warning(tmp_path):
    lab = Lab(tmp_path)
    lab.inference("a", run=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert json.loads(as_json(answer(lab.results())))["break_even"] == []


def test_csv_of_an_empty_ranking_is_its_heading(tmp_path):
    lab = Lab(tmp_path)
    lab.inference("a", run=False)
    assert as_csv(answer(lab.results())).startswith("rank,score,phi,rho,")
    assert as_csv(answer(lab.results())).count("\n") == 1


def test_the_sentence_stands_first_then_the_table_then_notes_then_who_is_left_out(lab):
    text = printed(lab)
    first, table = (
        text.index("bf16 + magnitude-50% and bf16 share the first place of 3"),
        text.index("R = 0.5 phi + 0.5 rho"),
    )
    assert first == 0 < table < text.index("* simulated pruning") < text.index("left out: 2")
    assert "int8 needs [bold]a GPU" in text


def test_a_row_left_out_says_in_which_precision_it_was_tuned_where_that_is_another(tmp_path):
    lab = Lab(tmp_path)
    lab.inference("a", needs=None, energy=None, precision="nf4", finetune_precision="bf16")
    lab.inference("b", needs=None, energy=None, precision="int8", finetune_precision="int8")
    text = printed(lab)
    assert "bf16→nf4" in text
    assert "int8→int8" not in text


def test_that_all_energy_is_estimated_is_said(tmp_path):
    lab = Lab(tmp_path)
    lab.inference("a", needs=None, measured=False)
    text = printed(lab)
    assert "over 10000 requests, joules estimated" in text
    assert "all energy is estimated" in text
    lab.energy("a", {"component": "cpu", "measured": False}, {"component": "gpu"})
    assert "all energy is estimated" not in printed(lab)
    assert "energy is estimated in part in every row" in printed(lab)


def test_configurations_that_lack_seeds_which_others_have_are_counted(tmp_path):
    lab = Lab(tmp_path)
    lab.finetune()
    for seed, precisions in {0: ["fp32", "bf16", "nf4"], 1: ["fp32", "bf16"], 2: ["fp32"]}.items():
        for precision in precisions:
            lab.inference(f"{precision}-{seed}", seed=seed, precision=precision)
    said = "seeds: 2 of 3 configurations lack some of the seeds 0, 1, 2"
    lab.inference("nf4-2", seed=2, precision="nf4", run=False)
    assert said in answer(lab.results()).notes
    lab.attempt("nf4-2", "failed")
    why = "what was stopped or failed there might have been worse than what is left"
    assert f"{said}; {why}" in answer(lab.results()).notes


def test_quality_of_other_tasks_and_on_other_data_is_compared_with_a_warning(tmp_path):
    lab = Lab(tmp_path)
    for precision, task, data in [("bf16", "root_cause", "tickets"), ("nf4", "response", "other")]:
        settings = json.dumps({"data": {"name": data, "revision": "1"}, "precision": precision})
        more = {"needs": None, "precision": precision, "settings": settings}
        lab.inference(precision, quality={task: {"accuracy": 0.8}}, **more)
    notes = answer(lab.results()).notes
    assert "mixed: quality is that of different tasks, ranked against each other: response, root_cause" in notes
    assert "mixed: quality is that of different data, ranked against each other: other@1, tickets@1" in notes


def test_nothing_is_said_of_seeds_where_all_have_the_same(lab):
    assert not [note for note in answer(lab.results()).notes if note.startswith("seeds")]


def test_the_table_says_per_row_whether_energy_is_measured_and_marks_what_to_be_careful_about(lab):
    lab.inference("x", precision="x", needs=None, quality=QUALITY, energy=2.5, measured=False, marks=["decode: short"])
    found = answer(lab.results(), allow_mixed=True)
    text = printed(lab, allow_mixed=True)
    rows = [line for line in text.splitlines() if line.startswith(" ") and line.split()[:1] in (["1"], ["3"], ["4"])]
    cells = {next(word for word in ("→x", "fp32", "bf16") if word in line).strip("→"): line for line in rows}
    assert "2.5 !" in cells["x"]
    assert "estimated" in cells["x"]
    assert "measured" in cells["fp32"]
    assert "!" not in cells["fp32"]
    assert "mixed: energy is measured in 3 configurations, estimated in 1; ranked against each other" in text
    assert "! marked: 1 configuration has short windows (decode)" in text
    rows = {row["precision"]: row for row in json.loads(as_json(found))["rows"]}
    assert (rows["x"]["energy_kind"], rows["x"]["marks"], rows["x"]["mixed"]) == ("estimated", ["decode: short"], True)
    back = pl.read_csv(io.StringIO(as_csv(found)))
    assert back.filter(precision="x").select("energy_kind", "marks").row(0) == ("estimated", "decode: short")


def test_cost_per_request_is_shown_where_it_is_known(lab):
    assert "cost" not in printed(lab)
    lab.inference(
        "x", precision="x", needs=None, quality=QUALITY, energy=3.6, price_per_kwh=0.25, pue=1.2, currency="EUR"
    )
    text = printed(lab)
    assert "EUR" in text
    assert "3e-07" in text
    row = next(row for row in json.loads(as_json(answer(lab.results())))["rows"] if row["precision"] == "x")
    assert (row["cost_per_request"], row["currency"]) == (pytest.approx(3e-7), "EUR")
    dollars = {"price_per_kwh": 0.25, "pue": 1.0, "currency": "USD"}
    lab.inference("y", precision="y", needs=None, quality=QUALITY, energy=3.6, **dollars)
    assert "cost: in several currencies" in printed(lab)
    assert "EUR, USD" in printed(lab)


def test_net_joules_are_called_so(lab):
    lab.inference("x", precision="x", needs=None, quality=QUALITY, energy=3.0, energy_net_j_per_request=1.5)
    text = printed(lab, energy="net")
    assert "net: joules, carbon and cost are those beyond" in text
    assert "over 10000 requests, net of idle" in text
    content = json.loads(as_json(answer(lab.results(), energy="net")))
    assert content["energy"] == "net"
    assert [row["energy_j_per_request"] for row in content["rows"]] == [1.5]


def test_the_table_fits_100_columns_and_cuts_nothing(lab):
    lab.inference("m", precision="bf16", model="another-model-with-a-long-name", energy=2.5)
    text = printed(lab)
    assert max(map(len, text.splitlines())) <= 100
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for part in ("J/request", "g CO2e", "J tuning", "1.82 *", "joules measured", "fp32", "1,234"):
        assert part in text


def test_a_large_grid_fits_80_columns_with_its_numbers_whole_and_what_is_left_out_by_reason(tmp_path):
    lab = Lab(tmp_path)
    for number in range(20):
        pruning = {"pruning": f"sparsegpt-{number}%", "pruning_applied": "before", "realisation": "simulated"}
        served = {"precision": "nf4-dq", "finetune_precision": "bf16", "needs": None}
        lab.inference(f"r{number}", energy=1000.0 + number, **served, **pruning)
        lab.inference(f"i{number}", run=False, **served | {"precision": "fp8"}, **pruning)
        lab.infeasible(f"i{number}", "fp8 needs a GPU")
    text = printed(lab, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert [line.split()[0] for line in ranked_lines(text) if "nf4-dq" in line] == [str(n) for n in range(1, 21)]
    assert "1,019" in text
    assert "left out: 20" in text
    assert [line.split() for line in text.splitlines() if "bf16→fp8" in line] == [
        ["bf16→fp8", "20", "of", "them", "infeasible", "fp8", "needs", "a", "GPU"]
    ]


def test_skipped_files_are_named_with_the_answer(lab):
    (lab.folder / "quality" / "x.parquet").write_bytes(b"")
    assert "quality/x.parquet: empty (0 bytes); skipped" in answer(lab.results()).notes
    assert "quality/x.parquet" in printed(lab)


def test_names_are_shown_and_not_obeyed(lab):
    lab.inference("h", precision="[blink]\x1b[2J\n", needs=None)
    assert "[blink]\N{REPLACEMENT CHARACTER}[2J" in printed(lab)
    assert "\x1b[2J" not in printed(lab)


def test_equal_scores_share_a_marked_rank(tmp_path):
    lab = Lab(tmp_path)
    # phi = 1, 0.5, 0 and rho = 0.1, 0.6, 0.2: R = 0.55, 0.55, 0.1
    for precision, energy, accuracy in [("nf4", 1.0, 0.1), ("bf16", 2.0, 0.6), ("fp32", 3.0, 0.2)]:
        lab.inference(precision, precision=precision, needs=None, energy=energy, quality={"t": {"x": accuracy}})
    text = printed(lab)
    assert [line.split()[0] for line in ranked_lines(text)] == ["1=", "1=", "3"]
    assert "= equal scores share a rank" in text
    assert "nf4 comes before bf16; with ratio it does not" in " ".join(text.split())


def test_who_cannot_be_told_apart_from_the_best_is_marked(tmp_path):
    lab = Lab(tmp_path)
    for seed, (one, two) in enumerate([(0.80, 0.82), (0.84, 0.80), (0.82, 0.83)]):
        for precision, accuracy, energy in [("nf4", one, 1.0), ("int8", two, 1.0), ("fp32", 0.5, 4.0)]:
            common = {"precision": precision, "needs": None, "seed": seed}
            lab.inference(f"{precision}{seed}", energy=energy + 0.01 * seed, quality={"t": {"x": accuracy}}, **common)
    text = printed(lab)
    assert [line.split()[0] for line in ranked_lines(text)] == ["1~", "2~", "3"]
    assert "~ cannot be told apart from the best one" in text


def test_what_it_was_ranked_by_is_what_the_table_shows(lab):
    assert "J/correct" in printed(lab, metric="correct")
    assert json.loads(as_json(answer(lab.results(), metric="correct")))["metric"] == "correct"


def test_what_is_not_known_to_vary_has_no_interval_and_the_notes_say_why(lab):
    text = " ".join(printed(lab).split())
    assert "95 %" not in text
    assert "how sure that is, what was measured cannot tell" in text
    assert "intervals, in 2 of 3 configurations: its energy was measured once, under one seed" in text
    assert text.count("scores and ranks have no interval: 3 of 3 configurations have none of quality") == 1


def test_break_even_is_given_for_the_first_rows_the_baseline_and_who_was_not_fine_tuned(tmp_path):
    lab = Lab(tmp_path)
    for number in range(40):
        tuned = lab.finetune(f"ft{number}", energy_j=1000.0 + number)
        lab.inference(f"r{number}", precision=f"p{number}", needs=tuned, energy=1.0, quality={"t": {"x": 0.9}})
    lab.inference("base", precision="bf16", needs=None, energy=9.0, quality={"t": {"x": 0.2}})
    found = answer(lab.results())
    assert found.break_even.height == 31 * 30 / 2
    last = found.break_even.filter(second=found.rows["configuration"][-1])
    assert last["requests"].to_list() == pytest.approx([(1000 + number) / 8 for number in range(30)])


def test_of_a_large_grid_only_changes_among_the_first_places_are_listed(tmp_path):
    lab = Lab(tmp_path)
    for number in range(60):
        quality = {"t": {"x": round(0.5 + 0.008 * (number * 7 % 60), 3)}}
        lab.inference(f"r{number}", precision=f"p{number}", needs=None, energy=1.0 + number * 11 % 60, quality=quality)
    found = answer(lab.results())
    assert found.rows.height == 60
    assert found.weights.crossings["rank"].max() <= 10
    assert len(printed(lab, weights=True, break_even=True).splitlines()) < 60 + 60
