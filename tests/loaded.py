"""What a program loads."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def loaded_by(code: str, *arguments: object, cwd: Path = ROOT) -> set[str]:
    """Names of the modules that an interpreter of its own has loaded when the code has run."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint()\nprint(*sys.modules)", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines()[-1].split())
