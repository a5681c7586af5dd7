"""Sweeps of every combination of settings, whose effects are known."""

import json
import math
from itertools import product

import numpy as np
import polars as pl

TRUE = {"fp32": 1.0, "bf16": 0.55, "nf4": 0.42, "none": 1.0, "heads-25%": 0.8, "neurons-50%": 0.65}
"""Joules of each level as a share of the reference's."""

POINTS = {"fp32": 0.0, "bf16": -0.002, "nf4": -0.03, "none": 0.0, "heads-25%": -0.1, "neurons-50%": -0.07}
"""Rho of each level, beside the reference's."""


def settings(**more):
    return json.dumps({"batch_size": 8, "sequence_length": 192, "pruning": {"kind": "x"}, **more})


def inference(lab, number, precision="fp32", pruning="none", *, rho=0.8, **more):
    more |= {"pruning_applied": None if pruning == "none" else "after"} if "pruning_applied" not in more else {}
    quality = {"root_cause": {"accuracy": rho}}
    more = {"settings": settings(seed=more.get("seed", 0)), **more}
    return lab.inference(f"i{number}", precision=precision, pruning=pruning, quality=quality, needs=None, **more)


def factorial(lab, precisions=("fp32", "bf16", "nf4"), prunings=("none", "heads-25%", "neurons-50%"), seeds=4):
    """Every combination, with joules and quality that multiply and add up, and a little scatter."""
    rng = np.random.default_rng(0)
    for number, (precision, pruning, seed) in enumerate(product(precisions, prunings, range(seeds))):
        energy = 2.0 * TRUE[precision] * TRUE[pruning] * math.exp(rng.normal(scale=0.03))
        rho = 0.8 + POINTS[precision] + POINTS[pruning] + rng.normal(scale=0.005)
        inference(lab, number, precision, pruning, seed=seed, energy=energy, rho=rho)


def effects(found, response, level=None):
    rows = found.effects.filter(pl.col("response") == response).to_dicts()
    if level is not None:
        (row,) = [row for row in rows if row["level"] == level]
        return row
    return {row["term"]: row for row in rows if row["level"] is None}
