"""What can be done with what: the one place that the plan, the workers and the documentation's table ask.

Every answer is None, or the reason in one line. Nothing here loads a library.
"""

from energyaware.families import FAMILIES
from energyaware.precision import PRECISIONS, Hardware
from energyaware.pruning import PRUNERS
from energyaware.realise import kernel_refusal
from energyaware.spec import FinetuneSpec, StageSpec


def refusal(spec: StageSpec, hardware: Hardware) -> str | None:
    """Why a stage cannot run on that hardware."""
    precision = PRECISIONS[spec.precision]
    if isinstance(spec, FinetuneSpec):
        here = precision.refusal(hardware, spec.method) or _partitioned(spec, hardware)
    else:
        here = precision.refusal(hardware, "none") or kernel_refusal(spec.pruning, spec.precision, hardware)
    return here or family_refusal(spec.model.family, spec.precision, spec.pruning.kind)


def family_refusal(family: str, precision: str, pruning: str) -> str | None:
    """Why models of a family cannot have a precision or a pruning.

    Of a family that is not known only what its structure is needed for is refused: the rest is audited after loading.
    """
    if known := FAMILIES.get(family):
        return known.cannot.get(precision) or known.cannot.get(pruning)
    if family and PRUNERS[pruning].structured:
        return f"{pruning} cannot be removed from {family} models; known are {', '.join(FAMILIES)}"
    return None


def _partitioned(spec: FinetuneSpec, hardware: Hardware) -> str | None:
    if spec.precision == "int8" and spec.zero_stage == 3 and hardware.device == "cuda":  # noqa: PLR2004
        return "int8 weights under ZeRO 3 fail on GPUs (bitsandbytes issue 1451): use finetune.zero_stage 2"
    return None
