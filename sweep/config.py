"""The sweep file as a frozen tree. It refuses unknown keys; validation touches neither network nor environment."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from energyaware.precision import PRECISIONS
from energyaware.pruning import PRUNERS
from energyaware.spec import DENSE, Applied, Method, Pruning
from energyaware.tasks import TASKS

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


def _listed(value: Any) -> Any:
    """One value where a list is allowed."""
    return value if isinstance(value, list | tuple) else [value]


def _one_of(kind: str, allowed: dict[str, Any]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"{value!r} is no {kind}; allowed: {', '.join(allowed)}")
        return value

    return BeforeValidator(check)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Model(_Part):
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


class Data(_Part):
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
    columns: dict[str, str] = {}
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


class PruningChoice(_Part):
    """Which weights are removed, and when: `none`, `magnitude-50%`, `magnitude-2:4`, or a mapping."""

    kind: Annotated[str, _one_of("pruning", PRUNERS)]
    """Criterion."""
    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of weights removed anywhere in a matrix."""
    pattern: Annotated[str, Field(pattern=r"^[1-9]\d*:[1-9]\d*$")] | None = None
    """n:m, n of every m weights along the input dimension stay."""
    applied: Applied = "after"
    """Before or after fine-tuning."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        kind, _, how = value.partition("-")
        if how.endswith("%"):
            try:
                return {"kind": kind, "sparsity": float(how[:-1]) / 100}
            except ValueError:
                raise ValueError(f"{value!r}: {how!r} is no percentage") from None
        return {"kind": kind} | ({"pattern": how} if how else {})

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = (self.sparsity is not None) + (self.pattern is not None)
        if self.kind == "none" and given:
            raise ValueError("none takes neither sparsity nor pattern")
        if self.kind != "none" and given != 1:
            raise ValueError(f"{self.kind} wants exactly one of sparsity (such as 0.5), pattern (such as 2:4)")
        if self.pattern is not None:
            n, m = map(int, self.pattern.split(":"))
            if n >= m:
                raise ValueError(f"pattern {self.pattern}: n must be smaller than m")
        return self

    def pruning(self) -> Pruning:
        """As a stage's setting."""
        if self.kind == "none":
            return DENSE
        if self.pattern is None:
            return Pruning(self.kind, self.sparsity or 0.0, "unstructured", self.applied)
        n, m = map(int, self.pattern.split(":"))
        return Pruning(self.kind, 1 - n / m, self.pattern, self.applied)


class Lora(_Part):
    """Low-rank adapters, on all linear layers of the model's body."""

    rank: Count = 16
    """Rank of the change of each weight."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The change is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the adapter."""


class Finetune(_Part):
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


class Inference(_Part):
    """How each configuration is evaluated and measured."""

    batch_size: Count = 16
    """Requests answered together by one worker."""
    max_new_tokens: Count = 64
    """Tokens generated per response; measured windows always generate all of them."""
    test_examples: Count | None = None
    """At most so many examples of the test split."""
    min_window_s: Annotated[float, Field(gt=0)] = 5.0
    """Measured windows repeat the same batch until they are at least so long."""


class Resources(_Part):
    """What one trial runs on."""

    workers: Count = 1
    """Worker processes of a trial, one per GPU."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    """CPU cores a worker holds."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs a worker holds, 0 or 1. Default: 1 on cuda, 0 on cpu, where it could be held without computing on it."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """What workers compute on; auto takes cuda where this machine has an NVIDIA driver."""


class Energy(_Part):
    """Where the machines stand, for carbon."""

    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    """ISO 3166-1 alpha-3 code, such as DEU. Without it no carbon is given."""
    region: str | None = None
    """Province or state, where CodeCarbon has data for it."""
    pue: Annotated[float, Field(ge=1)] = 1.0
    """Power usage effectiveness of the data centre, applied to carbon. Joules stay those of the machines."""


class RankingChoice(_Part):
    """What `energyaware rank` uses unless told otherwise."""

    weight: Share = 0.5
    """w of R = w * phi + (1 - w) * rho: 1 asks for energy alone, 0 for quality alone."""
    requests: Count = 10_000
    """Requests over which the joules of a fine-tuning are spread."""
    phi: Literal["minmax", "ratio"] = "minmax"
    """Normalisation of energy."""


class Sweep(_Part):
    """What one YAML file asks for."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = ""
    """Default: the file's name."""
    model: Annotated[tuple[Model, ...], BeforeValidator(_listed), Field(min_length=1)] = (Model(builtin=True),)
    """Base model, or a list of them."""
    tasks: Annotated[
        tuple[Annotated[str, _one_of("task", TASKS)], ...], BeforeValidator(_listed), Field(min_length=1)
    ] = tuple(TASKS)
    """Tasks that each configuration is trained on and judged by."""
    data: Data = Data(builtin=True)
    precisions: Annotated[
        tuple[Annotated[str, _one_of("precision", PRECISIONS)], ...], BeforeValidator(_listed), Field(min_length=1)
    ]
    """Number formats, in fine-tuning and in inference."""
    prunings: Annotated[tuple[PruningChoice, ...], BeforeValidator(_listed), Field(min_length=1)] = (
        PruningChoice(kind="none"),
    )
    """Which weights are removed, and when."""
    finetune: Finetune = Finetune()
    inference: Inference = Inference()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed), Field(min_length=1)] = (0,)
    """One trial per configuration and seed."""
    resources: Resources = Resources()
    energy: Energy = Energy()
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
        models = tuple(model.model_copy(update={"folder": absolute(model.folder)}) for model in self.model)
        return self.model_copy(update={"data": data, "model": models})
