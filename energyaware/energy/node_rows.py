"""Whether a node adds up: stages + idle + unattributed against the whole span of its counters."""

from collections.abc import Sequence
from datetime import datetime

from energyaware.energy.accounts import Account, Total
from energyaware.energy.base import Channel
from energyaware.energy.baseline import Baseline
from energyaware.rows import Row


def node_row(
    common: Row,
    channel: Channel,
    total: Total,
    parts: Sequence[Account | None],
    baseline: Baseline,
    started_at: datetime,
) -> Row:
    """A row of the nodes table.

    Args:
        common: run and node.
        channel: what the row is about.
        total: its counter, read independently of whom the joules were given to.
        parts: what stages, idle time and unattributed processes were given; None is nothing.
        baseline: idle power.
        started_at: of the meter.
    """
    stages_j, idle_j, unattributed_j = (_known_j(part) for part in parts)
    reason = total.reason or next((part.reason for part in parts if part and part.reason), None)
    known = [part for part in (stages_j, idle_j, unattributed_j) if part is not None]
    difference = None
    if total.energy_j is not None and len(known) == len(parts):
        difference = (
            (sum(known) - total.energy_j) / total.energy_j if total.energy_j else 0.0 if not sum(known) else None
        )
    return {
        **common,
        "component": channel.component,
        "device": channel.device,
        "source": channel.source,
        "measured": channel.measured,
        "energy_j": total.energy_j,
        "stages_j": stages_j,
        "idle_j": idle_j,
        "unattributed_j": unattributed_j,
        "difference": difference,
        "reason": reason,
        "duration_s": total.duration_s,
        "idle_power_w": baseline.power_w.get(channel),
        "idle_reason": baseline.reasons.get(channel),
        "idle_context": baseline.context if channel.component == "gpu" else None,
        "started_at": started_at,
    }


def _known_j(part: Account | None) -> float | None:
    if part is None:
        return 0.0
    return None if part.reason else part.energy_j
