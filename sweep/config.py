"""The sweep file as a frozen tree. It refuses unknown keys; validation touches neither network nor environment."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from energyaware.errors import InputError
from energyaware.tasks import TASKS
from sweep.choices import Part, PrecisionChoice, PruningChoice, like, listed, one_of
from sweep.inputs import CalibrationChoice, Data, Model
from sweep.settings import (
    Budget,
    Checkpoints,
    Energy,
    Failures,
    Finetune,
    Halving,
    Inference,
    RankingChoice,
    Resources,
    Strategy,
    without_twins,
)

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What generators and columns of 64 bits take."""


class Sweep(Part):
    """What one YAML file asks for."""

    name: Annotated[str, like(r"[.]*[\w-][\w.-]*", "letters, digits, _, - and ., not of dots alone")] = ""
    """Default: the file's name."""
    model: Annotated[tuple[Model, ...], BeforeValidator(listed), Field(min_length=1)] = (Model(builtin=True),)
    """Base model, or a list of them."""
    tasks: Annotated[
        tuple[Annotated[str, one_of("task", TASKS)], ...], BeforeValidator(listed), Field(min_length=1)
    ] = tuple(TASKS)
    """Tasks that each configuration is trained on and judged by."""
    data: Data = Data(builtin=True)
    precisions: Annotated[tuple[PrecisionChoice, ...], BeforeValidator(listed), Field(min_length=1)]
    """Number formats: a name for fine-tuning and inference alike, or a mapping that names one for each."""
    prunings: Annotated[tuple[PruningChoice, ...], BeforeValidator(listed), Field(min_length=1)] = (
        PruningChoice(kind=("none",)),
    )
    """What is removed, and when."""
    calibration: CalibrationChoice = CalibrationChoice()
    finetune: Finetune = Finetune()
    inference: Inference = Inference()
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(listed), Field(min_length=1)] = (0,)
    """One trial per configuration and seed."""
    strategy: Strategy = Strategy()
    halving: Halving | None = None
    """Off unless given."""
    resources: Resources = Resources()
    energy: Energy = Energy()
    checkpoints: Checkpoints = Checkpoints()
    failures: Failures = Failures()
    budget: Budget = Budget()
    ranking: RankingChoice = RankingChoice()
    results: Annotated[str, Field(pattern=r"^[^\x00]*$")] = ""
    """Results folder, relative to where the command is run. Default: results/<name>."""

    @field_validator("model", "tasks", "precisions", "prunings", "seeds")
    @classmethod
    def _no_twins(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return without_twins(values)

    @field_validator("halving", mode="before")
    @classmethod
    def _given_or_left_out(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("is empty: {} takes the defaults; leave it out for no halving")
        return value

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        workers = self.resources.workers
        if self.finetune.batch_size % workers:
            raise ValueError(
                f"finetune.batch_size {self.finetune.batch_size} is not a multiple of resources.workers {workers}"
            )
        share, micro = self.finetune.batch_size // workers, self.finetune.micro_batch_size
        if micro is not None and (micro > share or share % micro):
            raise ValueError(
                f"finetune.micro_batch_size {micro} does not divide a worker's share of the batch, {share}"
            )
        return self

    @model_validator(mode="after")
    def _funnel_has_a_start(self) -> Self:
        if self.strategy.kind == "funnel" and not any("none" in choice.kind for choice in self.prunings):
            raise ValueError("strategy funnel measures every precision without pruning first: add none to prunings")
        return self

    @model_validator(mode="after")
    def _funnel_has_figures_to_rank_by(self) -> Self:
        if self.strategy.kind != "funnel":
            return self
        energy = self.energy
        if self.ranking.metric == "cost" and not energy.price_per_kwh:
            raise ValueError("strategy funnel with ranking.metric cost needs energy.price_per_kwh above 0")
        factor = energy.country if energy.carbon_g_per_kwh is None else energy.carbon_g_per_kwh
        if self.ranking.metric == "carbon" and not factor:
            needs = "energy.country or energy.carbon_g_per_kwh above 0"
            raise ValueError(f"strategy funnel with ranking.metric carbon needs {needs}")
        return self

    @model_validator(mode="after")
    def _budget_can_be_kept(self) -> Self:
        if self.budget.cost is not None and self.energy.price_per_kwh is None:
            raise ValueError("budget.cost needs energy.price_per_kwh")
        if self.budget.gpu_hours is not None and "gpu" not in self.energy.components:
            raise ValueError("budget.gpu_hours needs gpu among energy.components, by whose meter GPUs are counted")
        return self

    def with_paths_from(self, folder: Path) -> "Sweep":
        """The same sweep with model and data paths made absolute, relative ones being relative to that folder.

        Raises:
            InputError: no path can be made of one of them; its source is empty.
        """

        def absolute(field: str, path: str | None) -> str | None:
            try:
                return None if path is None else str((folder / Path(path).expanduser()).resolve())
            except (OSError, RuntimeError, ValueError) as problem:  # no such user's home, a null byte
                raise InputError("", field, f"{path!r} is no path: {problem}") from None

        data = self.data
        if data.hub is None:
            files = {
                name: absolute(f"data.{name}", getattr(data, name)) for name in ("path", "train", "validation", "test")
            }
            data = data.model_copy(update=files)
        calibration = self.calibration.model_copy(update={"path": absolute("calibration.path", self.calibration.path)})
        models = tuple(
            model.model_copy(update={"folder": absolute("model.folder", model.folder)}) for model in self.model
        )
        return self.model_copy(update={"data": data, "model": models, "calibration": calibration})
