"""What this machine can measure, how, and what to do about what it cannot."""

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

from rich.table import Table
from rich.text import Text

from energyaware.energy.base import Channel, MeterSettings, Reading
from energyaware.energy.carbon import Factors, factors
from energyaware.energy.sources import Line, NodeSources, find_sources
from energyaware.errors import InputError
from sweep.extra import require_run_extra

METER_EXTRA: Final = ("codecarbon", "psutil", "pynvml")
"""Libraries that only metering needs."""

SHORT_UUID: Final = 12
"""Characters of a UUID that tell GPUs apart, and that CUDA_VISIBLE_DEVICES takes for the whole."""


@dataclass(frozen=True)
class NodeReport:
    """What one machine can measure.

    Attributes:
        node: name of the machine.
        lines: what each component is read from, with its mean power.
        factors: for the country or region that was asked for.
    """

    node: str
    lines: tuple[Line, ...]
    factors: Factors


def look(settings: MeterSettings, seconds: float) -> NodeReport:
    """Start all meters of this machine and read them twice, so many seconds apart.

    Raises:
        InputError: a library of the `run` extra is missing, or CodeCarbon has no data for the country or the region.
    """
    require_run_extra(METER_EXTRA)
    try:
        found = factors(settings)
    except InputError as problem:  # which speaks of a sweep file's fields
        raise InputError("", "", str(problem).replace("energy.", "--")) from None
    sources = find_sources(settings)
    try:
        before = _read(sources)
        time.sleep(seconds)
        after = _read(sources)
    finally:
        sources.close()
    return NodeReport(platform.node(), tuple(_with_power(line, before, after) for line in sources.lines), found)


def as_json(report: NodeReport) -> str:
    """Everything, with null for what is not known."""
    carbon = {"carbon_g_per_kwh": report.factors.carbon_g_per_kwh, "source": report.factors.carbon_source}
    content = {
        "node": report.node,
        "components": [asdict(line) for line in report.lines],
        "carbon": carbon if report.factors.carbon_source else None,
    }
    return json.dumps(content, indent=2)


def as_table(report: NodeReport) -> Table:
    """One line a component or GPU; numbers refer to `notes`."""
    numbers = _numbers(report)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in ("component", "device", "read from", "kind"):
        table.add_column(column, no_wrap=True)
    for column in ("power", "step", "note"):
        table.add_column(column, no_wrap=True, justify="right")
    for line in report.lines:
        style = "red" if line.state == "unreadable" else {True: "green", False: "yellow", None: "dim"}[line.measured]
        table.add_row(
            line.component,
            f"{line.name} {(line.device or '')[:SHORT_UUID]}".strip(),
            Text(line.source or line.state, style=style),
            Text({True: "measured", False: "estimated", None: ""}[line.measured], style=style),
            "" if line.power_w is None else f"{line.power_w:.1f} W",
            f"{line.step_s * 1000:.0f} ms" if line.step_s else "",
            str(numbers.get((line.reason, line.advice), "")),
        )
    return table


def notes(report: NodeReport) -> list[str]:
    """Why something is not measured and what to do about it, numbered as in the table; and the emission factor."""
    lines = []
    for (reason, advice), number in _numbers(report).items():
        whose = ", ".join(line.name for line in report.lines if (line.reason, line.advice) == (reason, advice))
        lines.append(f"{number}. {whose}: {reason}")
        lines += [f"   {advice}"] if advice else []
    if report.factors.carbon_source:
        lines.append(f"carbon: {report.factors.carbon_g_per_kwh:.1f} g CO2e/kWh ({report.factors.carbon_source})")
    return lines


def _numbers(report: NodeReport) -> dict[tuple[str | None, str | None], int]:
    reasons = dict.fromkeys((line.reason, line.advice) for line in report.lines if line.reason)
    return {reason: number for number, reason in enumerate(reasons, start=1)}


def _read(sources: NodeSources) -> Mapping[Channel, Reading]:
    return {channel: reading for source in sources.sources for channel, reading in source.read().items()}


def _with_power(line: Line, before: Mapping[Channel, Reading], after: Mapping[Channel, Reading]) -> Line:
    """The line with its mean power between two readings, or with why there is none."""
    if line.state != "ok":
        return line
    channel = next(c for c in before if (c.component, c.device) == (line.component, line.device))
    first, last = before[channel], after[channel]
    if first.energy_j is None or last.energy_j is None:
        reason = last.reason or first.reason
        return replace(line, source=None, measured=None, state="unreadable", reason=reason, advice=None, step_s=None)
    if first.at_s is None or last.at_s is None:
        return line
    return replace(line, power_w=(last.energy_j - first.energy_j) / (last.at_s - first.at_s))
