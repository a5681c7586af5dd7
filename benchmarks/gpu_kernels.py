"""What 2:4 kernels, int8 and nf4 save on a GPU: tokens per second and joules per token beside dense bf16.

A Llama-shaped model with random weights (1.2 billion parameters unless told otherwise); prefill and decode apart, at
several batch sizes. All variants stay loaded and take turns in shuffled order, so that each is measured beside the
others on the same machine in the same run. Joules are those of the GPU's own counter (NVML), over windows long enough
for it, and null where there is none. The model, the pruning, the kernels and the serving are the product's.

    .venv/bin/python benchmarks/gpu_kernels.py
    .venv/bin/python benchmarks/gpu_kernels.py --device cpu --hidden 128 --layers 2 --seconds 0.1   # a dry run
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from environment import provenance, spread
from rich.console import Console
from rich.table import Table

from energyaware.energy.nvml import NvmlSource
from energyaware.masks import achieved_sparsity, apply_masks
from energyaware.models import load_model
from energyaware.precision import PRECISIONS
from energyaware.pruning import PRUNERS
from energyaware.realise import realise
from energyaware.serving import generate, prefill
from energyaware.spec import ModelRef, Pruning

TWO_OF_FOUR: Final = Pruning("magnitude", 0.5, "2:4", "after")
VARIANTS: Final = {"dense bf16": "bf16", "2:4 bf16": "bf16", "int8": "int8", "nf4": "nf4"}
"""Name -> precision; the first is what the others are compared with."""


def save_base(folder: Path, hidden: int, layers: int) -> ModelRef:
    """A Llama-shaped model with random weights, saved in bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return ModelRef("folder", "random-llama", "seed 0", str(folder))


def load_variant(name: str, ref: ModelRef, device: Any) -> tuple[Any, dict[str, Any]]:
    """The model of a variant and what is to be said about it."""
    model = load_model(ref, PRECISIONS[VARIANTS[name]], device).eval()
    about: dict[str, Any] = {"weight_mib": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20}
    if name.startswith("2:4"):
        masks = PRUNERS["magnitude"].prune(model, TWO_OF_FOUR, (), 0).masks
        apply_masks(model, masks)
        achieved_sparsity(model, masks)
        about |= realise(model, masks, TWO_OF_FOUR).columns
    return model, about


def works(model: Any, batch: int, prompt: int, new: int) -> dict[str, tuple[Callable[[], None], int]]:
    """By phase: what one pass does, and how many tokens that is."""
    ids = torch.randint(5, model.config.vocab_size, (batch, prompt), device=model.device)
    attention = torch.ones_like(ids)
    read = prefill(model, ids, attention)

    def decode() -> None:
        generate(model, read, new, None)

    return {"prefill": (lambda: void(prefill(model, ids, attention)), batch * prompt), "decode": (decode, batch * new)}


def void(_: object) -> None:
    """What came out is of no interest."""


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(work: Callable[[], None], seconds: float, joules: Callable[[], float | None]) -> dict[str, float | None]:
    """Passes for at least so long, warmed up before: seconds and joules of one pass."""
    work()
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    passes = max(1, round(seconds / (time.perf_counter() - start)))
    energy_j, start = joules(), time.perf_counter()
    for _ in range(passes):
        work()
    synchronise()
    duration_s, after_j = time.perf_counter() - start, joules()
    used = None if energy_j is None or after_j is None else (after_j - energy_j) / passes
    return {"duration_s": duration_s / passes, "energy_j": used}


def counter() -> Callable[[], float | None]:
    """Joules so far of the GPU that torch computes on; None for ever where there is none."""
    if not torch.cuda.is_available():
        return lambda: None
    source = NvmlSource()
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"

    def read() -> float | None:
        return next((reading.energy_j for channel, reading in source.read().items() if channel.device == uuid), None)

    return read


def cases(models: dict[str, Any], batches: list[int], prompt: int, new: int) -> Iterator[tuple[Any, ...]]:
    for name, model in models.items():
        for batch in batches:
            for phase, (work, tokens) in works(model, batch, prompt, new).items():
                yield (name, batch, phase), work, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description="2:4 kernels, int8 and nf4 beside dense bf16.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--hidden", type=int, default=2048, help="width of the model, a multiple of 64")
    parser.add_argument("--layers", type=int, default=18, help="its depth")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each case")
    parser.add_argument("--seconds", type=float, default=5.0, help="least length of a measurement")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA GPU; --device cpu is a dry run")

    with tempfile.TemporaryDirectory(prefix="kernels-") as folder, torch.inference_mode():
        ref = save_base(Path(folder), chosen.hidden, chosen.layers)
        loaded = {name: load_variant(name, ref, chosen.device) for name in VARIANTS}
        models = {name: model for name, (model, _) in loaded.items()}
        parameters = sum(p.numel() for p in models["dense bf16"].parameters())
        todo = list(cases(models, chosen.batches, chosen.prompt, chosen.new))
        joules = counter()
        measured: dict[Any, list[dict[str, float | None]]] = {case: [] for case, _, _ in todo}
        for turn in range(chosen.turns):
            for case, work, _ in random.Random(turn).sample(todo, len(todo)):
                measured[case].append(measure(work, chosen.seconds, joules))
                print(f"turn {turn} {case}: {measured[case][-1]}", file=sys.stderr)

    rows = [row(case, tokens, measured[case]) for case, _, tokens in todo]
    report = {
        **provenance("gpu_kernels", "torch", "transformers", "bitsandbytes"),
        "parameters": parameters,
        "variants": {name: about for name, (_, about) in loaded.items()},
        "rows": rows,
    }
    chosen.results.mkdir(exist_ok=True, parents=True)
    path = chosen.results / f"gpu_kernels-{chosen.device}-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    show(rows, report, path)


def row(case: tuple[str, int, str], tokens: int, values: list[dict[str, float | None]]) -> dict[str, Any]:
    """Median and spread of a case, per token."""
    name, batch, phase = case
    rates = [tokens / value["duration_s"] for value in values if value["duration_s"]]
    spent = [value["energy_j"] / tokens for value in values if value["energy_j"] is not None]
    figures = {"tokens_per_s": spread(rates), "energy_j_per_token": spread(spent, 6) if spent else None}
    return {"variant": name, "batch": batch, "phase": phase, **figures}


def show(rows: list[dict[str, Any]], report: dict[str, Any], path: Path) -> None:
    dense = {(r["batch"], r["phase"]): r for r in rows if r["variant"] == next(iter(VARIANTS))}
    table = Table("phase", "batch", "variant", "tokens/s", "to dense", "J/token", "to dense")
    for r in sorted(rows, key=lambda r: (r["phase"] == "decode", r["batch"])):
        base = dense[r["batch"], r["phase"]]
        rate, energy = r["tokens_per_s"]["median"], r["energy_j_per_token"]
        table.add_row(
            r["phase"],
            str(r["batch"]),
            r["variant"],
            f"{rate:.0f}",
            f"{rate / base['tokens_per_s']['median']:.2f}",
            "unknown" if energy is None else f"{energy['median']:.4f}",
            "" if energy is None else f"{energy['median'] / base['energy_j_per_token']['median']:.2f}",
        )
    console = Console()
    device = report["machine"]["gpu"] or "no GPU: a dry run"
    console.print(f"{device}, {report['parameters'] / 1e9:.2f} billion parameters", highlight=False)
    console.print(table)
    console.print(f"written to {path}", highlight=False)


if __name__ == "__main__":
    main()
