"""The measured windows of inferences, one by one: what was measured again under the same seed, and how long it took."""

from typing import Final

import polars as pl

from analysis.kinds import SERVING

PREFILL, DECODE = SERVING

_OF_REPEAT: Final = ["stage_id", "window", "repeat"]


def repeats(stages: pl.LazyFrame, energy: pl.LazyFrame) -> pl.LazyFrame:
    """Prefill and decode windows of the attempts that finished inferences, over all nodes and components.

    Returns:
        stage_id, window, repeat (null where the work was measured once); `requests` of the whole gang; `energy_j` and
        `energy_net_j`, null if any part is unknown; `duration_s` of the node that took longest, for the gang is done
        when its last node is; null if any node's is unknown.
    """
    finishing = stages.filter(pl.col("kind") == "inference").select("stage_id", "attempt")
    return (
        energy.filter(pl.col("window").is_in(SERVING))
        .join(finishing, on=["stage_id", "attempt"])
        .group_by(_OF_REPEAT)
        .agg(
            pl.max("requests"),
            *(_if_all_known(column, pl.sum(column)) for column in ("energy_j", "energy_net_j")),
            _if_all_known("duration_s", pl.max("duration_s")),
        )
    )


def seconds_per_request(stages: pl.LazyFrame, energy: pl.LazyFrame) -> pl.LazyFrame:
    """Seconds of prefill per request read plus seconds of decode per request answered, over all repeats, per stage.

    Null if any part is unknown: windows that the stage's requests tell of are not there, or handled none.
    """

    def of(window: str) -> pl.Expr:
        mine = pl.col("window") == window
        seconds = pl.col("duration_s").filter(mine)
        requests = pl.col("requests").filter(mine)
        known = (seconds.null_count() == 0) & (requests.null_count() == 0) & (requests.sum() > 0)
        return pl.when(known).then(seconds.sum() / requests.sum())

    return (
        repeats(stages, energy)
        .group_by("stage_id")
        .agg(prefill_s=of(PREFILL), decode_s=of(DECODE), decoded=(pl.col("window") == DECODE).any())
        .join(stages.select("stage_id", "decode_requests"), on="stage_id", how="left")
        .select(
            "stage_id",
            seconds_per_request=pl.when(pl.col("decoded") | (pl.col("decode_requests").fill_null(0) > 0))
            .then(pl.col("prefill_s") + pl.col("decode_s"))
            .otherwise("prefill_s"),
        )
    )


def _if_all_known(column: str, value: pl.Expr) -> pl.Expr:
    return pl.when(pl.col(column).null_count() == 0).then(value).alias(column)
