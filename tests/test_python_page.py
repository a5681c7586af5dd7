"""The session in docs/python.md runs, and shows what it says."""

import doctest
import re
from datetime import timedelta
from pathlib import Path

import polars as pl

from tests.analysis.builders import START, Lab

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()


def write_results(folder: Path) -> None:
    tickets = Lab(folder / "tickets")
    for seed in range(3):
        for precision, tuning_j, joules, accuracy in (("bf16", 9000.0, 2.0, 0.9), ("nf4", 7000.0, 0.9, 0.87)):
            of = {"precision": precision, "finetune_precision": precision, "seed": seed}
            tuned = tickets.finetune(f"tuned-{precision}-{seed}", energy_j=tuning_j + 100 * seed, **of)
            for pruning, share, lost in (("none", 1.0, 0.0), ("neurons-25%", 0.8, 0.15)):
                energy_j = share * joules * (1 + 0.01 * seed)
                stage_id = tickets.inference(
                    f"{precision}-{pruning.partition('-')[0]}-{seed}",
                    needs=tuned,
                    energy=energy_j,
                    quality={"root_cause": {"accuracy": accuracy - lost}},
                    pruning=pruning,
                    pruning_applied=None if pruning == "none" else "after",
                    **of,
                )
                both = [{"window": name, "kept": True, "energy_j": 5 * energy_j} for name in ("prefill", "decode")]
                tickets.energy(stage_id, *both)
    tickets.inference("int8-none-0", precision="int8", run=False)
    tickets.attempt("int8-none-0", "failed", reason="OSError: disk full")
    tickets.results()
    (tickets.folder / "sweep.yaml").write_text("name: tickets\n")

    again = Lab(folder / "again")
    again.inference(
        "nf4-none-0", needs="tuned-nf4-0", energy=1.2, precision="nf4", finished_at=START + timedelta(days=1)
    )
    again.results()


def test_the_session_runs_as_it_is_written(tmp_path, monkeypatch):
    write_results(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    session = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(session, {}, "docs/python.md", None, 0)
    assert len(test.examples) > 10
    report: list[str] = []
    with pl.Config(restore_defaults=True):
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        failed = runner.run(test, out=report.append).failed
    assert not failed, "".join(report)
    assert (tmp_path / "ranking.parquet").is_file()
