"""The sections of the page, in the order in which people ask."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from analysis.load import Results
from analysis.metrics import METRICS, EnergyMetric
from analysis.printing import joules, number, share
from analysis.report.failed import attempts_table, finished_of, left_out_table, stages_by_state
from analysis.report.measured import machines, measured
from analysis.report.ranked import ranking_table
from analysis.report.section import Block, KeyFigure, Section
from analysis.report.words import TERMS
from analysis.sentence import change_of
from analysis.show import Answer
from analysis.status import Status


def ranking_section(answer: Answer) -> Section:
    """The ranking."""
    how = (
        f"R = {answer.weight:g} phi + {1 - answer.weight:g} rho, with phi {answer.phi} and fine-tuning spread over "
        f"{answer.requests:,} requests. Best first; the best are marked."
    )
    return Section(
        "ranking", "Ranking", paragraphs=[how], tables=[ranking_table(answer.everything(), _measure(answer))]
    )


def measured_section(results: Results) -> Section:
    """Where the figures come from."""
    about = (
        "Every joule says where it comes from. Only windows that are part of a finished stage's result are listed; "
        "what could not be read is unknown, and never 0."
    )
    tables = list(measured(results))
    nothing = "No stage has finished yet, so nothing is known of what was measured."
    return Section("measured", "What was measured, and how", [about if tables else nothing], tables=tables)


def machines_section(results: Results, status: Status) -> Section:
    """What computed."""
    points = [] if status.versions is None else [f"Versions differ between stages: {status.versions}."]
    return Section("machines", "Machines and versions", points=points, tables=list(machines(results, status.nodes)))


def failed_section(results: Results, status: Status, answer: Answer | None) -> Section:
    """What has no result, and what that cost."""
    tables = [
        stages_by_state(status),
        *([] if answer is None else filter(None, [left_out_table(answer.left_out)])),
        *filter(None, [attempts_table(results)]),
    ]
    return Section("failed", "What failed, and what was left out", points=list(_losses(status)), tables=tables)


def _losses(status: Status) -> Iterator[str]:
    if status.lost_attempts:
        part = "" if status.lost_share is None else f", {share(status.lost_share)} of all stages' joules"
        yield f"Lost: {number(status.lost_energy_j)} J in {status.lost_attempts:,} attempts without a result{part}."
    if status.unknown_energy_attempts:
        yield f"Of {status.unknown_energy_attempts:,} attempts the joules are not known; no sum holds them."
    if not (status.failed or status.lost_attempts):
        yield "Nothing failed."


def problems_section(problems: list[str]) -> Section:
    """Files that could not be read."""
    if not problems:
        return Section("problems", "Problems of files", ["All files of the results could be read."])
    return Section("problems", "Problems of files", ["These were skipped; all else is unharmed."], points=problems)


def terms_section() -> Section:
    """How R is computed."""
    return Section("formula", "How R is computed", terms=TERMS)


def reproduce_section(command: str | None, folders: Mapping[str, Path]) -> Section:
    """How to get here again."""
    asked = {sweep: folder / "sweep.yaml" for sweep, folder in folders.items()}
    blocks = [
        *([] if command is None else [Block("The command that made this page", command)]),
        *(
            Block(f"The sweep file of {sweep}", file.read_text(encoding="utf-8", errors="replace"))
            for sweep, file in asked.items()
            if file.is_file()
        ),
    ]
    return Section("reproduce", "How to reproduce this", [_REPRODUCE], code=blocks)


_REPRODUCE: Final = (
    "With its sweep file, energyaware run measures all of a sweep anew; over the same results folder it measures only "
    "what is missing."
)


def key_figures(answer: Answer | None, status: Status) -> Iterator[KeyFigure]:
    """What stands out of the whole."""
    if answer is not None and answer.rows.height:
        yield from _of_best(answer)
    done, asked = finished_of(status)
    yield KeyFigure("Stages", f"{done:,}", f"of {asked:,} finished")
    lost = f"{joules(status.lost_energy_j)} lost" if status.lost_attempts else "nothing lost"
    yield KeyFigure("Energy of the sweep", joules(status.useful_energy_j), lost)


def _of_best(answer: Answer) -> Iterator[KeyFigure]:
    rows = answer.everything()
    best, measure = rows.row(0, named=True), _measure(answer)
    baseline = rows.filter(pl.col("configuration") == answer.baseline).row(0, named=True)
    same = best["configuration"] == baseline["configuration"]
    against = "it is the baseline itself" if same else f"against {baseline['label']}"
    ratio, points = best["ranked_by"] / baseline["ranked_by"], 100 * (best["rho"] - baseline["rho"])
    change = "no change" if same else change_of(ratio)
    yield KeyFigure(
        measure.words.capitalize(), f"{number(best['ranked_by'])} {measure.unit}".rstrip(), best["energy_kind"]
    )
    yield KeyFigure(f"Change of {measure.words}", change, against)
    yield KeyFigure("Quality", f"{best['rho']:.3f}", against if same else f"{points:+.1f} points {against}")
    likely = best["best_probability"]
    beside = "not known: see How sure" if likely is None else None  # the reasons are long, and stand there
    yield KeyFigure("Probability of being the best", "?" if likely is None else share(likely), beside)
    yield KeyFigure("Configurations", f"{rows.height:,}", f"ranked; {answer.left_out.height:,} stages left out")


def _measure(answer: Answer) -> EnergyMetric:
    """What the ranking is by; costs are ranked in one currency only."""
    measure = METRICS[answer.metric]
    currencies = answer.rows["currency"].drop_nulls().to_list()
    return measure if measure.unit or not currencies else measure._replace(unit=currencies[0])
