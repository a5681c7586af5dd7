"""What was pruned, kept beside the weights, so that every later stage can prove that it still holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.masks import Masks, achieved_sparsity, load_masks, pruned_layers, save_masks, target_sparsity
from energyaware.pruning.structured import verify_structures
from energyaware.rows import Row

if TYPE_CHECKING:
    from energyaware.spec import Pruning

FILE_NAME: Final = "pruning.json"


@dataclass(frozen=True)
class PruningRecord:
    """Masks, or structures removed as (how many, of how many), and what the pruning was calibrated on."""

    masks: Masks = field(default_factory=dict)
    removed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    calibration: Row = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the mask file and pruning.json; nothing where nothing was pruned."""
        save_masks(self.masks, folder)
        if self.masks or self.removed:
            content = {"removed": dict(self.removed), "calibration": self.calibration}
            (folder / FILE_NAME).write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, folder: Path) -> PruningRecord:
        """What `save` left in the folder."""
        path = folder / FILE_NAME
        content = json.loads(path.read_text()) if path.exists() else {"removed": {}, "calibration": {}}
        removed = {name: (gone, of) for name, (gone, of) in content["removed"].items()}
        return cls(load_masks(folder), removed, content["calibration"])

    def verify(self, model: Any) -> float:
        """Share removed, of the pruned weights or of the structures, found in the model itself.

        Args:
            model: without an adapter, its weights whole.

        Raises:
            AuditError: a masked weight is not zero, or the model has other structures than the record says.
        """
        if self.removed:
            verify_structures(model, self.removed)
            return _share(self.removed)
        return achieved_sparsity(model, self.masks)

    def digest(self, trained: Mapping[str, Sequence[int]]) -> str:
        """Short hash of masks and removed structures, together with names and shapes of what is trained under them."""
        import numpy as np

        content = hashlib.sha256(json.dumps([dict(self.removed), dict(trained)], sort_keys=True).encode())
        for name in sorted(self.masks):
            content.update(name.encode() + np.packbits(self.masks[name].cpu().numpy()).tobytes())
        return content.hexdigest()[:12]

    def columns(self, pruning: Pruning) -> Row:
        """As columns of the stage's row; `sparsity_achieved` is `verify`'s."""
        return {
            "pruned_layers": pruned_layers(self.masks),
            "sparsity_target": self._target(pruning),
            "structures": json.dumps(dict(self.removed)) if self.removed else None,
            "realisation": "physical" if self.removed else "simulated" if self.masks else "none",
            **self.calibration,
        }

    def _target(self, pruning: Pruning) -> float:
        return pruning.sparsity if self.removed else target_sparsity(self.masks, pruning)


def _share(removed: Mapping[str, tuple[int, int]]) -> float:
    return sum(gone for gone, _ in removed.values()) / sum(of for _, of in removed.values())


NOT_PRUNED: Final = PruningRecord()
