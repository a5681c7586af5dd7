"""What calibrated pruning costs: time beside a plain forward pass over the calibration examples, and memory.

A Llama-shaped model with random weights in fp32, fresh for each run. Each pruning runs right after the plain forward
pass that it is compared with (the model's body, without the output head, which pruning does not compute either), in
wall time and, because a shared machine disturbs that, in CPU time. Memory is the process's peak during a pruning beyond
what it held before (Linux: VmHWM, reset before; CUDA: torch's counter), beside what a block's statistics and weights
take.

    .venv/bin/python benchmarks/pruning_cost.py
    .venv/bin/python benchmarks/pruning_cost.py --device cuda --hidden 4096 --blocks 8 --examples 128 --length 512
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from environment import provenance, spread
from rich.console import Console
from rich.table import Table

from energyaware.layers import eligible_layers, weight_matrix
from energyaware.pruning import PRUNERS
from energyaware.pruning.blockwise import calibrate_blocks
from energyaware.spec import Pruning

PATTERNS: Final = {"50%": ("unstructured", 0.5), "2:4": ("2:4", 0.5)}
MOST: Final = 3.0
"""Wanda at most this many plain forward passes."""


def make_model(hidden: int, blocks: int, device: str) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 256,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(device).eval()


def make_batches(examples: int, length: int, device: str) -> list[dict[str, Any]]:
    """Batches of 8, a sixth of the positions padding."""
    torch.manual_seed(1)
    batches = []
    for _ in range(examples // 8):
        lengths = torch.linspace(length * 2 / 3, length, 8).long().unsqueeze(1)
        mask = (torch.arange(length) < lengths).long()
        ids = torch.randint(8192, (8, length))
        batches.append({"input_ids": ids.to(device), "attention_mask": mask.to(device)})
    return batches


def forward(model: Any, batches: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        for batch in batches:
            model.model(**batch, use_cache=False)


def peak_beyond(work: Callable[[], object], device: str) -> tuple[float, float, float]:
    """Seconds, seconds of CPU time, and bytes at the peak beyond those held before."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back, so that it is not used again unseen
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
        held = status("VmRSS")
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")
    return seconds, cpu_seconds, peak - held


def status(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def one_block(model: Any, batches: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """Bytes of one block's weights and statistics, the latter of the very objects that the pruner uses."""
    block = {name: layer for name, layer in eligible_layers(model).items() if name.startswith("model.layers.0.")}
    sizes = []

    def measure(inputs: dict[str, Any]) -> None:
        tensors = {id(s): t for s in inputs.values() for t in vars(s).values() if isinstance(t, torch.Tensor)}
        sizes.append(sum(t.numel() * t.element_size() for t in tensors.values()))

    calibrate_blocks(model, block, batches[:1], PRUNERS[kind].statistics, measure)
    return {"statistics": sizes[0], "weights": sum(4 * weight_matrix(layer).numel() for layer in block.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of calibrated pruning.")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="tokens of the longest example")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()

    dense = make_model(chosen.hidden, chosen.blocks, chosen.device)
    batches = make_batches(chosen.examples, chosen.length, chosen.device)
    cases = {(kind, label): pattern for kind in ("wanda", "sparsegpt") for label, pattern in PATTERNS.items()}
    names = ("forward", *cases)
    wall, cpu, peaks, ratios = ({name: [] for name in names} for _ in range(4))
    forward(dense, batches[:1])  # warm
    masks_bytes = sum(weight_matrix(layer).numel() for layer in eligible_layers(dense).values())

    def measured(name: Any, work: Callable[[], object]) -> tuple[float, float]:
        seconds, cpu_seconds, peak = peak_beyond(work, chosen.device)
        wall[name].append(seconds)
        cpu[name].append(cpu_seconds)
        peaks[name].append(peak)
        print(f"{name}: {seconds:.2f} s, {cpu_seconds:.2f} s of CPU time, {mib(peak):.0f} MiB", file=sys.stderr)
        return seconds, cpu_seconds

    for _ in range(chosen.runs):
        for case, (pattern, sparsity) in cases.items():
            before = measured("forward", lambda: forward(dense, batches))
            model, asked = copy.deepcopy(dense), Pruning(case[0], sparsity, pattern, "after")
            after = measured(case, lambda k=case[0], m=model, a=asked: PRUNERS[k].prune(m, a, batches, 0))
            ratios[case].append([taken / forward_took for taken, forward_took in zip(after, before, strict=True)])
            del model
    report = {
        **provenance("pruning_cost", "torch", "transformers"),
        "model": {key: getattr(chosen, key) for key in ("hidden", "blocks", "device")}
        | {"parameters": sum(parameter.numel() for parameter in dense.parameters())},
        "calibration": {"examples": chosen.examples, "tokens": sum(int(b["attention_mask"].sum()) for b in batches)},
        "hidden_states_mib": mib(4 * chosen.hidden * sum(batch["input_ids"].numel() for batch in batches)),
        "masks_mib": mib(masks_bytes),
        "forward": {"seconds": spread(wall["forward"]), "peak_mib": spread(list(map(mib, peaks["forward"])), 1)},
        "pruning": [],
    }
    for kind, label in cases:
        report["pruning"].append(
            {
                "kind": kind,
                "pattern": label,
                "seconds": spread(wall[kind, label]),
                "forward_passes": spread([ratio for ratio, _ in ratios[kind, label]], 2),
                "forward_passes_cpu_time": spread([ratio for _, ratio in ratios[kind, label]], 2),
                "peak_mib": spread(list(map(mib, peaks[kind, label])), 1),
                "one_block_mib": {part: mib(size) for part, size in one_block(dense, batches, kind).items()},
            }
        )
    wanda = [ratio for row in report["pruning"] if row["kind"] == "wanda" for ratio in row["forward_passes"]["all"]]
    report["reached"] = {"wanda_at_most_3_forward_passes": statistics.median(wanda) <= MOST, "worst": max(wanda)}
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"pruning_cost-{chosen.device}-{report['measured'][:10]}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    show(report, path)


def mib(size: float) -> float:
    return round(size / 2**20, 1)


def show(report: dict[str, Any], path: Path) -> None:
    table = Table("median (min to max)", "seconds", "forward passes", "in CPU time", "peak MiB", "a block's statistics")
    plain = report["forward"]
    table.add_row("plain forward", figures(plain["seconds"]), "1", "1", f"{plain['peak_mib']['median']:.0f}", "")
    for row in report["pruning"]:
        block = row["one_block_mib"]
        table.add_row(
            f"{row['kind']} {row['pattern']}",
            figures(row["seconds"]),
            figures(row["forward_passes"]),
            figures(row["forward_passes_cpu_time"]),
            f"{row['peak_mib']['median']:.0f}",
            f"{block['statistics']:.1f} + weights {block['weights']:.1f} MiB",
        )
    console = Console(width=130)
    console.print(table)
    console.print(
        f"of the peak: hidden states of all batches {report['hidden_states_mib']} MiB, masks (the result) "
        f"{report['masks_mib']} MiB; {report['reached']}; written to {path}",
        highlight=False,
    )


def figures(values: dict[str, Any]) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"


if __name__ == "__main__":
    main()
