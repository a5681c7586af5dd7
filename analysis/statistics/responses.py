"""The quantities whose drivers are looked for.

Joules and seconds are analysed as logarithms: what a setting does to them multiplies (half the bytes per weight is
half the traffic, whatever the model), and so does their scatter. An effect is then a ratio. Quality is analysed as it
is: R is linear in rho, and a logit has no value at 0 and 1, which small test splits do reach. An effect is then a
difference; that its scatter shrinks towards 0 and 1 is one reason for the robust p-values beside the others.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

Scale = Literal["ratio", "difference"]


@dataclass(frozen=True)
class Response:
    """One quantity.

    Attributes:
        name: as it is asked for.
        noun: what it is, with its unit.
        kind: of the stages that have it.
        scale: what an effect is: a ratio (of a quantity analysed as a logarithm) or a difference.
        of_kernels: whether it shows what kernels ran. A simulated pruning runs on dense ones, and pays for its masks
            at most: what it takes says nothing about pruning, and is left out.
        of_meters: whether a meter read it, so that measured and estimated values are kept apart.
    """

    name: str
    noun: str
    kind: Literal["inference", "finetune"]
    scale: Scale
    of_kernels: bool = True
    of_meters: bool = False

    def analysed(self, value: float) -> float:
        """The value as the model of variance sees it."""
        return math.log(value) if self.scale == "ratio" else value

    def told(self, effect: float) -> float:
        """An effect on what is analysed, as an effect on the quantity; infinite where a float cannot hold it."""
        if self.scale == "difference":
            return effect
        try:
            return math.exp(effect)
        except OverflowError:
            return math.inf


RESPONSES: Final = {
    response.name: response
    for response in (
        Response("energy", "joules per request", "inference", "ratio", of_meters=True),
        Response("tuning", "joules of fine-tuning", "finetune", "ratio", of_meters=True),
        Response("quality", "rho", "inference", "difference", of_kernels=False),
        Response("seconds", "seconds per request", "inference", "ratio"),
    )
}
