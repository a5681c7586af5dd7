"""Which process is killed where, and the page that tells what became of each: docs/interruptions.md."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from energyaware.points import POINTS
from tests.end_to_end.interruptions import Interruption

RANKS = ("rank 0", "rank 1")
ALL = ("driver", "stage actor", *RANKS, "meter")
RECORDING = ("driver", "stage actor")

FIFTH_STEP = ("step", 5)
"""One step after the second checkpoint."""

LOCAL = {
    ("lease-taken", 1): ("driver",),
    ("plan-written", 1): ("driver",),
    ("attempt-begun", 1): ("driver", "stage actor", "meter"),
    ("attempt-begun", 2): ALL,
    FIFTH_STEP: ALL,
    ("checkpoint-writing", 3): ALL,
    ("checkpoint-uncommitted", 2): ALL,
    ("checkpoint-committed", 3): ALL,
    ("checkpoint-pruning", 1): ALL,
    ("epochs-done", 1): ALL,
    ("artifact-writing", 1): ALL,
    ("artifact-unmoved", 1): ALL,
    ("artifact-moved", 1): ALL,
    ("measured", 1): ALL,
    ("energy-written", 1): RECORDING,
    ("energy-written", 2): RECORDING,
    ("attempt-written", 1): RECORDING,
    ("attempt-written", 2): RECORDING,
    ("row-unmoved", 1): RECORDING,
    ("row-unmoved", 2): RECORDING,
    ("row-moved", 1): RECORDING,
    ("row-moved", 2): RECORDING,
    ("checkpoints-removing", 1): RECORDING,
    ("ledger-writing", 4): ("driver", "meter"),
}
"""Victims by point and by how often it is reached first. A row is written once for the fine-tuning and once for the
inference. Ranks are idle while their stage is recorded, and no victims then."""

CLUSTER = {
    FIFTH_STEP: ("driver", "stage actor", "worker host", "head"),
    ("checkpoint-writing", 3): ("worker host", "head"),
    ("checkpoint-uncommitted", 2): ("worker host", "head"),
    ("artifact-writing", 1): ("worker host", "head"),
    ("measured", 1): ("worker host", "head"),
    ("attempt-written", 1): ("worker host", "head"),
}

COMPACTION = ("compact-unmoved", "compact-moved", "compact-removing")


def _each(table):
    return [(Interruption(point, victim, n),) for (point, n), victims in table.items() for victim in victims]


KILL_TWICE = [
    (Interruption("step", "driver", 5), Interruption("taken-over", "driver")),
    (Interruption("checkpoint-uncommitted", "driver", 2), Interruption("step", "driver", 5)),
]
"""One launch after the other; a launch goes on from where it was, and counts its own steps."""

ON_ONE_MACHINE = [*_each(LOCAL), *KILL_TWICE]
ON_A_CLUSTER = _each(CLUSTER)

REPRESENTATIVE = {
    "lease-taken: driver",
    "step #5: driver",
    "step #5: rank 1",
    "step #5: meter",
    "checkpoint-uncommitted #2: rank 0",
    "epochs-done: stage actor",
    "artifact-unmoved: driver",
    "attempt-written: stage actor",
    "row-moved #2: driver",
}
"""Of those on one machine, what continuous integration has the time for."""

REPRESENTATIVE_ON_A_CLUSTER = {"step #5: worker host"}


def name(case):
    """Such as `step #5: driver`."""
    return ", then ".join(map(str, case))


@dataclass
class Finding:
    """What became of a sweep that was interrupted.

    Attributes:
        case: its name.
        where: one machine, cluster of three hosts, compaction.
        victims: who was killed.
        points: where.
        launches: how often the command was given in all.
        wasted_steps: optimizer steps taken beyond those of an uninterrupted run.
        lost_j: joules of attempts, as `energyaware status` has them.
        uninterrupted_j: useful joules of an uninterrupted run.
        back_s: seconds from the last launch that trained to its first step; None where nothing was left to train.
        passed: whether all was as in an uninterrupted run.
    """

    case: str
    where: str
    points: list[str]
    victims: list[str]
    launches: int = 0
    wasted_steps: int | None = None
    lost_j: float | None = None
    uninterrupted_j: float | None = None
    back_s: float | None = None
    passed: bool = False


def write_page(path, findings, hardware):
    """The table of all cases that were run, as Markdown."""
    lines = [
        "# What becomes of a run that is killed",
        "",
        "Made by `make interruptions`; do not edit.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {hardware}. A tiny GPT-2, fp32, two workers, 12 steps of fine-tuning with a",
        "checkpoint every 2 steps, then an inference. The run is held at a point, one of its processes is killed with",
        "SIGKILL, and the same command is given until it is done. Compared with an uninterrupted run: the same stages,",
        "each with one row, the same losses (to 1e-6) and quality figures (bitwise), every attempt recorded, and no",
        "process left. Wasted steps are those taken more than once. Lost joules are those of attempts that are in no",
        "result, loading included, beside the useful ones of the uninterrupted run, of a simulated processor of 50 W;",
        "not known where the meter was killed before the attempt's first heartbeat.",
        "",
        f"{sum(finding.passed for finding in findings)} of {len(findings)} as in an uninterrupted run; "
        f"the whole table has {len(ON_ONE_MACHINE) + len(ON_A_CLUSTER) + len(COMPACTION)} cases.",
        "",
        "| where | at | killed | launches | wasted steps | lost J | of J | back at work after s | |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for finding in findings:
        cells = [
            finding.where,
            ", then ".join(finding.points),
            ", then ".join(finding.victims),
            finding.launches,
            "" if finding.wasted_steps is None else finding.wasted_steps,
            _number(finding.lost_j, unknown="not known" if finding.passed else ""),
            *(_number(value) for value in (finding.uninterrupted_j, finding.back_s)),
            "same" if finding.passed else "**differs**",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| point | what has just happened there |", "|---|---|"]
    used = {point.partition(" ")[0] for finding in findings for point in finding.points}
    lines += [f"| {point} | {what} |" for point, what in POINTS.items() if point in used]
    Path(path).write_text("\n".join(lines) + "\n")


def _number(value, unknown=""):
    return unknown if value is None else f"{value:.1f}"


def write_json(path, findings):
    """All that was found."""
    Path(path).write_text(json.dumps([vars(finding) for finding in findings], indent=1))
