"""The sweep as Prometheus sees it: stages by state, joules and power of every node, through Ray's own export.

The driver hands on what it learns of the meters anyway, so that watching costs no message. Ray's agent on the driver's
node exports it, at its metrics export port, with `ray_` before each name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ray.util.metrics import Counter, Gauge

from analysis.budget import CapUse

SPAN_S: Final = 5.0
"""Power is the mean over at least so long."""


class Metrics:
    """What is exported of one run.

    Args:
        sweep: its name, a label of everything.
    """

    def __init__(self, sweep: str) -> None:
        self._sweep = sweep
        where = ("sweep", "node", "component")
        self._stages = Gauge("energyaware_stages", "Stages of the sweep by state.", ("sweep", "state"))
        self._joules = Counter("energyaware_energy_joules", "Joules of a node while this sweep ran.", where)
        self._watts = Gauge("energyaware_power_watts", "Mean power of a node over the last seconds.", where)
        self._budget = Gauge("energyaware_budget_used_ratio", "Used part of each cap of the budget.", ("sweep", "cap"))
        self._exported_j: dict[tuple[str, str], float] = {}
        self._before: dict[str, Mapping[str, Any]] = {}
        self._power_w: dict[str, dict[str, float]] = {}

    def update(
        self, stages: Mapping[str, int], said: Iterable[Mapping[str, Any]], budget: Iterable[CapUse] = ()
    ) -> None:
        """Hand on how things stand. To be called at least as often as Ray exports, which drops what is not said anew.

        Args:
            stages: number of stages by state.
            said: what the meters say of now that answered (`NodeService.now`). The power of other nodes is not said.
            budget: what is used of it; a cap of which that cannot be told is not said.
        """
        for state, count in stages.items():
            self._stages.set(count, {"sweep": self._sweep, "state": state})
        for cap in budget:
            if cap.share is not None:
                self._budget.set(cap.share, {"sweep": self._sweep, "cap": cap.name})
        for now in said:
            node, heartbeat = now["node"], now["heartbeat"]
            self._add_joules(node, heartbeat["joules"])
            self._note_power(node, heartbeat)
            for component, power_w in self._power_w.get(node, {}).items():
                self._watts.set(power_w, self._labels(node, component))

    def _add_joules(self, node: str, joules: Mapping[str, float]) -> None:
        for component, energy_j in joules.items():
            exported_j = self._exported_j.get((node, component), 0.0)
            more_j = energy_j - exported_j if energy_j >= exported_j else energy_j  # less: the meter was started anew
            if more_j > 0:
                self._joules.inc(more_j, self._labels(node, component))
            self._exported_j[node, component] = energy_j

    def _note_power(self, node: str, heartbeat: Mapping[str, Any]) -> None:
        before = self._before.setdefault(node, heartbeat)
        span_s = heartbeat["at_s"] - before["at_s"]
        if 0 <= span_s < SPAN_S:
            return
        self._before[node] = heartbeat
        was_j, is_j = before["joules"], heartbeat["joules"]
        self._power_w[node] = {
            component: (is_j[component] - was_j[component]) / span_s
            for component in was_j.keys() & is_j.keys()
            if span_s > 0 and is_j[component] >= was_j[component]
        }

    def _labels(self, node: str, component: str) -> dict[str, str]:
        return {"sweep": self._sweep, "node": node, "component": component}
