"""What a configuration is ranked by: joules per request, or what follows from them. Less is better.

With E the joules per request, those of inference plus those of fine-tuning spread over the `requests`:

| metric  | definition                        | unit | what it needs beside E                                          |
|---------|-----------------------------------|------|-----------------------------------------------------------------|
| request | E                                 | J    |                                                                 |
| token   | E / tokens per request            | J    | prompt tokens processed + tokens generated                      |
| correct | E / correct answers per request   | J    | `accuracy` of its tasks: their sum, for a request asks each one |
| edp     | E * seconds per request           | J*s  | durations of the prefill and decode windows                     |
| carbon  | g CO2e of those joules, with PUE  | g    | emission factor                                                 |
| cost    | price of those joules, with PUE   |      | price; one currency in all that is compared                     |

A request is one ticket, handled in every task. Each part is a mean over seeds, and products and ratios are taken of
these means. A simulated pruning, which borrows the inference joules of its dense parent, borrows the tokens and seconds
that belong to them. What is unknown, not finite or not above 0, such as the carbon at 0 g/kWh, leaves its stage out.

- token: tokens of labels that are only scored are no generated tokens; padding counts as neither.
- correct: joules of tasks without an accuracy are in, because windows do not tell tasks apart. Where every answer is
  wrong there is no such number, and the configuration is left out.
- edp, the energy-delay product (Horowitz, Indermaur and Gonzalez 1994, Low-power digital design, IEEE Symposium on Low
  Power Electronics, pages 8 to 11), here of a request: seconds are those of its windows over the requests that these
  handled, the inverse of throughput, and not how long one request of a batch waits. Those of fine-tuning are not in.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TypeVar

import polars as pl

Metric = Literal["request", "token", "correct", "edp", "carbon", "cost"]

Values = TypeVar("Values", pl.Expr, Any)
"""Numbers to calculate with: a Polars expression, or an array."""


class EnergyMetric(NamedTuple):
    """One thing to rank by.

    Attributes:
        words: its name in a sentence or on an axis.
        unit: of its values; empty for cost, whose unit is the currency.
        column: of the ranking, where its values are.
    """

    words: str
    unit: str
    column: str

    @property
    def what(self) -> str:
        """What it is an amount of, such as energy."""
        return self.words.split(" per ")[0]


METRICS: Final[dict[Metric, EnergyMetric]] = {
    "request": EnergyMetric("energy per request", "J", "energy_j_per_request"),
    "token": EnergyMetric("energy per token", "J", "energy_j_per_token"),
    "correct": EnergyMetric("energy per correct answer", "J", "energy_j_per_correct"),
    "edp": EnergyMetric("energy-delay product per request", "J*s", "edp_js"),
    "carbon": EnergyMetric("carbon per request", "g CO2e", "carbon_g_per_request"),
    "cost": EnergyMetric("cost per request", "", "cost_per_request"),
}


class Need(NamedTuple):
    """A number that a metric cannot do without, as a column of the candidates."""

    words: str
    unit: str
    column: str


OF_INFERENCE: Final[dict[Metric, Need]] = {
    "token": Need("number of tokens per request", "", "tokens_per_request"),
    "edp": Need("time per request", "s", "seconds_per_request"),
    "carbon": Need("carbon per request", "g", "inference_carbon_g"),
    "cost": Need("cost per request", "", "inference_cost"),
}

OF_FINETUNING: Final[dict[Metric, Need]] = {
    "carbon": Need("carbon of fine-tuning", "g", "finetune_carbon_g"),
    "cost": Need("cost of fine-tuning", "", "finetune_cost"),
}


def value_of(metric: Metric, part: Callable[[str], Values], requests: int) -> Values:
    """The metric from its parts, whether these are columns or arrays.

    Args:
        metric: which one.
        part: gives `inference_energy_j`, `finetune_energy_j`, the same of `carbon_g` and `cost`, `tokens_per_request`,
            `correct_per_request` and `seconds_per_request` by name. Only those that the metric needs are asked for.
        requests: how many the joules of fine-tuning are spread over.
    """

    def spread(amount: str) -> Values:
        return part(f"inference_{amount}") + part(f"finetune_{amount}") / requests

    match metric:
        case "request":
            return spread("energy_j")
        case "token":
            return spread("energy_j") / part("tokens_per_request")
        case "correct":
            return spread("energy_j") / part("correct_per_request")
        case "edp":
            return spread("energy_j") * part("seconds_per_request")
        case "carbon":
            return spread("carbon_g")
        case "cost":
            return spread("cost")


def fault_of(need: Need) -> pl.Expr:
    """What is wrong with a number. Work takes energy and time: 0 J is a counter that did not move, not a saving."""
    value = pl.col(need.column)
    return (
        pl.when(value.is_null())
        .then(pl.lit(f"{need.words} is unknown"))
        .when(~value.is_finite() | (value <= 0))
        .then(pl.format(f"{need.words} is {{}} {need.unit}".rstrip(), value))
    )


def tokens_per_request() -> pl.Expr:
    """Of a stage: prompt tokens per request read and generated ones per request answered; null if unknown."""

    def per(tokens: str, requests: str) -> pl.Expr:
        return pl.when(pl.col(requests) > 0).then(pl.col(tokens) / pl.col(requests))

    generated = pl.when(pl.col("decode_requests").is_null()).then(0.0).otherwise(per("new_tokens", "decode_requests"))
    return per("prompt_tokens", "prefill_requests") + generated
