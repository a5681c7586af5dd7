"""Spearman's rank correlations against textbook numbers and scipy."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.statistics.correlations import QUANTITIES, SCHEMA, correlations


def rows(pool="measured on cuda H200", configuration=None, **known):
    count = len(next(iter(known.values())))
    columns = {name: known.get(name, [None] * count) for name in QUANTITIES}
    named = configuration or [f"c{number}" for number in range(count)]
    return pl.DataFrame(
        {"configuration": named, "pool": pool, **columns}, schema_overrides=dict.fromkeys(QUANTITIES, pl.Float64)
    )


def of(frame):
    found, notes = correlations(frame, 0.95)
    assert dict(found.schema) == {name: kind() for name, kind in SCHEMA.items()}
    return {(row["first"], row["second"]): row for row in found.to_dicts()}, notes


def test_the_textbook_example_of_intelligence_and_television():
    iq = [106.0, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7.0, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    found, _ = of(rows(energy_j_per_request=iq, rho=hours))
    row = found["energy_j_per_request", "rho"]
    assert row["rho"] == pytest.approx(-29 / 165)
    assert row["p"] == pytest.approx(0.627188, abs=1e-6)
    assert (row["n"], row["p_holm"]) == (10, row["p"])
    # Bonett and Wright: atanh(r) -+ 1.96 sqrt((1 + r^2 / 2) / (n - 3))
    half = 1.959964 * np.sqrt((1 + (29 / 165) ** 2 / 2) / 7)
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.tanh(np.arctanh(-29 / 165) + np.array([-half, half]))))


@pytest.mark.parametrize("count", [4, 6, 7])
def test_few_configurations_are_tested_by_counting_all_orders(count):
    rng = np.random.default_rng(count)
    first, second = rng.integers(0, 5, count).astype(float), rng.normal(size=count)
    found, _ = of(rows(energy_j_per_request=list(first), rho=list(second)))
    expected = stats.permutation_test(
        (first,), lambda x: stats.spearmanr(x, second).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert found["energy_j_per_request", "rho"]["rho"] == pytest.approx(expected.statistic)
    assert found["energy_j_per_request", "rho"]["p"] == pytest.approx(expected.pvalue)


def test_the_same_order_throughout_is_not_certain_and_has_no_interval():
    found, _ = of(rows(energy_j_per_request=[1.0, 2, 3, 4], rho=[0.1, 0.2, 0.3, 0.9]))
    row = found["energy_j_per_request", "rho"]
    assert (row["rho"], row["low"], row["high"]) == (pytest.approx(1.0), None, None)
    assert row["p"] == pytest.approx(2 / 24)
    assert row["reason"].startswith("no interval")
    many = [float(number) for number in range(12)]
    found, _ = of(rows(energy_j_per_request=many, rho=many))
    assert found["energy_j_per_request", "rho"]["p"] > 0


def test_three_configurations_are_too_few():
    found, _ = of(rows(energy_j_per_request=[1.0, 2, 3], rho=[0.1, 0.2, 0.3]))
    row = found["energy_j_per_request", "rho"]
    assert (row["rho"], row["p"], row["p_holm"]) == (None, None, None)
    assert row["reason"] == "known together of 3 configurations: too few"


def test_seeds_of_a_configuration_count_once():
    frame = rows(
        configuration=["a", "a", "b", "b", "c", "c", "d", "d"],
        energy_j_per_request=[1.0, 1.2, 2.0, 2.2, 3.0, 3.2, 4.0, 4.2],
        rho=[0.5, 0.7, 0.4, 0.5, 0.6, 0.9, 0.1, 0.2],
    )
    row = of(frame)[0]["energy_j_per_request", "rho"]
    assert row["n"] == 4
    assert row["rho"] == pytest.approx(stats.spearmanr([1.1, 2.1, 3.1, 4.1], [0.6, 0.45, 0.75, 0.15]).statistic)


def test_what_does_not_vary_is_left_out_and_named():
    found, (note,) = of(rows(energy_j_per_request=[1.0, 2, 3, 4], rho=[0.4, 0.2, 0.3, 0.1], batch_size=[8.0] * 4))
    assert found.keys() == {("energy_j_per_request", "rho")}
    assert "batch_size (8 everywhere)" in note
    assert "weight_bytes (unknown)" in note


def test_pairs_are_of_what_is_known_together():
    found, _ = of(
        rows(
            energy_j_per_request=[1.0, 2, 3, 4, 5, None],
            rho=[0.3, 0.1, 0.4, 0.15, 0.5, 0.9],
            sparsity_achieved=[0.0, 0.0, 0.0, 0.0, 0.0, 0.5],
        )
    )
    assert found["energy_j_per_request", "rho"]["n"] == 5
    row = found["energy_j_per_request", "sparsity_achieved"]
    assert (row["n"], row["rho"]) == (5, None)
    assert row["reason"] == "one of them does not vary where both are known"


def test_pools_are_never_mixed_and_all_tests_are_corrected_together():
    rng = np.random.default_rng(1)
    first = rows("measured", energy_j_per_request=list(rng.normal(size=12)), rho=list(rng.normal(size=12)))
    second = rows("estimated", energy_j_per_request=list(100 + rng.normal(size=12)), rho=list(5 + rng.normal(size=12)))
    found, _ = correlations(pl.concat([first, second]), 0.95)
    assert found["pool"].to_list() == ["measured", "estimated"]
    assert found["rho"].abs().max() < 0.7  # pooled, the two clouds would correlate at 0.87
    assert found["p_holm"].min() == pytest.approx(min(1.0, 2 * found["p"].min()))


def test_without_any_correlation_one_test_in_twenty_finds_one():
    rng = np.random.default_rng(2)
    for count, draws in ((7, 200), (15, 400)):
        p = [
            of(rows(energy_j_per_request=list(rng.normal(size=count)), rho=list(rng.normal(size=count))))[0][
                "energy_j_per_request", "rho"
            ]["p"]
            for _ in range(draws)
        ]
        assert 0.01 < np.mean(np.array(p) < 0.05) < 0.09  # standard errors 1.5 % and 1.1 %
