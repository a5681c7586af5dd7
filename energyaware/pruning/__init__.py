"""Pruners by name. To add one: a file with a class, and an entry here."""

from typing import Final

from energyaware.pruning.base import Pruner
from energyaware.pruning.magnitude import Magnitude
from energyaware.pruning.none import KeepAll

PRUNERS: Final[dict[str, Pruner]] = {
    "none": KeepAll(),
    "magnitude": Magnitude(),
}

__all__ = ["PRUNERS", "Pruner"]
