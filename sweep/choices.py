"""The axes of a sweep file: precisions and prunings, in short forms or as mappings whose lists are axes too."""

import re
from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from energyaware.errors import InputError
from energyaware.precision import PRECISIONS
from energyaware.pruning import PRUNERS
from energyaware.pruning.overrides import pattern_of_amount
from energyaware.spec import DENSE, Applied, AskedRealisation, Calibration, Pruning


def listed(value: Any) -> Any:
    """One value where a list is allowed."""
    return value if isinstance(value, list | tuple) else [value]


def one_of(kind: str, allowed: dict[str, Any]) -> BeforeValidator:
    """A name of a registry."""
    return BeforeValidator(lambda value: _known(kind, allowed, value))


def like(pattern: str, words: str) -> AfterValidator:
    """A text of this form, which the words tell."""

    def checked(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is not allowed: {words}")
        return value

    return AfterValidator(checked)


def _known(kind: str, allowed: dict[str, Any], value: Any) -> Any:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{value!r} is no {kind}; allowed: {', '.join(allowed)}")
    return value


class Part(BaseModel):
    """A frozen part of the sweep tree that refuses unknown keys; its fields' docstrings are their documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    short: ClassVar[str] = ""
    """What may stand in place of the mapping, in words."""


PrecisionName = Annotated[str, one_of("precision", PRECISIONS)]
AtLeastOne = Field(min_length=1)
AnyPattern = Annotated[str, like(r"[1-9][0-9]*:[1-9][0-9]*", "a share such as 50%, or n:m such as 2:4")]


class PrecisionChoice(Part):
    """A number format for fine-tuning and inference, such as `nf4`, or one for each: {finetune: bf16, inference: nf4}.

    Each of the two may be a list: every one with every other.
    """

    finetune: Annotated[tuple[PrecisionName, ...], BeforeValidator(listed), AtLeastOne]
    """In which the model is fine-tuned."""
    inference: Annotated[tuple[PrecisionName, ...], BeforeValidator(listed), AtLeastOne]
    """In which it is served and measured."""
    short: ClassVar = f"one of {', '.join(PRECISIONS)}"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return dict.fromkeys(("finetune", "inference"), _known("precision", PRECISIONS, value))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """(fine-tuning, inference) precisions."""
        return product(self.finetune, self.inference)


class PruningChoice(Part):
    """What is removed, and when: `magnitude-50%`, `wanda-2:4`, `heads-25%`, or a mapping whose lists are axes."""

    kind: Annotated[tuple[Annotated[str, one_of("pruning", PRUNERS)], ...], BeforeValidator(listed), AtLeastOne]
    """Criterion."""
    sparsity: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], BeforeValidator(listed)] = ()
    """Share removed: of the weights of each matrix, or of heads, neurons or layers."""
    pattern: Annotated[tuple[AnyPattern, ...], BeforeValidator(listed)] = ()
    """n:m, n of every m weights along the input dimension stay; beside sparsity it is one more level."""
    applied: Annotated[tuple[Applied, ...], BeforeValidator(listed), AtLeastOne] = ("after",)
    """Before or after fine-tuning."""
    layers: dict[str, str] = {}
    """What is different in single layers: names with * and ? to 25%, 4:8 or none; the first that matches counts."""
    realisation: AskedRealisation = "auto"
    """auto takes sparse kernels where the device has them for the pattern (2:4 in 16 bits on CUDA)."""
    short: ClassVar = "none or a text such as magnitude-50% or wanda-2:4"

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
    def _fits_together(self) -> Self:
        for kind in self.kind:
            self._check(kind)
        for text in (*self.pattern, *self.layers.values()):
            _check_level(text)
        if self.realisation == "semi-structured-kernel" and (self.sparsity or set(self.pattern) != {"2:4"}):
            raise ValueError("realisation semi-structured-kernel is for pattern 2:4 alone")
        return self

    def _check(self, kind: str) -> None:
        given = bool(self.sparsity) + bool(self.pattern)
        if kind == "none":
            if given or self.layers or len(self.kind) > 1:
                raise ValueError("none takes neither sparsity, pattern nor layers, and stands alone")
        elif PRUNERS[kind].structured:
            if not self.sparsity or self.pattern or self.layers or self.realisation != "auto":
                raise ValueError(f"{kind} removes whole structures: it wants sparsity (such as 0.25) and nothing else")
        elif not given:
            raise ValueError(f"{kind} wants sparsity (such as 0.5) or pattern (such as 2:4)")

    def prunings(self, calibration: Calibration) -> Iterator[Pruning]:
        """As settings of stages, one for each kind, level and time."""
        if self.kind == ("none",):
            yield DENSE
            return
        for kind, (pattern, sparsity), applied in product(self.kind, self._levels(), self.applied):
            pruner = PRUNERS[kind]
            yield Pruning(
                kind=kind,
                sparsity=sparsity,
                pattern="structured" if pruner.structured else pattern,
                applied=applied,
                overrides=tuple(self.layers.items()),
                calibration=calibration if pruner.calibrates else None,
                realisation=self.realisation,
            )

    def _levels(self) -> Iterator[tuple[str, float]]:
        """(pattern, sparsity) pairs."""
        for sparsity in self.sparsity:
            yield "unstructured", sparsity
        for pattern in self.pattern:
            n, m = map(int, pattern.split(":"))
            yield pattern, 1 - n / m


def _check_level(text: str) -> None:
    """How much is removed, as text: none, 25% or 4:8.

    Raises:
        ValueError: it is none of the three.
    """
    try:
        pattern_of_amount(text)
    except InputError as problem:
        raise ValueError(problem.problem) from None
