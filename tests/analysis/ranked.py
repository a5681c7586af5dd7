"""The ranking of a results folder, and what it leaves out."""

from analysis import left_out, ranking
from tests.analysis.builders import Lab


def accuracy(value: float | None) -> dict:
    return {"root_cause": {"accuracy": value}}


def ranked(lab: Lab, **options) -> list[dict]:
    return ranking(lab.results(), **options).collect().to_dicts()


def reasons(lab: Lab) -> dict[str, tuple[str, str]]:
    return {row["stage_id"]: (row["state"], row["reason"]) for row in left_out(lab.results()).collect().to_dicts()}
