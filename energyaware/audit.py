"""What was really loaded: which layers hold which format, in how many bytes.

A stage whose precision is not what its name says fails here, with the names of the layers.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from energyaware.errors import AuditError, few
from energyaware.layers import base_modules, eligible_layers, is_quantised, storage_format, unseen_matrices
from energyaware.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from energyaware.precision import Precision

EXPECTED_SHARE: Final = 0.9
"""Below this share of the body's weights quantised, the stage's name would not say what was measured."""


@dataclass(frozen=True)
class Audit:
    """What was loaded, adapters left out.

    Attributes:
        storage, compute: formats of the precision, which the layers were found to have.
        eligible_layers: linear layers of the body.
        quantised_layers: those that hold quantised weights.
        quantised_share: their share of the body's weights, those counted that are in no linear layer; in [0, 1].
        skipped_layers: where the precision quantises, the layers and matrices left in its format of arithmetic.
        parameters: numbers that the model consists of, however many of them are packed into one byte.
        weight_bytes: of all parameters, with the constants that quantised weights are scaled by.
        bytes_by_dtype: those bytes by format: float32, bfloat16, float16, int8, nf4, fp4, float8_e4m3fn, uint8.
    """

    storage: str
    compute: str
    eligible_layers: int
    quantised_layers: int
    quantised_share: float
    skipped_layers: tuple[str, ...]
    parameters: int
    weight_bytes: int
    bytes_by_dtype: Mapping[str, int]

    @property
    def columns(self) -> Row:
        """As columns of the stage's row."""
        return {
            **vars(self),
            "skipped_layers": list(self.skipped_layers),
            "bytes_by_dtype": json.dumps(self.bytes_by_dtype),
        }


def audit(model: Any, precision: Precision) -> Audit:
    """What the loaded model consists of.

    Raises:
        AuditError: a layer holds another format than the precision says, or less than EXPECTED_SHARE of the weights
            of a quantising precision is quantised; the message names the layers and matrices.
    """
    layers, unseen = eligible_layers(model), unseen_matrices(model)
    formats = {name: storage_format(layer) for name, layer in layers.items()}
    formats |= {name: _dtype(matrix) for name, matrix in unseen.items()}
    sizes = {name: _logical_size(layer, layer.weight) for name, layer in layers.items()}
    sizes |= {name: matrix.numel() for name, matrix in unseen.items()}
    quantised = [name for name, layer in layers.items() if is_quantised(layer)]
    skipped = [name for name in formats if name not in set(quantised)] if precision.quantises else []

    share = sum(sizes[name] for name in quantised) / (sum(sizes.values()) or 1)
    if precision.quantises and share < EXPECTED_SHARE:
        raise AuditError(
            f"{precision.name}: {len(skipped)} of {len(formats)} linear layers were not quantised: {few(skipped)}"
        )
    expected = {precision.storage, precision.compute} if precision.quantises else {precision.storage}
    if wrong := [f"{name} ({found})" for name, found in formats.items() if found not in expected]:
        raise AuditError(f"{precision.name} stores weights as {precision.storage}, but not these: {few(wrong)}")

    by_format: Counter[str] = Counter()
    for found, size_bytes in _stored(model):
        by_format[found] += size_bytes
    return Audit(
        storage=precision.storage,
        compute=precision.compute,
        eligible_layers=len(layers),
        quantised_layers=len(quantised),
        quantised_share=share,
        skipped_layers=tuple(skipped),
        parameters=sum(_logical_size(module, parameter) for module, parameter in _parameters(model)),
        weight_bytes=by_format.total(),
        bytes_by_dtype=dict(sorted(by_format.items())),
    )


def _parameters(model: Any) -> Iterator[tuple[Any, Tensor]]:
    """Each parameter once, however many modules share it, with a module that holds it."""
    seen: set[int] = set()
    for _, module in base_modules(model):
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, parameter


def _logical_size(module: Any, parameter: Tensor) -> int:
    """Numbers that a parameter stands for; packed and padded weights have another number of elements."""
    if is_quantised(module) and parameter is module.weight:
        size: int = module.in_features * module.out_features
        return size
    return parameter.numel()


def _stored(model: Any) -> Iterator[tuple[str, int]]:
    """Formats and bytes of parameters, and of the constants of quantised layers."""
    constants: dict[int, Tensor] = {}
    for module, parameter in _parameters(model):
        if is_quantised(module) and parameter is module.weight:
            yield storage_format(module), parameter.nbytes
            constants |= {tensor.data_ptr(): tensor for tensor in _constants(module)}  # code tables may be shared
        else:
            yield _dtype(parameter), parameter.nbytes
    for tensor in constants.values():
        yield _dtype(tensor), tensor.nbytes


def _constants(layer: Any) -> list[Tensor]:
    """What a quantised weight is dequantised with: scales of rows or blocks, and tables of 4-bit codes."""
    kind = type(layer).__name__
    if kind == "Float8Linear":
        return [layer.scale]
    if kind == "Linear8bitLt":
        return [layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB]
    state = layer.weight.quant_state
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    return [state.absmax, state.code, *nested]


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
