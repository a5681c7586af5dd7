"""What the stages of a sweep ask of the machines, as settled when a run begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cluster.node import Node, lowest
from energyaware.energy.base import Component
from energyaware.errors import InputError, few
from energyaware.precision import Hardware
from energyaware.spec import StageSpec
from energyaware.support import refusal
from sweep.placement import Need, Place, all_kinds, kinds_meant, place, why_kinds_are_unclear, why_nowhere
from sweep.plan import PlannedStage
from sweep.settings import Resources

ONE_FOLDER: Final = "which object storage does not let them: keep results in a shared folder, or workers on one machine"


@dataclass(frozen=True)
class Needs:
    """Of every stage.

    Attributes:
        resources: as the sweep file asks for them.
        gpus: that a worker holds.
        kinds: product names of GPUs when the run began. A machine that joins with others gets no stage that could
            have run on these: stages of one kind would be measured on two.
    """

    resources: Resources
    gpus: int
    kinds: tuple[str, ...]

    def of(self, spec: StageSpec) -> Need:
        """What a trial of that stage asks for."""
        resources = self.resources
        workers = resources.workers_of(spec.kind)
        return Need(
            workers=workers,
            cpus=resources.cpus_per_worker,
            gpus=self.gpus,
            gpu_kind=self._kind(spec.gpu_kind) if self.gpus else None,
            placement=resources.placement,
            nodes=resources.nodes and min(resources.nodes, workers),
            whole_nodes=resources.exclusive == "node",
        )

    def _kind(self, of_stage: str | None) -> str | None:
        asked = of_stage or next(iter(self.resources.gpu_kind), None)
        meant = kinds_meant(asked, self.kinds) if asked else self.kinds
        return meant[0] if meant else asked


def settle(resources: Resources, gpus: int, nodes: Sequence[Node], source: Any) -> Needs:
    """What stages ask of these machines.

    Args:
        resources: as the sweep file asks for them.
        gpus: that a worker holds.
        nodes: of the cluster.
        source: the sweep file, for errors.

    Raises:
        InputError: it is not clear on which kind of GPU stages would be measured.
    """
    if resources.gpu_kind and not gpus:
        problem = "is for stages that hold GPUs: device cuda, or gpus_per_worker: 1"
        raise InputError(source, "resources.gpu_kind", problem)
    unclear = why_kinds_are_unclear(resources.gpu_kind, nodes) if gpus else None
    if unclear:
        raise InputError(source, "resources.gpu_kind", unclear)
    return Needs(resources, gpus, tuple(all_kinds(nodes)))


def refuse_idle_gpus(resources: Resources, device: str, nodes: Sequence[Node], source: Any) -> None:
    """A machine without a GPU that starts a sweep on a cluster with some: what `auto` took there is not what was meant.

    Raises:
        InputError: it is so.
    """
    with_gpus = [node.name for node in nodes if node.gpus_handed_out]
    if resources.device == "auto" and device == "cpu" and with_gpus:
        problem = f"auto took cpu, as this machine has no NVIDIA GPU, but {few(with_gpus)} have some: give cuda or cpu"
        raise InputError(source, "resources.device", problem)


def refuse_unmetered(components: Sequence[Component], gpus_per_worker: int, source: Any) -> None:
    """Stages of which nothing would be metered: GPUs alone count, and they hold none.

    Raises:
        InputError: it is so.
    """
    if set(components) == {"gpu"} and not gpus_per_worker:
        problem = "gpu alone is for stages that hold GPUs: add cpu or dram, or give device cuda or gpus_per_worker: 1"
        raise InputError(source, "energy.components", problem)


def refused_by_machines(
    stages: Sequence[PlannedStage],
    needs: Needs,
    nodes: Sequence[Node],
    source: Any,
    *,
    on_gpus: bool = False,
    one_folder: bool = True,
) -> dict[str, str]:
    """By stage id: why the stage fits on none of these machines, or cannot run on the GPUs that they have.

    Args:
        stages: to run.
        needs: of them.
        nodes: the machines.
        source: the sweep file, for errors.
        on_gpus: whether stages compute on the GPUs that they hold.
        one_folder: whether machines share the results folder, where workers find what the first of them has left.

    Raises:
        InputError: no stage fits.
    """
    places = {need: place(need, nodes) for need in {needs.of(stage.spec) for stage in stages}}
    nowhere = {need: why_nowhere(need, nodes) for need, found in places.items() if found is None}

    def why(stage: PlannedStage) -> str | None:
        need = needs.of(stage.spec)
        found = places[need]
        if found is None:
            return nowhere[need]
        apart = len(found.shape) > 1 and not one_folder and stage.spec.shares_weights
        return f"its workers on {len(found.shape)} machines share weights, {ONE_FOLDER}" if apart else None

    unfit = {stage.stage_id: reason for stage in stages if (reason := why(stage))}
    if unfit and len(unfit) == len(stages):
        raise InputError(source, "resources", next(iter(unfit.values())))
    return unfit | (_refused_by_gpus(stages, needs, nodes, places, unfit) if on_gpus else {})


def _refused_by_gpus(
    stages: Sequence[PlannedStage],
    needs: Needs,
    nodes: Sequence[Node],
    places: Mapping[Need, Place | None],
    unfit: Mapping[str, str],
) -> dict[str, str]:
    """By stage id: why it cannot run on the GPUs of the machines that it fits on."""
    refused = {}
    for stage in stages:
        need = needs.of(stage.spec)
        if stage.stage_id in unfit or (found := places[need]) is None:
            continue
        machines = [node for node in nodes if node.node_id in found.node_ids]
        gpus = [gpu for node in machines for gpu in node.gpus if need.gpu_kind in {None, gpu.kind}]
        if reason := refusal(stage.spec, Hardware("cuda", lowest([gpu.capability for gpu in gpus]))):
            refused[stage.stage_id] = reason
    return refused
