"""Nodes, and what is wrong with them, as people and as programs read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from energyaware.versions import CODE
from sweep.meters import SHORT_UUID

if TYPE_CHECKING:
    from cluster.node import Gpu
    from cluster.survey import NodeReport
    from sweep.preflight import Findings

NODE: Final = ("node", "CPUs", "memory", "network", "clock", "python", "code", "meters")
GPU: Final = ("GPU", "kind", "memory", "capability", "limit", "others on it")

WIDTH: Final = 250
"""There is room for a table of: one that is cut to the columns of a terminal cannot be read, and a broken line can."""


def as_json(found: Findings) -> str:
    """All that the nodes said, and all problems; null is what is not known."""
    content = {
        "nodes": [_content(report) for report in found.reports],
        "problems": [asdict(problem) for problem in found.problems],
    }
    return json.dumps(content, indent=2)


def as_table(found: Findings) -> Table:
    """One line a node; where it has GPUs, one for each of them."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    columns = NODE + (GPU if any(report.node.gpus for report in found.reports) else ())
    for name in columns:
        table.add_column(name, no_wrap=True)
    ill = {name for problem in found.problems if problem.refuses for name in problem.nodes}
    for report in found.reports:
        style = "red" if report.node.name in ill else ""
        for cells in _lines(report):
            table.add_row(*cells[: len(columns)], style=style)
    return table


def _content(report: NodeReport) -> dict[str, Any]:
    node = asdict(report.node)
    if report.silent is not None:
        return node | {"memory_bytes": None, "gpus": None, "silent": report.silent}
    clock = asdict(report.clock) if report.clock else None
    told = {"python": report.python, "niceness": report.niceness, "interface": report.interface, "clock": clock}
    found = {name: report.found[name] for name in ("versions", "meters")}
    return node | told | found | {"silent": None}


def _lines(report: NodeReport) -> Iterator[list[str]]:
    node, first = report.node, _node_cells(report)
    for gpu in node.gpus or (None,):
        yield [*first, *(_gpu_cells(gpu) if gpu else [""] * len(GPU))]
        first = [""] * len(NODE)


def _node_cells(report: NodeReport) -> list[str]:
    node, clock = report.node, report.clock
    if report.silent is not None:
        return [node.name, f"{node.cpus:g}", "silent", *[""] * (len(NODE) - 3)]
    versions = report.found["versions"] or {}
    return [
        node.name,
        f"{node.cpus:g}",
        _gibibytes(node.memory_bytes),
        f"{report.interface or '?'} {node.address}",
        f"{clock.ahead_s:+.2f} s" if clock else "?",
        versions.get("python", "?"),
        versions.get(CODE, "?"),
        _meters(report.found["meters"]),
    ]


def _meters(lines: Sequence[dict[str, Any]]) -> str:
    """Such as `gpu measured, cpu dram estimated`: how components are read, where they are."""
    kinds: dict[str, dict[str, None]] = {}
    for line in lines:
        if line["state"] in {"ok", "unreadable"}:
            kind = {True: "measured", False: "estimated", None: "unreadable"}[line["measured"]]
            kinds.setdefault(kind, {})[line["component"]] = None
    return ", ".join(f"{' '.join(components)} {kind}" for kind, components in kinds.items())


def _gpu_cells(gpu: Gpu) -> list[str]:
    return [
        gpu.uuid[:SHORT_UUID],
        gpu.kind or "?",
        "?" if gpu.memory_bytes is None else _gibibytes(gpu.memory_bytes),
        "?" if gpu.capability is None else "{}.{}".format(*gpu.capability),
        "?" if gpu.power_limit_w is None else f"{gpu.power_limit_w:.0f} W",
        "?" if gpu.others is None else ", ".join(map(str, gpu.others)) or "none",
    ]


def _gibibytes(value: int) -> str:
    return f"{value / 2**30:.1f} GiB"
