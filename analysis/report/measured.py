"""What was measured how: sources of joules, windows, carbon and price, machines, versions."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import polars as pl

from analysis.kinds import of_results
from analysis.load import Results
from analysis.nodes import Node
from analysis.report.table import Cell, Column, Table, cell, quantity, table_of
from analysis.versions import differences


def measured(results: Results) -> Iterator[Table]:
    """Where the joules of finished stages come from, in which windows, and what turned them into carbon and cost."""
    energy = of_results(results.energy, results.stages).collect()
    if energy.height:
        yield _meters(energy)
        yield _windows(energy)
    factors = _factors(results)
    if factors.height:
        yield table_of(
            factors,
            "factors",
            "From joules to carbon and cost",
            {
                "carbon_g_per_kwh": Column("g CO2e per kWh", "PUE applied", numeric=True),
                "carbon_source": "from",
                "pue": Column(
                    "PUE", "power usage effectiveness: applied to carbon and cost, not to joules", numeric=True
                ),
                "price_per_kwh": Column("price per kWh", numeric=True),
                "currency": "currency",
                "stages": Column("stages", numeric=True),
            },
        )


def _meters(energy: pl.DataFrame) -> Table:
    known = pl.col("energy_j").fill_nan(None)
    by_source = (
        energy.group_by("node", "component", "source", "measured")
        .agg(
            windows=pl.len(),
            energy_j=known.sum(),
            unknown=known.is_null().sum(),
            marks=pl.col("marks").list.explode().str.extract("^([^:]*)").drop_nulls().unique().sort(),
        )
        .sort("node", "component", "source", "measured")
        .with_columns(
            how=pl.when("measured").then(pl.lit("measured")).when(~pl.col("measured")).then(pl.lit("estimated")),
        )
    )
    return table_of(
        by_source,
        "meters",
        "Meters of the joules that became results",
        {
            "node": "machine",
            "component": "component",
            "source": "source",
            "how": Column("how", "measured: a hardware counter. estimated: a model of the load"),
            "energy_j": Column("J", numeric=True),
            "windows": Column("windows", numeric=True),
            "unknown": Column(
                "unknown", "windows whose joules could not be read: they are null, never 0", numeric=True
            ),
            "marks": Column("marks", "what to know before trusting a window"),
        },
    )


def _windows(energy: pl.DataFrame) -> Table:
    """A window on several components is one stretch of time."""
    power = pl.col("energy_j") / pl.col("duration_s")
    spans = energy.group_by("window", "stage_id", "attempt", "node", "started_at", "epoch", "repeat").agg(
        pl.max("duration_s"), pl.max("requests"), power_w=power.filter(power.is_finite()).sum()
    )
    by_window = (
        spans.group_by("window")
        .agg(
            pl.len(),
            pl.median("duration_s").alias("typical_s"),
            pl.min("duration_s").alias("shortest_s"),
            pl.max("repeat").alias("repeats"),
            pl.median("power_w").alias("typical_w"),
        )
        .sort("window")
    )
    return table_of(
        by_window,
        "windows",
        "Windows: stretches of time that were measured one by one",
        {
            "window": "window",
            "len": Column("how many", numeric=True),
            "typical_s": Column("median s", numeric=True),
            "shortest_s": Column("shortest s", numeric=True),
            "repeats": Column("repeats", "how often the same work was measured", numeric=True),
            "typical_w": Column(
                "median W", "mean power of a window, all components of a machine together", numeric=True
            ),
        },
    )


def _factors(results: Results) -> pl.DataFrame:
    columns = ["carbon_g_per_kwh", "carbon_source", "pue", "price_per_kwh", "currency"]
    return (
        results.stages.filter(pl.any_horizontal(pl.col(columns).is_not_null()))
        .group_by(columns)
        .agg(stages=pl.len())
        .sort("stages", *columns, descending=[True, *([False] * len(columns))])
        .collect()
    )


def machines(results: Results, nodes: list[Node]) -> Iterator[Table]:
    """What computed, whether its joules add up, and which versions did it."""
    devices = (
        results.stages.explode("nodes")
        .group_by("nodes", "device", "device_name", "workers")
        .agg(stages=pl.len())
        .sort("nodes", "device", "device_name", "workers")
        .collect()
    )
    if devices.height:
        headings = {"nodes": "machine", "device": "device", "device_name": "kind", "workers": "workers of a stage"}
        yield table_of(devices, "devices", "What stages ran on", {**headings, "stages": "stages"})
    if nodes:
        yield _added_up(nodes)
    if versions := list(_versions(results)):
        columns = [Column("name"), Column("version"), Column("stages", numeric=True)]
        yield Table("versions", "Versions that finished stages ran with", columns, versions)


def _added_up(nodes: list[Node]) -> Table:
    meaning = "share of the joules that the three parts miss or exceed: wanted within 0.5 %"
    columns = [
        Column("machine"),
        *(Column(heading, numeric=True) for heading in ("J", "of stages", "idle", "of neither")),
        Column("difference %", meaning, numeric=True),
        Column("adds up"),
        Column("idle W", "power before anything started", numeric=True),
    ]
    return Table("nodes", "Whether each machine's joules add up", columns, [_node(node) for node in nodes])


def _node(node: Node) -> list[Cell]:
    joules = (node.energy_j, node.stages_j, node.idle_j, node.unattributed_j)
    idle_w = [row["idle_power_w"] for row in node.rows]
    return [
        cell(node.node),
        *(quantity(value) for value in joules),
        quantity(None if node.difference is None else 100 * node.difference),
        cell("yes" if node.adds_up else f"no: {node.reason}"),
        quantity(_latest_sum(node.rows) if any(power is not None for power in idle_w) else None),
    ]


def _latest_sum(rows: list[dict[str, Any]]) -> float | None:
    """Idle power over the channels of the latest run; None where one of them is not known."""
    latest = max(rows, key=lambda row: str(row["started_at"]))["run"]
    powers = [row["idle_power_w"] for row in rows if row["run"] == latest]
    return None if None in powers else sum(powers)


def _versions(results: Results) -> Iterator[list[Cell]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for each in differences(results, asked_only=False):
        for name, version in each.versions.items():
            counts[name][version] += len(each.stage_ids)
    for name in sorted(counts):
        for version, stages in counts[name].most_common():
            yield [cell(name), cell(version), cell(stages)]
