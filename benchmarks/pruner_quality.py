"""What pruners cost a model in perplexity: the built-in base model, at 50 % unstructured, 2:4 and 4:8.

Perplexity is over documents of the kind the model was made from, drawn with another seed, so that it has read none of
them. A seed draws the calibration examples (the product's default: 128 of the tasks' training split) and the random
masks; magnitude depends on no seed. `--finetune` trains all weights on the training split first, and takes perplexity
over the answers of the test split.

    .venv/bin/python benchmarks/pruner_quality.py
    .venv/bin/python benchmarks/pruner_quality.py --finetune
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from environment import provenance, spread
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from energyaware.batches import IGNORED, Tokens, epoch_batches, pad_right, tokenise
from energyaware.builtin_model import RECIPE, builtin_ref, documents
from energyaware.models import load_model, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.pruning import PRUNERS
from energyaware.pruning.calibration import calibration_batches
from energyaware.spec import Calibration, Pruning
from energyaware.tasks import TASKS
from energyaware.tasks.base import Example
from energyaware.tasks.data import builtin_ref as builtin_data
from energyaware.tasks.data import load_splits

KINDS: Final = ("random", "magnitude", "wanda", "sparsegpt")
PATTERNS: Final = {"50%": ("unstructured", 0.5), "2:4": ("2:4", 0.5), "4:8": ("4:8", 0.5)}
LENGTH: Final = 256
BATCH: Final = 16


def perplexity(model: Any, held_out: Sequence[Tokens]) -> float:
    """exp of the mean loss per target token; a document without a prompt is its own target, after its first token."""
    total, tokens = 0.0, 0
    for start in range(0, len(held_out), BATCH):
        arguments, targets = pad_right(held_out[start : start + BATCH], 0, LENGTH)
        with torch.inference_mode():
            logits = model(**arguments).logits.flatten(0, 1)
        total += float(torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum"))
        tokens += int((targets != IGNORED).sum())
    return math.exp(total / tokens)


def finetune(model: Any, tokenizer: Any, examples: Sequence[Example], epochs: int) -> None:
    """All weights, AdamW, one process; the loss is over the answers."""
    tokens = tokenise(examples, tokenizer, LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    torch.manual_seed(0)
    model.train()
    for epoch in range(epochs):
        for batch in epoch_batches(tokens, BATCH, 0, epoch):
            arguments, targets = pad_right(batch, tokenizer.pad_token_id, LENGTH)
            loss = torch.nn.functional.cross_entropy(model(**arguments).logits.flatten(0, 1), targets.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"fine-tuning: epoch {epoch + 1}, last loss {loss.item():.3f}", file=sys.stderr)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Perplexity after pruning.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=Calibration().examples, help="calibration examples")
    parser.add_argument("--held-out", type=int, default=384, help="documents that perplexity is taken over")
    parser.add_argument("--finetune", action="store_true")
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()

    logging.disable_progress_bar()
    tokenizer, splits = load_tokenizer(builtin_ref()), load_splits(builtin_data(), tuple(TASKS))
    train, test = (
        [task.example(record) for task in TASKS.values() for record in split] for split in (splits.train, splits.test)
    )
    dense = load_model(builtin_ref(), PRECISIONS["fp32"], "cpu").eval()
    if chosen.finetune:
        finetune(dense, tokenizer, train, chosen.epochs)
        held_out = tokenise(test[: chosen.held_out], tokenizer, LENGTH)
    else:
        read = set(documents())
        unread = [text for text in documents(replace(RECIPE, seed=RECIPE.seed + 1)) if text not in read]
        held_out = [Tokens(tuple(ids[:LENGTH]), 0) for ids in tokenizer(unread[: chosen.held_out])["input_ids"]]
    report = {
        **provenance("pruner_quality", "torch", "transformers"),
        "model": builtin_ref().revision,
        "finetuned": chosen.finetune,
        "calibration_examples": chosen.examples,
        "held_out_targets": sum(len(item.ids) - max(1, item.prompt_length) for item in held_out),
        "dense_perplexity": round(perplexity(dense, held_out), 4),
        "perplexity": {},
        "in_order": {},
    }
    for label, (pattern, sparsity) in PATTERNS.items():
        found = {}
        for kind in KINDS:
            values = []
            for seed in range(chosen.seeds if kind != "magnitude" else 1):
                model = copy.deepcopy(dense)
                calibration = calibration_batches(
                    Calibration(chosen.examples), train, tokenizer, model, sequence_length=LENGTH, seed=seed
                )
                PRUNERS[kind].prune(model, Pruning(kind, sparsity, pattern, "after"), calibration.batches, seed)
                values.append(perplexity(model, held_out))
            found[kind] = spread(values, 4)
            print(label, kind, found[kind], file=sys.stderr)
        report["perplexity"][label] = found
        report["in_order"][label] = {
            "wanda below magnitude": found["wanda"]["max"] < found["magnitude"]["min"],
            "sparsegpt below magnitude": found["sparsegpt"]["max"] < found["magnitude"]["min"],
            "magnitude below random": found["magnitude"]["max"] < found["random"]["min"],
        }
    name = "pruner_quality" + "-finetuned" * chosen.finetune
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"{name}-{report['measured'][:10]}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    show(report, path)


def show(report: dict[str, Any], path: Path) -> None:
    table = Table(
        "perplexity", *(f"{kind} (min to max)" for kind in KINDS), title=f"dense {report['dense_perplexity']}"
    )
    for label, found in report["perplexity"].items():
        table.add_row(label, *(f"{v['median']:.3f} ({v['min']:.3f} to {v['max']:.3f})" for v in found.values()))
    console = Console(width=140)
    console.print(table)
    console.print(f"in order in every seed: {report['in_order']}; written to {path}", highlight=False)


if __name__ == "__main__":
    main()
