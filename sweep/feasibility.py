"""What only a model can tell: whether its layers can have a pruning. Asked before anything is spent.

A pruning after a fine-tuning of ten hours must not fail on a shape that was known before. Names and shapes follow from
the model's configuration, so no weights are loaded; but torch is, which the plan does without: `energyaware run` asks.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import ray

from energyaware.errors import AuditError
from energyaware.pruning import PRUNERS
from energyaware.spec import ModelRef, Pruning
from sweep.plan import PlannedStage


def refused_by_models(stages: Iterable[PlannedStage]) -> dict[str, str]:
    """By stage id: why the stage's pruning cannot be carried out on its model."""
    asked = {stage.stage_id: (stage.spec.model, stage.spec.pruning) for stage in stages if _is_in_doubt(stage)}
    if not asked:
        return {}
    answers = ray.get(ray.remote(num_cpus=1)(refusals).remote(list(asked.values())))
    return {stage_id: reason for stage_id, reason in zip(asked, answers, strict=True) if reason}


def refusals(asked: Sequence[tuple[ModelRef, Pruning]]) -> list[str | None]:
    """Why each pruning cannot be carried out on its model; None where it can.

    None also where the model cannot be looked at: then its stage will say why.
    """
    from energyaware.models import skeleton

    models: dict[ModelRef, Any] = {}

    def refusal(model: ModelRef, pruning: Pruning) -> str | None:
        try:
            if model not in models:
                models[model] = skeleton(model)
            PRUNERS[pruning.kind].check(models[model], pruning)
        except AuditError as problem:
            return str(problem)
        except Exception:  # of a model that cannot be built here, and may load elsewhere
            return None
        return None

    return [refusal(model, pruning) for model, pruning in asked]


def _is_in_doubt(stage: PlannedStage) -> bool:
    """Whether the stage prunes, and not the built-in model in a way that it is known to take."""
    spec, pruning = stage.spec, stage.spec.pruning
    prunes = pruning.applied == ("before" if spec.kind == "finetune" else "after")
    known = pruning.pattern in {"unstructured", "2:4", "4:8"} and not pruning.overrides
    return prunes and not (spec.model.kind == "builtin" and known)
