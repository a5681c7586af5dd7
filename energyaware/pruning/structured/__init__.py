"""Structured pruning: heads, neurons or layers go, and the model is physically smaller."""

from energyaware.pruning.structured.heads import Heads
from energyaware.pruning.structured.inventory import structures, verify_structures
from energyaware.pruning.structured.layers import Layers
from energyaware.pruning.structured.neurons import Neurons

__all__ = ["Heads", "Layers", "Neurons", "structures", "verify_structures"]
