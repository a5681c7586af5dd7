"""What a stage is: frozen settings, and the stage id that follows from them.

A stage id is a short SHA-256 of the canonical JSON of all that determines the stage's result: revisions of model and
data, settings, seed and protocol version. Where things lie (paths), where they run (hosts) and on how many workers
are left out: fields marked `identity=False`.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal

PROTOCOL_VERSION: Final = 4
"""Raised whenever the same settings would give another result, so that old rows are not taken for new ones."""

Applied = Literal["before", "after"]
Method = Literal["lora", "full", "none"]
AskedRealisation = Literal["auto", "simulated", "semi-structured-kernel"]


def _location() -> Any:
    return field(default="", metadata={"identity": False})


def _axis() -> Any:
    """A setting that is part of the identity only where it is given: without it, ids are those of before it was."""
    return field(default=None, metadata={"identity": "if given"})


@dataclass(frozen=True)
class ModelRef:
    """A base model. `revision` pins its content; `location` is where it lies: folder, or id@commit of the hub."""

    kind: Literal["builtin", "folder", "hub"]
    name: str
    revision: str
    location: str = _location()
    trust_remote_code: bool = False
    family: str = _location()
    """transformers' name of its architecture (model_type), "" where it is not known before loading. Follows from the
    revision."""


@dataclass(frozen=True)
class DataRef:
    """A data set. `columns` maps our field names to the data's; `files` are (split, path) pairs, not identity.

    `revision` pins the content: recipe hash, content hash of the files, or hub revision. A single file has the
    split "all" and is divided by a hash of each record.
    """

    kind: Literal["builtin", "files", "hub"]
    name: str
    revision: str
    columns: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = field(default=(), metadata={"identity": False})


@dataclass(frozen=True)
class Calibration:
    """Examples whose activations a pruner looks at, drawn with the stage's seed.

    `data` holds plain texts, in its column `text`; None is the training split of the tasks, answers included.
    """

    examples: int = 128
    data: DataRef | None = None


@dataclass(frozen=True)
class Pruning:
    """What is removed, and when.

    `pattern` is "unstructured", "n:m" or, for kinds that remove heads, neurons or layers, "structured". `sparsity` is
    the share removed: of weights (1 - n/m for n:m), or of those structures.

    `overrides` are (glob over layer names, how much there) pairs, the first that matches counts; how much is a
    percentage such as "25%", an n:m such as "4:8", or "none". `calibration` is None for kinds that need none.
    `realisation` is what is asked for: "auto" takes sparse kernels where the device has them for this pattern.
    """

    kind: str = "none"
    sparsity: float = 0.0
    pattern: str = "unstructured"
    applied: Applied | None = None
    overrides: tuple[tuple[str, str], ...] = ()
    calibration: Calibration | None = None
    realisation: AskedRealisation = "auto"

    @property
    def label(self) -> str:
        """Short name in tables: none, magnitude-50%, wanda-2:4, heads-25%; * where overrides make it another."""
        if self.kind == "none":
            return "none"
        how_much = self.pattern if ":" in self.pattern else f"{100 * self.sparsity:g}%"
        return f"{self.kind}-{how_much}" + "*" * bool(self.overrides)


DENSE: Final = Pruning()


@dataclass(frozen=True)
class FinetuneSpec:
    """One fine-tuning: base model in, adapter or weights out.

    `steps` (optimizer steps), where given, overrides `epochs`. `batch_size` is the global batch, over all workers.
    `gpu_kind` is part of a product name, where the same is asked for on several kinds of GPU.
    """

    model: ModelRef
    data: DataRef
    tasks: tuple[str, ...]
    precision: str
    pruning: Pruning
    method: Method
    epochs: int
    steps: int | None
    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    sequence_length: int
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    zero_stage: int
    seed: int
    micro_batch_size: int | None = field(default=None, metadata={"identity": False})
    gpu_kind: str | None = _axis()
    kind: Literal["finetune"] = "finetune"

    @property
    def shares_weights(self) -> bool:
        """Whether its workers load weights that the first of them has left in a folder of theirs."""
        return self.pruning.applied == "before"

    @property
    def needs(self) -> tuple[str, ...]:
        """A fine-tuning starts from the base model alone."""
        return ()


@dataclass(frozen=True)
class InferenceSpec:
    """One measured inference: quality on the test split, joules per request.

    `finetuned` is the stage id of the fine-tuning it serves, or None for the base model. `pruning.applied == "after"`
    is carried out by this stage; "before" was carried out by the fine-tuning and is verified here. `gpu_kind` is as of
    a fine-tuning.
    """

    model: ModelRef
    data: DataRef
    tasks: tuple[str, ...]
    finetuned: str | None
    finetune_method: Method
    finetune_precision: str
    precision: str
    pruning: Pruning
    batch_size: int
    sequence_length: int
    max_new_tokens: int
    test_examples: int | None
    min_window_s: float
    repeats: int
    seed: int
    gpu_kind: str | None = _axis()
    kind: Literal["inference"] = "inference"

    @property
    def shares_weights(self) -> bool:
        """As of a fine-tuning."""
        return self.pruning.applied == "after" or self.finetune_method == "lora"

    @property
    def needs(self) -> tuple[str, ...]:
        """Stages whose artifacts this one starts from."""
        return () if self.finetuned is None else (self.finetuned,)


StageSpec = FinetuneSpec | InferenceSpec


def identity(value: Any) -> Any:
    """The part of a spec that determines its result, as plain JSON values."""
    if isinstance(value, tuple | list):
        return [identity(item) for item in value]
    if not is_dataclass(value):
        return value
    kind: Any = type(value)
    parts = ((name, getattr(value, name), if_given) for name, if_given in _parts(kind))
    return {name: identity(part) for name, part, if_given in parts if part is not None or not if_given}


@cache
def _parts(kind: Any) -> tuple[tuple[str, bool], ...]:
    """Fields that are part of the identity, and whether they are so only where they are given."""
    rules = ((part.name, part.metadata.get("identity", True)) for part in fields(kind))
    return tuple((name, rule == "if given") for name, rule in rules if rule)


def canonical_json(spec: StageSpec) -> str:
    """Canonical JSON of `identity(spec)`: sorted keys, no spaces, with the protocol version."""
    return json.dumps({"protocol": PROTOCOL_VERSION, **identity(spec)}, sort_keys=True, separators=(",", ":"))


def stage_id(spec: StageSpec) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the spec's canonical JSON."""
    return short_hash(canonical_json(spec))


def short_hash(text: str | bytes) -> str:
    """First 12 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:12]
