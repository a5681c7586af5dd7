"""The plan: every distinct stage of a sweep once, what it needs, and which stages cannot run here and why."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from energyaware.precision import Hardware
from energyaware.rows import Row
from energyaware.spec import FinetuneSpec, InferenceSpec, StageSpec, canonical_json, stage_id
from energyaware.support import refusal
from sweep.config import Sweep
from sweep.grid import Trial, trials


@dataclass(frozen=True)
class PlannedStage:
    """A stage to run, or the reason why it cannot be, or is not."""

    stage_id: str
    spec: StageSpec
    state: Literal["planned", "infeasible", "skipped"] = "planned"
    reason: str | None = None

    @property
    def precisions(self) -> str:
        """nf4, or bf16→nf4 where it was fine-tuned in another precision than it is served in."""
        spec = self.spec
        trained_in = spec.finetune_precision if isinstance(spec, InferenceSpec) else spec.precision
        return spec.precision if trained_in == spec.precision else f"{trained_in}→{spec.precision}"

    @property
    def title(self) -> str:
        """Such as `inference nf4 magnitude-2:4`, for people."""
        spec = self.spec
        parts = [spec.kind, self.precisions]
        if spec.pruning.kind != "none":
            parts.append(f"{spec.pruning.label} {spec.pruning.applied}")
        if spec.gpu_kind:
            parts.append(f"on {spec.gpu_kind}")
        return " ".join(parts)

    def row(self) -> Row:
        """As a row of the plan table."""
        return {
            "stage_id": self.stage_id,
            "kind": self.spec.kind,
            "needs": list(self.spec.needs),
            **configuration_columns(self.spec),
            "state": self.state,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Plan:
    """Stages in an order in which each comes after what it needs."""

    stages: tuple[PlannedStage, ...]
    trials: int

    def minus(self, finished: Collection[str]) -> tuple[PlannedStage, ...]:
        """Feasible stages that are left to run; a fine-tuning that no stage left needs is not run."""
        left = [s for s in self.stages if s.state == "planned" and s.stage_id not in finished]
        needed = {need for stage in left for need in stage.spec.needs}
        return tuple(s for s in left if s.spec.kind == "inference" or s.stage_id in needed)

    def refusing(self, reasons: Mapping[str, str]) -> "Plan":
        """The plan with those stages infeasible, and those that need them. `reasons` are by stage id."""

        def refused(stage: PlannedStage) -> PlannedStage:
            blocked = next((reasons[need] for need in stage.spec.needs if need in reasons), None)
            reason = reasons.get(stage.stage_id) or (blocked and f"its fine-tuning is infeasible: {blocked}")
            return replace(stage, state="infeasible", reason=reason) if reason else stage

        return replace(self, stages=tuple(map(refused, self.stages)))

    def skipping(self, reasons: Mapping[str, str]) -> "Plan":
        """The plan with those stages not to be run, by stage id with the reason."""

        def skipped(stage: PlannedStage) -> PlannedStage:
            reason = reasons.get(stage.stage_id)
            return replace(stage, state="skipped", reason=reason) if reason and stage.state == "planned" else stage

        return replace(self, stages=tuple(map(skipped, self.stages)))

    def __iter__(self) -> Iterator[PlannedStage]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)


def make_plan(sweep: Sweep, hardware: Hardware) -> Plan:
    """Expand a sweep's grid into distinct stages.

    Args:
        sweep: what is asked for.
        hardware: what workers compute on.

    Raises:
        InputError: model or data cannot be found or used.
    """
    stages: dict[str, PlannedStage] = {}
    count = 0
    for trial in trials(sweep):
        count += 1
        for stage in _stages(trial, hardware):
            stages.setdefault(stage.stage_id, stage)
    return Plan(tuple(stages.values()), count)


def _stages(trial: Trial, hardware: Hardware) -> Iterator[PlannedStage]:
    blocked = None
    if trial.finetune is not None:
        refused = refusal(trial.finetune, hardware)
        yield _planned(trial.finetune, refused)
        blocked = refused and f"its fine-tuning is infeasible: {refused}"
    yield _planned(trial.inference, blocked or refusal(trial.inference, hardware))


def _planned(spec: StageSpec, refused: str | None) -> PlannedStage:
    return PlannedStage(stage_id(spec), spec, "infeasible" if refused else "planned", refused)


def configuration_columns(spec: StageSpec) -> Row:
    """The columns that name a stage's configuration, as the plan and stages tables have them."""
    method, trained_in = (
        (spec.method, spec.precision)
        if isinstance(spec, FinetuneSpec)
        else (spec.finetune_method, spec.finetune_precision)
    )
    return {
        "model": spec.model.name,
        "model_revision": spec.model.revision,
        "model_family": spec.model.family or None,
        "tasks": list(spec.tasks),
        "finetune_method": method,
        "finetune_precision": trained_in,
        "precision": spec.precision,
        "pruning": spec.pruning.label,
        "pruning_applied": spec.pruning.applied,
        "seed": spec.seed,
        "gpu_kind": spec.gpu_kind,
        "settings": canonical_json(spec),
    }
