"""What one rank keeps in a checkpoint: DeepSpeed's state and the random generators', loaded as data alone.

Loads torch and DeepSpeed: imported when a fine-tuning runs, not before.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

ALLOWED: Final = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
"""Classes beside tensors and plain values that DeepSpeed's state is made of. A file that names any other is refused."""

_SYSTEM_CALL: Final = re.compile(r"unable to (open|stat|mmap) .*\((?P<code>\d+)\)$")
"""What torch says, in an error of another class, where the system did not let it map a file."""


def prepare(engine: Any) -> None:
    """Let a DeepSpeed engine save and load by way of this module.

    Its own way unpickles whatever a file asks for, and leaves scripts beside the checkpoint that do so too.
    """
    engine.checkpoint_engine = _Hands()
    engine._copy_recovery_script = _leave_no_script


def save(engine: Any, folder: Path, rank: int, *, trained_only: bool) -> dict[str, int]:
    """Write this rank's part of a checkpoint to a folder that is there. Every rank must call it.

    DeepSpeed's ranks wait for each other while they gather the state; they write it afterwards, so that one that
    cannot leaves none waiting.

    Args:
        engine: DeepSpeed's, prepared.
        folder: of the checkpoint.
        rank: of this process.
        trained_only: leave frozen weights out.

    Returns:
        Sizes in bytes of the files written, by name.

    Raises:
        OSError: a file cannot be written.
    """
    engine.save_checkpoint(
        str(folder.parent), tag=folder.name, save_latest=False, exclude_frozen_parameters=trained_only
    )
    states = engine.checkpoint_engine.given_up()
    for path, state in states.items():
        _write(path, state)
    generators = _generators_of(folder, rank)
    _write_text(generators, json.dumps(random_states()))
    return {path.name: path.stat().st_size for path in (*states, generators)}


def problem_of(folder: Path, files: Mapping[str, int]) -> str | None:
    """Why files of a checkpoint cannot be loaded, or None; their tensors are not read for that.

    Raises:
        OSError, MemoryError: they may be whole, and cannot be read now.
    """
    for name, size in files.items():
        path = folder / name
        if not path.exists():
            return f"{name} is not there"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        try:
            if path.suffix == ".pt":
                load_data(path, mmap=True)
            else:
                json.loads(path.read_text())
        except (OSError, MemoryError):
            raise
        except Exception as error:  # whatever a file of somebody else's makes of its reader
            said = next(iter(str(error).splitlines()), type(error).__name__)
            if system := _SYSTEM_CALL.match(said):
                raise OSError(int(system["code"]), said) from None
            return f"{name} is not what was written: {said}"
    return None


def load(engine: Any, folder: Path, rank: int, *, trained_only: bool) -> None:
    """Bring engine and random generators to where `save` found them. Every rank must call it.

    Args:
        engine: DeepSpeed's, prepared and new.
        folder: of the checkpoint, every file of which was looked through by `problem_of`.
        rank: of this process.
        trained_only: as it was saved.
    """
    engine.load_checkpoint(str(folder.parent), tag=folder.name, load_module_strict=not trained_only)
    restore_random_states(json.loads(_generators_of(folder, rank).read_text()))


class _Hands(CheckpointEngine):  # type: ignore[misc]
    """Takes from DeepSpeed what it saves, and gives it what is loaded as data alone."""

    def __init__(self) -> None:
        super().__init__()
        self._states: dict[Path, Any] = {}

    def given_up(self) -> dict[Path, Any]:
        """What was taken since the last call, by the path it is for."""
        states, self._states = self._states, {}
        return states

    def create(self, info: Any) -> None:
        """Nothing: DeepSpeed says that it begins."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing: the folder is there."""

    def save(self, state_dict: Any, path: str) -> None:
        self._states[Path(path)] = state_dict

    def load(self, path: str, map_location: Any = None) -> Any:
        return load_data(Path(path))

    def commit(self, info: Any) -> bool:
        """Nothing: a checkpoint counts when all of its ranks have written."""
        return True


def _leave_no_script(folder: str) -> None:
    """In place of DeepSpeed's copy of a script that turns checkpoints into weights: those of a trial are not for it."""


def load_data(path: Path, *, mmap: bool = False) -> Any:
    """Content of a file that `torch.save` wrote, if it holds tensors, plain values and what is `ALLOWED`.

    Args:
        path: of the file.
        mmap: read tensors only when they are looked at.

    Raises:
        pickle.UnpicklingError: it names anything else; nothing of it was called.
    """
    with torch.serialization.safe_globals(ALLOWED):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _write(path: Path, state: Any) -> None:
    """To the disk, not only to the system's memory: COMMIT is there to be believed."""
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what torch makes of a file that cannot be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _generators_of(folder: Path, rank: int) -> Path:
    return folder / f"generators-{rank}.json"


def random_states() -> dict[str, Any]:
    """States of all generators that a training can draw from, as JSON."""
    shared = np.random.get_state(legacy=False)  # noqa: NPY002 - the one that libraries share
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": torch.cuda.get_rng_state().tolist() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
        "numpy": shared | {"state": {name: np.asarray(part).tolist() for name, part in shared["state"].items()}},
        "random": random.getstate(),
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Let all generators go on from there."""
    version, numbers, gauss = states["random"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(states["cuda"], dtype=torch.uint8))
