"""A sweep to report on, and the sections of its report."""

import json
from pathlib import Path

from tests.analysis.builders import Lab, write

SECTIONS = [
    *["Ranking", "Figures", "How sure", "Trade-offs", "What drives energy and quality", "What was measured, and how"],
    *["Machines and versions", "What failed, and what was left out", "Problems of files", "How R is computed"],
    "How to reproduce this",
]
CELLS = {"fp32": (4.0, 0.83), "bf16": (2.4, 0.82), "int8": (1.9, 0.8), "nf4": (1.3, 0.74)}
PRUNINGS = {"none": 1.0, "neurons-25%": 0.8}


def sweep(folder: Path, *, seeds: int = 2) -> Lab:
    """Four precisions, each dense and pruned; one that is infeasible, and one attempt that failed."""
    lab = Lab(folder)
    about = {"nodes": ["node-a"], "versions": json.dumps({"torch": "2.13.0", "python": "3.11.7"}), "workers": 1}
    for seed in range(seeds):
        for precision, (joules, accuracy) in CELLS.items():
            tuned = lab.finetune(
                f"ft-{precision}-{seed}",
                energy_j=900 * joules,
                precision=precision,
                finetune_precision=precision,
                seed=seed,
                **about,
            )
            losses = [{"epoch": epoch, "loss": 2 / epoch, "validation_loss": 2.1 / epoch} for epoch in (1, 2)]
            rows = [loss | {"stage_id": tuned, "attempt": 1, "energy_j": 400 * joules} for loss in losses]
            write(lab.folder / "epochs" / f"{tuned}.parquet", "epochs", *rows)
            for pruning, share in PRUNINGS.items():
                energy = joules * share * (1 + seed / 100)
                served = {
                    "precision": precision,
                    "pruning": pruning,
                    "seed": seed,
                    "needs": tuned,
                    "finetune_precision": precision,
                }
                served |= {"pruning_applied": None if pruning == "none" else "after"}
                stage = lab.inference(
                    f"i-{precision}-{pruning[:4]}-{seed}",
                    energy=energy,
                    quality={"root_cause": {"accuracy": accuracy - (pruning != "none") * 0.03 + seed / 500}},
                    **served,
                    **about,
                )
                windows = [("prefill", 0.3), ("decode", 0.7)]
                lab.energy(
                    stage,
                    *(
                        {"window": window, "repeat": repeat, "requests": 100, "energy_j": 100 * energy * part}
                        | {"duration_s": 6.0, "node": "node-a", "source": "rapl", "kept": True}
                        for window, part in windows
                        for repeat in (1, 2)
                    ),
                )
    lab.inference("i-fp8", precision="fp8", needs=None, run=False)
    lab.infeasible("i-fp8", "fp8 needs a GPU of capability 8.9")
    lab.attempt("i-nf4-none-0", "failed", attempt=0, reason="RuntimeError: connection lost")
    lab.node("node-a", "cpu", 1000.0, 900.0, 90.0, 10.0, idle_power_w=30.0)
    (lab.folder / "energy" / "torn.parquet").write_bytes(b"PAR1")
    (lab.folder / "sweep.yaml").write_text("name: tickets\nranking: {weight: 0.7}\n")
    return lab
