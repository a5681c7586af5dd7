"""What the page says in every report."""

from typing import Final

FORMULA: Final = "R = w · phi + (1 - w) · rho"

TERMS: Final = [
    ("R", f"{FORMULA}: the score that configurations are ranked by. w says how much energy counts against quality."),
    (
        "rho, quality",
        "Mean over the tasks of the mean of the task's metrics, each from 0 to 1, higher is better; mean over seeds.",
    ),
    (
        "E, joules per request",
        "Joules of reading the prompt and generating the answer, plus the joules of fine-tuning divided by the number "
        "of requests that the model is expected to serve. Joules are those of the machines; the power usage "
        "effectiveness of a data centre is applied to carbon and cost alone. Where the ranking is by another metric "
        "(per token, per correct answer, energy-delay product, carbon, cost), that takes the place of E.",
    ),
    (
        "phi minmax",
        "(E_max - E) / (E_max - E_min) over the compared set. It spreads the set over the whole of 0 to 1, and so "
        "depends on who is in it: leaving one configuration out can reverse the order of two others.",
    ),
    (
        "phi ratio",
        "E_min / E. It depends on the best configuration alone, and keeps proportions: half the joules, twice the phi. "
        "Where one configuration takes far less than all others, those are pressed together near 0.",
    ),
    (
        "measured, estimated",
        "Measured joules come from a hardware counter. Estimated ones come from a model of the processor's load: they "
        "order configurations by how busy they kept the machine and for how long, no more.",
    ),
    (
        "simulated pruning",
        "Zeros on dense kernels save no energy. Such a configuration is ranked with the joules of its dense parent.",
    ),
]
