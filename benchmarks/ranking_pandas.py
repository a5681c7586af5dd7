"""The product's ranking in pandas; `ranking_peers.py` tells what it does and leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ranking_peers import REQUESTS, WEIGHT, Rows, files

if TYPE_CHECKING:
    import pandas as pd


def with_pandas(folder: Path, *, once: bool = True) -> Rows:
    """Ranked rows, best first."""
    import pandas as pd

    stages = pd.read_parquet(files(folder, "stages"), columns=_STAGES).drop_duplicates("stage_id", keep="last")
    energy = _energy(folder, once=once)
    stages = stages.merge(_metered(energy, stages), on="stage_id", how="left")
    stages = stages.merge(_seconds(energy, stages), on="stage_id", how="left")
    stages["part_kind"] = stages["part_kind"].fillna(stages["energy_kind"]).fillna("unknown")
    settings = stages["settings"].map(json.loads)
    for name, without in (("no_seed", {"seed", "finetuned"}), ("no_pruning", {"seed", "finetuned", "pruning"})):
        stages[name] = [
            json.dumps({key: value for key, value in each.items() if key not in without}) for each in settings
        ]

    tuned = stages.loc[stages["kind"] == "finetune"]
    tuned = tuned[["stage_id", "energy_j", "part_kind", "no_seed", "no_pruning"]].add_prefix("finetune_")
    inferences = stages[stages["kind"] == "inference"].copy()
    inferences["finetune_stage_id"] = inferences["needs"].str[0]
    inferences = inferences.merge(tuned, on="finetune_stage_id")
    inferences["tasks_key"] = inferences["tasks"].map(",".join)
    inferences = inferences[inferences["energy_j_per_request"].between(0, float("inf"), inclusive="neither")]
    family = [*_NAMES, "tasks_key", "no_pruning", "finetune_no_pruning"]
    configuration = [*_NAMES, "tasks_key", "pruning", "pruning_applied", "no_seed", "finetune_no_seed"]
    inferences["family"] = inferences.groupby(family, dropna=False, sort=False).ngroup()
    inferences["configuration"] = inferences.groupby(configuration, dropna=False, sort=False).ngroup()

    parents = (
        inferences[inferences["pruning"] == "none"]
        .groupby("family")
        .agg(
            parent_energy_j=("energy_j_per_request", "mean"),
            parent_kinds=("part_kind", "unique"),
            parent_made_of=("made_of", "unique"),
            parent_seconds=("seconds_per_request", "mean"),
        )
    )
    plan = pd.read_parquet(folder / "plan.parquet", columns=["stage_id"])
    ranked = inferences.merge(_graded(folder, stages), on="stage_id")
    ranked = ranked[ranked["stage_id"].isin(plan["stage_id"])]
    ranked = ranked[ranked["finetune_energy_j"].between(0, float("inf"), inclusive="neither")]
    rows = (
        ranked.assign(simulated=ranked["realisation"] == "simulated")
        .groupby("configuration")
        .agg(
            family=("family", "first"),
            model=("model", "first"),
            precision=("precision", "first"),
            pruning=("pruning", "first"),
            rho=("rho", "mean"),
            own_energy_j=("energy_j_per_request", "mean"),
            own_seconds=("seconds_per_request", "mean"),
            finetune_energy_j=("finetune_energy_j", "mean"),
            own_kinds=("part_kind", "unique"),
            finetune_kinds=("finetune_part_kind", "unique"),
            own_made_of=("made_of", "unique"),
            seeds=("seed", "nunique"),
            simulated=("simulated", "any"),
        )
        .join(parents, on="family")
    )
    borrowed = rows["simulated"] & rows["parent_energy_j"].notna()
    energy_j = rows["own_energy_j"].where(~borrowed, rows["parent_energy_j"]) + rows["finetune_energy_j"] / REQUESTS
    highest, lowest = energy_j.max(), energy_j.min()
    span = highest - lowest
    rows["energy_j_per_request"] = energy_j
    rows["seconds_per_request"] = rows["own_seconds"].where(~borrowed, rows["parent_seconds"])
    rows["edp_js"] = energy_j * rows["seconds_per_request"]
    rows["phi_minmax"] = (highest - energy_j) / span if span > 1e-9 * highest else 1.0
    rows["phi_ratio"] = lowest / energy_j
    rows["score"] = WEIGHT * rows["phi_minmax"] + (1 - WEIGHT) * rows["rho"]
    rows["rank"] = rows["score"].round(12).rank(method="min", ascending=False).astype(int)
    kinds = rows["own_kinds"].where(~borrowed, rows["parent_kinds"])
    rows["energy_kind"] = [
        _kind_of_sum({*own, *tuned}) for own, tuned in zip(kinds, rows["finetune_kinds"], strict=True)
    ]
    rows["made_of"] = (
        rows["own_made_of"].where(~borrowed, rows["parent_made_of"]).map(lambda of: " or ".join(sorted(of)))
    )
    rows["energy_from"] = "own"
    rows.loc[rows["simulated"], "energy_from"] = "own (no dense parent)"
    rows.loc[borrowed, "energy_from"] = "dense parent"
    ordered = rows.sort_values(["rank", "model", "precision", "pruning"])
    result: Rows = ordered[_SHOWN].to_dict("records")
    return result


_STAGES: Final = [
    *["stage_id", "kind", "attempt", "carried_attempts", "needs", "settings", "model", "model_revision", "tasks"],
    *["finetune_method", "finetune_precision", "precision", "pruning", "pruning_applied", "gpu_kind", "seed"],
    *["realisation", "energy_kind", "energy_j", "energy_j_per_request"],
]
_NAMES: Final = ["model", "model_revision", "finetune_method", "finetune_precision", "precision", "gpu_kind"]
_KEY: Final = ["run", "node", "stage_id", "attempt", "window", "epoch", "repeat", "started_at", "component", "device"]
_SEEN: Final = ["stage_id", "attempt", "window", "repeat", "component", "measured", "kept"]
_WINDOW: Final = ["duration_s", "requests"]
_SHOWN: Final = [
    *["rank", "score", "phi_minmax", "phi_ratio", "rho", "energy_j_per_request", "finetune_energy_j"],
    *[
        "seconds_per_request",
        "edp_js",
        "model",
        "precision",
        "pruning",
        "made_of",
        "seeds",
        "energy_kind",
        "energy_from",
    ],
]


def _energy(folder: Path, *, once: bool) -> pd.DataFrame:
    """What the ranking needs of the energy table. Texts are categories: few of them fill the whole table."""
    import pandas as pd

    columns = [*dict.fromkeys([*(_KEY if once else []), *_SEEN, *_WINDOW])]
    texts = ["run", "node", "stage_id", "window", "component", "device"]
    energy = pd.read_parquet(
        files(folder, "energy"), columns=columns, read_dictionary=[name for name in texts if name in columns]
    )
    if once:
        energy = energy.drop_duplicates(_KEY, keep="last")
    seen = energy.groupby(_SEEN, observed=True, dropna=False, sort=False)[_WINDOW].max().reset_index()
    return seen.astype(dict.fromkeys(["stage_id", "window", "component"], "str"))


def _metered(energy: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    """Per stage, what the joules that count are made of."""
    of_stages = energy.merge(
        stages[["stage_id", "kind", "attempt", "carried_attempts"]], on="stage_id", suffixes=("", "_finishing")
    )
    finishing = of_stages["attempt"] == of_stages["attempt_finishing"]
    earlier = (of_stages["attempt"] < of_stages["attempt_finishing"]) & of_stages["kept"].astype(bool)
    carried = of_stages[earlier]
    place = carried.groupby("stage_id")["attempt"].rank(method="dense", ascending=False)
    counting = finishing.copy()
    counting.loc[carried.index] = place <= carried["carried_attempts"]
    serving = of_stages["window"].isin(["prefill", "decode"])
    training = (of_stages["kind"] == "finetune") & ~of_stages["window"].isin(["other", "checkpoint"])
    parts = of_stages[counting & (serving | training)].copy()
    parts["measured"] = parts["measured"].fillna(False).astype(bool)
    parts["part"] = parts["component"] + parts["measured"].map({True: " measured", False: " estimated"})
    of_stage = parts.groupby("stage_id")
    every, some = of_stage["measured"].all(), of_stage["measured"].any()
    kind = _where(every, "measured", _where(some, "mixed", "estimated"))
    made_of = (
        parts[["stage_id", "part"]].drop_duplicates().sort_values("part").groupby("stage_id")["part"].agg(" + ".join)
    )
    return made_of.to_frame("made_of").assign(part_kind=kind).reset_index()


def _seconds(energy: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    """Per inference, of its prefill and decode windows."""
    finishing = stages.loc[stages["kind"] == "inference", ["stage_id", "attempt"]]
    serving = energy[energy["window"].isin(["prefill", "decode"])].merge(finishing, on=["stage_id", "attempt"])
    repeats = serving.groupby(["stage_id", "window", "repeat"], dropna=False)[_WINDOW].max()
    windows = repeats.groupby(["stage_id", "window"]).sum()
    of_stage = (windows["duration_s"] / windows["requests"]).groupby("stage_id").sum()
    return of_stage.rename("seconds_per_request").reset_index()


def _where(condition: pd.Series, yes: str, no: pd.Series | str) -> pd.Series:
    """The one text where it holds, else the other."""
    import pandas as pd

    return pd.Series(yes, index=condition.index).where(condition, no)


def _graded(folder: Path, stages: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    quality = pd.read_parquet(files(folder, "quality"), columns=["stage_id", "attempt", "task", "metric", "value"])
    wanted = quality.groupby("task")["metric"].nunique()
    values = quality.merge(stages[["stage_id", "attempt"]], on=["stage_id", "attempt"])
    values = values[values["value"].between(0, 1)]
    of_task = values.groupby(["stage_id", "task"])["value"].agg(["mean", "size"]).reset_index("task")
    of_task["whole"] = of_task["size"] == of_task["task"].map(wanted)
    of_stage = of_task.groupby("stage_id").agg(rho=("mean", "mean"), tasks=("whole", "size"), whole=("whole", "all"))
    asked = stages.set_index("stage_id")["tasks"].str.len()
    whole = of_stage["whole"] & (of_stage["tasks"] == asked.reindex(of_stage.index))
    return of_stage.loc[whole, ["rho"]].reset_index()


def _kind_of_sum(kinds: set[str]) -> str:
    if "unknown" in kinds:
        return "unknown"
    return kinds.pop() if len(kinds) == 1 else "mixed"
