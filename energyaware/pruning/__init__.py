"""Pruners by name. To add one: a file with a class, and an entry here."""

from typing import Final

from energyaware.pruning.base import Pruner
from energyaware.pruning.magnitude import Magnitude
from energyaware.pruning.none import KeepAll
from energyaware.pruning.random import Random
from energyaware.pruning.sparsegpt import SparseGPT
from energyaware.pruning.structured import Heads, Layers, Neurons
from energyaware.pruning.wanda import Wanda

PRUNERS: Final[dict[str, Pruner]] = {
    "none": KeepAll(),
    "random": Random(),
    "magnitude": Magnitude(),
    "wanda": Wanda(),
    "sparsegpt": SparseGPT(),
    "heads": Heads(),
    "neurons": Neurons(),
    "layers": Layers(),
}

__all__ = ["PRUNERS", "Pruner"]
