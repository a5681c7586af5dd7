"""The stand-in as a fixture. A test module that wants it says `pytest_plugins = "tests.nvml.plugin"`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nvml.simulated import Simulated

SOURCES = sorted(Path(__file__).parent.glob("*.c"))


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the NVML stand-in wants Linux and a C compiler (cc)")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-Bsymbolic"]
    subprocess.run([compiler, *flags, "-o", library, *SOURCES, "-lm", "-pthread"], check=True)
    return library


@pytest.fixture
def gpus(nvml_library: Path, tmp_path: Path) -> Simulated:
    return Simulated(nvml_library, tmp_path)
