"""The sweep file as a frozen tree. It refuses unknown keys; validation touches neither network nor environment."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from energyaware.checkpoints import CheckpointRule
from energyaware.energy.base import Component, MeterSettings
from energyaware.spec import Method
from energyaware.tasks import TASKS
from sweep.choices import Part, PrecisionChoice, PruningChoice, listed, one_of

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Model(Part):
    """A base model: `builtin`, a folder, or a hub id with a revision."""

    builtin: bool = False
    """The small base model that this project makes itself, once."""
    folder: str | None = None
    """Folder as `save_pretrained` writes it, relative to the sweep file."""
    hub: str | None = None
    """Id on the Hugging Face hub."""
    revision: str = "main"
    """Of a hub id: commit, tag or branch. A commit pins what is loaded."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless asked for here."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value == "builtin":
            return {"builtin": True}
        looks_like_path = value.startswith((".", "/", "~")) or value.count("/") != 1
        return {"folder": value} if looks_like_path else {"hub": value}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum([self.builtin, self.folder is not None, self.hub is not None]) != 1:
            raise ValueError("wants exactly one of builtin, folder, hub")
        return self


class Data(Part):
    """Where the records come from: `builtin`, one file, a file per split, or a hub id."""

    builtin: bool = False
    """Synthetic fault tickets that this project generates."""
    path: str | None = None
    """One JSONL, CSV or Parquet file, divided 80/10/10; relative to the sweep file, or inside the hub's data set."""
    train: str | None = None
    """File of the training split."""
    validation: str | None = None
    """File of the validation split; without it a tenth of the training split."""
    test: str | None = None
    """File of the test split."""
    hub: str | None = None
    """Id of a data set on the Hugging Face hub."""
    revision: str = "main"
    """Of a hub id: commit, tag or branch."""
    columns: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it
    """Our field names to the data's column names, where they differ."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return {"builtin": True} if value == "builtin" else {"path": value}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        files = (self.path is not None) + (self.train is not None)
        if self.builtin + max(files, self.hub is not None) != 1 or files > 1:
            raise ValueError("wants exactly one of builtin, path, train with test, hub")
        if (self.train is None) != (self.test is None):
            raise ValueError("train and test go together")
        return self


class CalibrationChoice(Part):
    """What calibrated prunings look at: examples of the training split, or own texts."""

    examples: Count = 128
    """Examples drawn, with the trial's seed."""
    path: str | None = None
    """JSONL, CSV or Parquet file of own texts, relative to the sweep file. Default: the training split."""
    column: str = "text"
    """Its column that holds the texts."""


class Lora(Part):
    """Low-rank adapters, on all linear layers of the model's body."""

    rank: Count = 16
    """Rank of the change of each weight."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The change is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the adapter."""


class Finetune(Part):
    """How each configuration is fine-tuned."""

    method: Method = "lora"
    """lora trains adapters, full all weights, none measures the base model as it is."""
    epochs: Count = 3
    """Passes over the training split."""
    steps: Count | None = None
    """Optimizer steps, in place of epochs."""
    batch_size: Count = 32
    """Examples per optimizer step, over all workers."""
    micro_batch_size: Count | None = None
    """Examples per worker and forward pass; the rest of its share is accumulated. Default: its whole share."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak of a cosine schedule."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    sequence_length: Annotated[int, Field(ge=8)] = 512
    """Tokens of prompt and answer; longer prompts lose their start."""
    lora: Lora = Lora()
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage."""


class Inference(Part):
    """How each configuration is evaluated and measured."""

    batch_size: Count = 16
    """Requests answered together by one worker."""
    max_new_tokens: Count = 64
    """Tokens generated per response; measured windows always generate all of them."""
    test_examples: Count | None = None
    """At most so many examples of the test split."""
    min_window_s: Annotated[float, Field(gt=0)] = 5.0
    """Measured windows repeat the same batch until they are at least so long. Under 5 s they are marked as short."""
    repeats: Count = 3
    """How often prefill and decode are measured, in shuffled order."""


class Resources(Part):
    """What one trial runs on."""

    workers: Count = 1
    """Worker processes of a trial, one per GPU."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    """CPU cores a worker holds."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs a worker holds, 0 or 1. Default: 1 on cuda, 0 on cpu, where it could be held without computing on it."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """What workers compute on; auto takes cuda where this machine has an NVIDIA driver."""


class Energy(Part):
    """How nodes are metered, and where they stand, for carbon and cost."""

    components: Annotated[tuple[Component, ...], BeforeValidator(listed), Field(min_length=1)] = get_args(Component)
    """What counts: cpu, dram, gpu. One that is left out is in no figure; one that a node cannot read is refused."""
    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    """ISO 3166-1 alpha-3 code, such as DEU. Without it, and without carbon_g_per_kwh, no carbon is given."""
    region: str | None = None
    """Province or state, where CodeCarbon has data for it."""
    carbon_g_per_kwh: Annotated[float, Field(ge=0)] | None = None
    """Emission factor of your electricity, in place of the country's."""
    pue: Annotated[float, Field(ge=1)] = 1.0
    """Power usage effectiveness of the data centre, applied to carbon and cost. Joules stay those of the machines."""
    price_per_kwh: Annotated[float, Field(ge=0)] | None = None
    """Price of electricity. Without it no cost is given."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    """ISO 4217 code of the price, such as EUR."""
    idle_s: Annotated[float, Field(ge=0)] = 5.0
    """Seconds over which the nodes' idle power is read before anything starts; 0 leaves net joules unknown."""
    heartbeat_s: Annotated[float, Field(ge=0.5, le=60)] = 2.0
    """Seconds between two readings, and two writes of the ledger: what a crash loses at most."""

    def settings(self) -> MeterSettings:
        """As a node's meter takes them."""
        return MeterSettings(**self.model_dump())


class Checkpoints(Part):
    """When a fine-tuning leaves a checkpoint that an interrupted one goes on from, and how many are kept."""

    every_steps: Count | None = None
    """Optimizer steps between two checkpoints."""
    every_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes between two. Default, without either: as often as costs about 2 % of the time, 10 s to 10 min apart."""
    keep: Count = 2
    """How many of a stage's checkpoints are kept. All are removed when the stage is finished."""
    max_gb: Annotated[float, Field(gt=0)] | None = None
    """No more of a stage's older checkpoints are kept than fit into this; the last one always is."""

    def rule(self) -> CheckpointRule:
        """As a fine-tuning takes them."""
        return CheckpointRule(
            every_steps=self.every_steps,
            every_s=None if self.every_minutes is None else 60 * self.every_minutes,
            keep=self.keep,
            max_bytes=None if self.max_gb is None else int(self.max_gb * 1e9),
        )


class Failures(Part):
    """What happens to a stage that fails.

    One that lost its node is always tried again; one that ran out of memory only with half the micro-batch.
    """

    retries: Annotated[int, Field(ge=0)] = 1
    """How often a stage is tried again after an error of code or data, or a worker that died."""
    backoff_s: Annotated[float, Field(ge=0)] = 5.0
    """Seconds before it is tried again, doubled each time up to 5 minutes."""


class RankingChoice(Part):
    """What `energyaware rank` uses unless told otherwise."""

    weight: Share = 0.5
    """w of R = w * phi + (1 - w) * rho: 1 asks for energy alone, 0 for quality alone."""
    requests: Count = 10_000
    """Requests over which the joules of a fine-tuning are spread."""
    phi: Literal["minmax", "ratio"] = "minmax"
    """Normalisation of energy."""
    allow_mixed: bool = False
    """Rank measured and estimated energy against each other, which is otherwise refused."""


class Sweep(Part):
    """What one YAML file asks for."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = ""
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
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(listed), Field(min_length=1)] = (0,)
    """One trial per configuration and seed."""
    resources: Resources = Resources()
    energy: Energy = Energy()
    checkpoints: Checkpoints = Checkpoints()
    failures: Failures = Failures()
    ranking: RankingChoice = RankingChoice()
    results: str = ""
    """Results folder, relative to where the command is run. Default: results/<name>."""

    @field_validator("model", "tasks", "precisions", "prunings", "seeds")
    @classmethod
    def _no_twins(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        for index, value in enumerate(values):
            if value in values[:index]:
                raise ValueError(f"entry {index} says the same as entry {values.index(value)}")
        return values

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

    def with_paths_from(self, folder: Path) -> "Sweep":
        """The same sweep with model and data paths made absolute, relative ones being relative to that folder."""

        def absolute(path: str | None) -> str | None:
            return None if path is None else str((folder / Path(path).expanduser()).resolve())

        data = self.data
        if data.hub is None:
            files = {name: absolute(getattr(data, name)) for name in ("path", "train", "validation", "test")}
            data = data.model_copy(update=files)
        calibration = self.calibration.model_copy(update={"path": absolute(self.calibration.path)})
        models = tuple(model.model_copy(update={"folder": absolute(model.folder)}) for model in self.model)
        return self.model_copy(update={"data": data, "model": models, "calibration": calibration})
