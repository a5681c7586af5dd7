"""From zeros in weights to work that is not done: 2:4 patterns on the sparse tensor cores of NVIDIA GPUs.

torch's semi-structured tensors (Mishra et al., 2021, arXiv 2104.08378) keep half the weights and where they stood.
Zeros that no kernel skips cost what weights cost: such a pruning is simulated, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from energyaware.errors import AuditError
from energyaware.layers import is_quantised, is_transposed, layer_named
from energyaware.precision import PRECISIONS
from energyaware.rows import Row

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.masks import Masks
    from energyaware.precision import Hardware
    from energyaware.spec import Pruning

Realisation = Literal["none", "simulated", "semi-structured-kernel", "physical"]

KERNEL_PATTERN: Final = "2:4"
KERNEL_FORMATS: Final = ("bfloat16", "float16")
SHAPE_MULTIPLES: Final = {"cusparselt": (16, 16), "cutlass": (32, 64)}
"""By torch's backend: what out_features and in_features of 16-bit weights must be multiples of (torch 2.11 to 2.13)."""
LEAST_CAPABILITY: Final = (8, 0)
"""Ampere: the first GPUs with sparse tensor cores."""
TOLERANCE: Final = 0.02
"""Relative difference to the dense product up to which a kernel is right: 16-bit sums in another order."""


@dataclass(frozen=True)
class Realised:
    """What became of a pruning.

    Attributes:
        realisation: semi-structured-kernel as soon as one layer is on sparse kernels.
        realised_layers: layers on sparse kernels; None where structures were removed, which is no matter of layers.
        unrealised: "layer: reason" of pruned layers on dense kernels, or one "all layers: reason".
        realised_share: share of the pruned layers' weights that is in realised layers; None where nothing is pruned.
    """

    realisation: Realisation
    realised_layers: int | None = 0
    unrealised: tuple[str, ...] = ()
    realised_share: float | None = 0.0

    @property
    def columns(self) -> Row:
        """As columns of the stage's row."""
        return {
            "realisation": self.realisation,
            "realised_layers": self.realised_layers,
            "realised_share": self.realised_share,
            "unrealised_layers": list(self.unrealised),
        }


def realise(model: Any, masks: Masks, pruning: Pruning) -> Realised:
    """Put pruned layers on sparse kernels where the device they are on has them, in place and layer by layer.

    Args:
        model: for evaluation alone: converted layers do not train, and are not saved.
        masks: of the pruned layers, whose weights are zero where they say so; empty for structured prunings.
        pruning: what was asked for.

    Raises:
        AuditError: kernels were demanded and not one layer could be converted, or a kernel computed something else
            than the dense layer.
    """
    if pruning.pattern == "structured":
        return Realised("physical", None, (), 1.0)
    pruned = {name: mask for name, mask in masks.items() if not bool(mask.all())}
    if not pruned:
        return Realised("none", realised_share=None)
    if pruning.realisation == "simulated":
        return Realised("simulated", unrealised=("all layers: simulated was asked for",))

    reasons = {name: _convert(name, layer_named(model, name)) for name in pruned}
    done = [name for name, reason in reasons.items() if reason is None]
    unrealised = tuple(f"{name}: {reason}" for name, reason in reasons.items() if reason is not None)
    if not done and len(set(reasons.values())) == 1:
        unrealised = (f"all layers: {next(iter(reasons.values()))}",)
    if not done and pruning.realisation == "semi-structured-kernel":
        raise AuditError(f"{pruning.label}: no layer could be put on sparse kernels: {unrealised[0]}")
    share = sum(pruned[name].numel() for name in done) / sum(mask.numel() for mask in pruned.values())
    return Realised("semi-structured-kernel" if done else "simulated", len(done), unrealised, share)


def kernel_refusal(pruning: Pruning, precision: str, hardware: Hardware) -> str | None:
    """Why sparse kernels that a pruning demands cannot be had, in one line; None if they can, or were not demanded."""
    if pruning.realisation != "semi-structured-kernel" or pruning.kind == "none":
        return None
    patterns = {pruning.pattern, *(how_much for _, how_much in pruning.overrides)}
    if KERNEL_PATTERN not in patterns:
        return f"{pruning.label} has no sparse kernel, only the pattern {KERNEL_PATTERN} has: use realisation auto"
    if PRECISIONS[precision].storage not in KERNEL_FORMATS:
        return f"sparse kernels take 16-bit weights, not {precision}: use bf16 or fp16, or realisation auto"
    if hardware.device != "cuda":
        return "sparse kernels need an NVIDIA GPU: use realisation auto"
    if hardware.capability and hardware.capability < LEAST_CAPABILITY:
        return "sparse kernels need compute capability 8.0: use realisation auto"
    return None


def obstacle(layer: Any, backend: Literal["cusparselt", "cutlass"]) -> str | None:
    """Why a layer cannot be on sparse kernels wherever they run, or None."""
    if is_quantised(layer):
        return "its weights are quantised"
    if is_transposed(layer):
        return "it stores its weight as (in, out)"
    weight: Tensor = layer.weight.data
    if str(weight.dtype).removeprefix("torch.") not in KERNEL_FORMATS:
        return f"its weights are {str(weight.dtype).removeprefix('torch.')}, not 16-bit"
    if any(size % multiple for size, multiple in zip(weight.shape, SHAPE_MULTIPLES[backend], strict=True)):
        rows, columns = SHAPE_MULTIPLES[backend]
        return f"{tuple(weight.shape)} is not a multiple of {backend}'s ({rows}, {columns})"
    if bool((weight.view(len(weight), -1, 4).count_nonzero(-1) > 2).any()):  # noqa: PLR2004
        return "its weights are not 2:4"
    return None


def _convert(name: str, layer: Any) -> str | None:
    """Put one layer on sparse kernels and check that it computes the same; or say why it stays dense."""
    import warnings

    import torch

    backend: Literal["cusparselt", "cutlass"] = "cusparselt" if torch.backends.cusparselt.is_available() else "cutlass"
    if reason := obstacle(layer, backend):
        return reason
    if layer.weight.device.type != "cuda":
        return "no sparse kernels on CPUs"
    # to_sparse_semi_structured always takes cuSPARSELt, also where it is not there
    compressed = {
        "cusparselt": torch.sparse.SparseSemiStructuredTensorCUSPARSELT,
        "cutlass": torch.sparse.SparseSemiStructuredTensorCUTLASS,
    }[backend]
    dense = layer.weight
    generator = torch.Generator(dense.device).manual_seed(0)
    probe = torch.randn(32, dense.shape[1], device=dense.device, dtype=dense.dtype, generator=generator)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
        expected = layer(probe)
        try:
            sparse = compressed.from_dense(dense.data.contiguous())
            layer.weight = torch.nn.Parameter(sparse, requires_grad=False)
            found = layer(probe)
        except (RuntimeError, NotImplementedError) as error:
            layer.weight = dense
            return str(error).splitlines()[0]
    if not (found - expected).norm() <= TOLERANCE * expected.norm():
        raise AuditError(f"the sparse kernel of layer {name} computes something else than the dense layer")
    return None
