"""What a results folder holds, as Polars frames, and the answers that they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import polars as pl

from analysis.kinds import AROUND
from energyaware.errors import InputError
from energyaware.rows import COLUMNS

if TYPE_CHECKING:
    from typing import Unpack

    from analysis.candidates import Energy
    from analysis.metrics import Metric
    from analysis.ranking import Phi
    from analysis.status import Status


class Compared(TypedDict, total=False):
    """What is compared, and what it is asked to tell: of `analysis.ranking.ranking`."""

    energy: Energy
    metric: Metric
    asked_only: bool
    gpu_kind: str | None


class Choices(Compared, total=False):
    """All that can be chosen for a ranking; what it means and the defaults are those of `analysis.ranking.ranking`."""

    weight: float
    requests: int
    phi: Phi
    allow_mixed: bool


class AnswerChoices(Choices, total=False):
    """All that can be chosen for an answer; the defaults are those of `analysis.show.answer`."""

    level: float


class Draws(AnswerChoices, total=False):
    """What can be chosen for intervals; the defaults are those of `analysis.uncertainty.uncertainty`."""

    draws: int
    seed: int


@dataclass(frozen=True, eq=False)
class Results:
    """The tables of one results folder, or of several, as described in `energyaware.rows`.

    Beside those columns every table has `sweep`: the name of the sweep that the row belongs to, from its sweep file,
    else the folder's. Of several folders those of one name are told apart by their path.

    Of a stage that several folders hold, the tables below have the rows of one alone: where it finished last, else
    where it was tried last. `tables` has all rows.

    Attributes:
        folder: where they lie; of results that are given by URL, this machine's copy; of several folders the first.
        plan: what the sweep file asks for now.
        has_plan: whether there is a plan; without one, all that was run counts as asked for.
        held_by: the run that writes to the folder now, in words; None if none does.
        problems: files that were skipped, one line each with the reason.
        others: the rows of stages that another folder's rows stand for, by table.
        folders: all folders, by the name of their sweep.
    """

    folder: Path
    plan: pl.LazyFrame
    has_plan: bool
    stages: pl.LazyFrame
    attempts: pl.LazyFrame
    epochs: pl.LazyFrame
    quality: pl.LazyFrame
    energy: pl.LazyFrame
    nodes: pl.LazyFrame
    held_by: str | None
    problems: list[str]
    others: Mapping[str, pl.LazyFrame] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    _calculated: dict[str, pl.DataFrame] = field(default_factory=dict, init=False, repr=False)

    def tables(self) -> dict[str, pl.LazyFrame]:
        """The tables by name, with all rows."""
        return {
            name: pl.concat([getattr(self, name), self.others[name]]) if name in self.others else getattr(self, name)
            for name in COLUMNS
        }

    def asked_stages(self) -> pl.LazyFrame:
        """The finished stages that the plan asks for; all of them without a plan."""
        return self.stages.join(self.plan, on="stage_id", how="semi") if self.has_plan else self.stages

    @cached_property
    def windows(self) -> pl.LazyFrame:
        """Energy of stages without what is around windows, summed over nodes and devices.

        The energy table is the only large one. Whatever is asked of stages by component is asked of this, so that it is
        read once.

        Returns:
            `stage_id`, `attempt`, `kept`, `window`, `repeat`, `component` and `measured`, each combination once;
            `energy_j` and `energy_net_j`, null if any part is unknown; `duration_s` of the node that took longest, null
            if any node's is unknown; `requests` of the whole gang.
        """
        key = ["stage_id", "attempt", "kept", "window", "repeat", "component", "measured"]
        return self.once(
            "windows",
            lambda: (
                self.energy.filter(pl.col("stage_id").is_not_null(), ~pl.col("window").is_in(AROUND))
                .group_by(key)
                .agg(
                    _if_all_known("energy_j", pl.sum("energy_j")),
                    _if_all_known("energy_net_j", pl.sum("energy_net_j")),
                    _if_all_known("duration_s", pl.max("duration_s")),
                    pl.max("requests"),
                )
            ),
            engine="streaming",
        )

    def once(
        self,
        name: str,
        calculation: Callable[[], pl.LazyFrame],
        engine: Literal["in-memory", "streaming"] = "in-memory",
    ) -> pl.LazyFrame:
        """What follows from these tables alone and is asked for more than once: calculated when it first is.

        Args:
            name: of it.
            calculation: what it is.
            engine: streaming, where tables may not fit into memory; it is slower on small ones.

        Raises:
            InputError: files were merged or removed since the folder was read.
        """
        if name not in self._calculated:
            try:
                self._calculated[name] = calculation().collect(engine=engine)
            except FileNotFoundError:
                raise InputError(self.folder, "", "was changed while it was read: try again") from None
        return self._calculated[name].lazy()

    def ranking(self, **choices: Unpack[Choices]) -> pl.LazyFrame:
        """Configurations by score, best first: `analysis.ranking.ranking`."""
        from analysis.ranking import ranking

        return ranking(self, **choices)

    def left_out(self, **compared: Unpack[Compared]) -> pl.LazyFrame:
        """Stages that are not ranked, and why: `analysis.ranking.left_out`."""
        from analysis.ranking import left_out

        return left_out(self, **compared)

    def uncertainty(self, **choices: Unpack[Draws]) -> pl.LazyFrame:
        """How sure the ranking is, one row per configuration: `analysis.uncertainty.uncertainty`."""
        from analysis.uncertainty import uncertainty

        return uncertainty(self, **choices).lazy()

    def query(self, sql: str, **choices: Unpack[Choices]) -> pl.LazyFrame:
        """The rows that a SELECT over the tables gives; `choices` are those of its table `ranking`."""
        from analysis.query import query

        return query(self, sql, **choices).lazy()

    def status(self) -> Status:
        """How far the sweep is: `analysis.status.status`.

        Raises:
            InputError: the results are of several folders.
        """
        from analysis.status import status

        if len(self.folders) > 1:
            raise InputError("status", "", f"is that of one results folder, not of {len(self.folders)}")
        return status(self)


def _if_all_known(column: str, value: pl.Expr) -> pl.Expr:
    return pl.when(pl.col(column).null_count() == 0).then(value).alias(column)
