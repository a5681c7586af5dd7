"""A finished sweep whose files can be merged, and what a reader sees of it."""

from pathlib import Path

from analysis import load
from energyaware.rows import COMPACTED
from tests.analysis.builders import Lab, write


def allowed() -> None:
    """Nobody else writes."""


def sweep(folder: Path, stages: int = 6) -> Lab:
    """A finished sweep with one interrupted attempt, written file by file."""
    lab = Lab(folder)
    lab.finetune(energy_j=200.0, attempt=2, carried_attempts=1)
    lab.attempt("ft", "interrupted", energy_j=150.0, energy_carried_j=100.0)
    lab.attempt("ft", "finished", attempt=2, energy_j=100.0)
    lab.energy("ft", {"window": "train", "energy_j": 100.0, "from_step": 0, "kept": True})
    lab.energy("ft", {"window": "train", "energy_j": 100.0, "from_step": 5, "kept": True}, attempt=2)
    for number in range(stages):
        name = lab.inference(f"i{number}", precision=f"p{number}", energy=1.0 + number)
        lab.attempt(name, "finished", energy_j=10.0)
        lab.energy(name, {"window": "prefill"}, {"window": "decode"})
        lab.node(f"n{number}", "cpu", 12.0, 9.0, 3.0, 0.0)
    write(folder / "epochs" / "ft-2.parquet", "epochs", {"stage_id": "ft", "attempt": 2, "epoch": 1, "loss": 1.5})
    lab.results()
    return lab


def seen(folder: Path) -> dict[str, list[dict]]:
    """The rows of all tables, in an order of their own."""
    tables = load(folder).tables()
    return {name: sorted(frame.collect().to_dicts(), key=repr) for name, frame in tables.items()}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/**/*.parquet") if path.is_file())


def singles(folder: Path) -> list[str]:
    return [name for name in files(folder) if COMPACTED not in name]


def merged(folder: Path) -> list[str]:
    return [name for name in files(folder) if COMPACTED in name]
