"""DeepSpeed's compiled operators, in spite of what a process that was killed while it compiled them has left behind.

PyTorch guards a compilation by a file that its process removes in the end, and all others wait for that. One that is
killed leaves the file, and then every worker on the machine waits for ever (torch.utils.file_baton).
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path


def compile_operators() -> None:
    """Have the operators that `deepspeed.init_distributed` loads compiled, and loaded into this process.

    One process at a time: the lock is the operating system's, and gone with whoever holds it.
    """
    from deepspeed.accelerator import get_accelerator
    from deepspeed.comm.torch import build_shm_op
    from filelock import FileLock
    from torch.utils.cpp_extension import _get_build_directory, get_default_build_root

    # One folder for each environment: in a shared one, each would compile again what another has left there.
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(get_default_build_root()) / f"environment-{environment}"))
    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None:  # on GPUs NCCL does what this one is for
        return
    folder = Path(_get_build_directory(builder.name, verbose=False))
    with FileLock(folder / "energyaware.lock"):
        remove_if_left(folder / "lock")
        build_shm_op()


def remove_if_left(baton: Path) -> None:
    """Remove a file by which a process said that it compiles, if that process is gone: one that lives has it open."""
    import psutil

    if not baton.exists():
        return
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(baton) in {file.path for file in process.open_files()}:
                return
    baton.unlink(missing_ok=True)
