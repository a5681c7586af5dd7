"""The product's ranking in DuckDB's SQL; `ranking_peers.py` tells what it does and leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ranking_peers import REQUESTS, WEIGHT, Rows, files


def with_duckdb(folder: Path, *, once: bool = True) -> Rows:
    """Ranked rows, best first."""
    import duckdb

    with duckdb.connect() as connection:
        for table in ("stages", "quality", "energy"):
            connection.execute(f"SET VARIABLE {table} = ?", [files(folder, table)])
        connection.execute("SET VARIABLE plan = ?", [str(folder / "plan.parquet")])
        sql = _SQL.format(energy=_ENERGY_ONCE if once else _ENERGY)
        cursor = connection.execute(sql, {"weight": WEIGHT, "requests": REQUESTS})
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


_ENERGY: Final = """
    SELECT stage_id, attempt, "window", repeat, component, measured, kept, max(duration_s) AS duration_s,
           max(requests) AS requests
    FROM read_parquet(getvariable('energy')) GROUP BY ALL
"""

_ENERGY_ONCE: Final = """
    SELECT stage_id, attempt, "window", repeat, component, row.measured, row.kept, max(row.duration_s) AS duration_s,
           max(row.requests) AS requests
    FROM (
        SELECT stage_id, attempt, "window", repeat, component,
               arg_max({'measured': measured, 'kept': kept, 'duration_s': duration_s, 'requests': requests}, filename)
                   AS row
        FROM read_parquet(getvariable('energy'), filename = true)
        GROUP BY run, node, stage_id, attempt, "window", epoch, repeat, started_at, component, device
    ) GROUP BY ALL
"""

_SQL: Final = """
WITH stages AS MATERIALIZED (
    SELECT stage_id, kind, attempt, carried_attempts, needs, settings, model, model_revision, tasks, finetune_method,
           finetune_precision, precision, pruning, pruning_applied, gpu_kind, seed, realisation, energy_kind,
           energy_j, energy_j_per_request
    FROM read_parquet(getvariable('stages'), filename = true)
    QUALIFY row_number() OVER (PARTITION BY stage_id ORDER BY filename DESC) = 1
), energy AS MATERIALIZED ({energy}
), carried AS (
    SELECT stage_id, attempt FROM (
        SELECT stage_id, e.attempt, any_value(s.carried_attempts) AS wanted,
               row_number() OVER (PARTITION BY stage_id ORDER BY e.attempt DESC) AS place
        FROM energy e JOIN stages s USING (stage_id) WHERE e.attempt < s.attempt AND e.kept
        GROUP BY stage_id, e.attempt
    ) WHERE place <= wanted
), counting AS (
    SELECT stage_id, attempt FROM stages UNION SELECT stage_id, attempt FROM carried
), metered AS (
    SELECT stage_id,
           string_agg(DISTINCT component || CASE WHEN measured THEN ' measured' ELSE ' estimated' END, ' + '
                      ORDER BY component || CASE WHEN measured THEN ' measured' ELSE ' estimated' END) AS made_of,
           CASE WHEN bool_and(coalesce(measured, false)) THEN 'measured'
                WHEN NOT bool_or(coalesce(measured, false)) THEN 'estimated' ELSE 'mixed' END AS kind
    FROM energy JOIN counting USING (stage_id, attempt)
    JOIN (SELECT stage_id, kind AS stage_kind FROM stages) USING (stage_id)
    WHERE "window" IN ('prefill', 'decode') OR (stage_kind = 'finetune' AND "window" NOT IN ('other', 'checkpoint'))
    GROUP BY stage_id
), served AS (
    SELECT stage_id, sum(seconds / requests) AS seconds_per_request FROM (
        SELECT stage_id, "window", sum(duration_s) AS seconds, sum(requests) AS requests FROM (
            SELECT stage_id, "window", repeat, max(duration_s) AS duration_s, max(requests) AS requests
            FROM energy JOIN stages USING (stage_id, attempt)
            WHERE kind = 'inference' AND "window" IN ('prefill', 'decode') GROUP BY ALL
        ) GROUP BY ALL
    ) GROUP BY stage_id
), known AS (
    SELECT s.*, m.made_of, coalesce(m.kind, s.energy_kind, 'unknown') AS part_kind, seconds_per_request
    FROM stages s LEFT JOIN metered m USING (stage_id) LEFT JOIN served USING (stage_id)
), finetunings AS (
    SELECT stage_id AS finetuned, energy_j AS finetune_energy_j, part_kind AS finetune_kind,
           json_merge_patch(settings, '{{"seed": null}}')::VARCHAR AS finetune_configuration,
           json_merge_patch(settings, '{{"seed": null, "pruning": null}}')::VARCHAR AS finetune_family
    FROM known WHERE kind = 'finetune'
), inferences AS MATERIALIZED (
    SELECT k.*, f.*,
           concat_ws('|', model, model_revision, tasks, finetune_method, finetune_precision, precision, gpu_kind,
                     json_merge_patch(settings, '{{"seed": null, "finetuned": null, "pruning": null}}')::VARCHAR,
                     finetune_family) AS family,
           concat_ws('|', model, model_revision, tasks, finetune_method, finetune_precision, precision, gpu_kind,
                     pruning, pruning_applied,
                     json_merge_patch(settings, '{{"seed": null, "finetuned": null}}')::VARCHAR,
                     finetune_configuration) AS configuration
    FROM known k JOIN finetunings f ON k.needs[1] = f.finetuned
    WHERE kind = 'inference' AND energy_j_per_request > 0 AND isfinite(energy_j_per_request)
), graded AS (
    SELECT stage_id, avg(of_task) AS rho FROM (
        SELECT q.stage_id, task, avg(value) AS of_task, count(*) AS found
        FROM read_parquet(getvariable('quality')) q JOIN stages s ON q.stage_id = s.stage_id AND q.attempt = s.attempt
        WHERE value BETWEEN 0 AND 1 GROUP BY q.stage_id, task
    ) JOIN (SELECT task, count(DISTINCT metric) AS wanted FROM read_parquet(getvariable('quality')) GROUP BY task)
      USING (task) JOIN stages USING (stage_id)
    GROUP BY stage_id
    HAVING bool_and(found = wanted) AND count(*) = any_value(len(tasks))
), parents AS (
    SELECT family, avg(energy_j_per_request) AS parent_energy_j, list(DISTINCT part_kind) AS parent_kinds,
           list(DISTINCT made_of) AS parent_made_of,
           avg(seconds_per_request) AS parent_seconds
    FROM inferences WHERE pruning = 'none' GROUP BY family
), configurations AS (
    SELECT configuration, any_value(family) AS family, any_value(model) AS model, any_value(precision) AS precision,
           any_value(pruning) AS pruning, avg(rho) AS rho, avg(energy_j_per_request) AS own_energy_j,
           avg(seconds_per_request) AS own_seconds, avg(finetune_energy_j) AS finetune_energy_j,
           list(DISTINCT part_kind) AS own_kinds,
           list(DISTINCT finetune_kind) AS finetune_kinds, list(DISTINCT made_of) AS own_made_of,
           count(DISTINCT seed) AS seeds, bool_or(realisation = 'simulated') AS simulated
    FROM inferences JOIN graded USING (stage_id) SEMI JOIN read_parquet(getvariable('plan')) plan USING (stage_id)
    WHERE finetune_energy_j > 0 AND isfinite(finetune_energy_j)
    GROUP BY configuration
), energies AS (
    SELECT *, simulated AND parent_energy_j IS NOT NULL AS borrowed,
           CASE WHEN borrowed THEN parent_energy_j ELSE own_energy_j END + finetune_energy_j / $requests
               AS energy_j_per_request,
           CASE WHEN borrowed THEN parent_seconds ELSE own_seconds END AS seconds_per_request,
           list_distinct(list_concat(CASE WHEN borrowed THEN parent_kinds ELSE own_kinds END, finetune_kinds)) AS kinds,
           array_to_string(list_sort(CASE WHEN borrowed THEN parent_made_of ELSE own_made_of END), ' or ') AS made_of
    FROM configurations LEFT JOIN parents USING (family)
), efficiencies AS (
    SELECT *, max(energy_j_per_request) OVER () AS highest, min(energy_j_per_request) OVER () AS lowest,
           CASE WHEN highest - lowest > 1e-9 * highest THEN (highest - energy_j_per_request) / (highest - lowest)
                ELSE 1.0 END AS phi_minmax,
           lowest / energy_j_per_request AS phi_ratio
    FROM energies
)
SELECT rank() OVER (ORDER BY round($weight * phi_minmax + (1 - $weight) * rho, 12) DESC) AS rank,
       $weight * phi_minmax + (1 - $weight) * rho AS score, phi_minmax, phi_ratio, rho, energy_j_per_request,
       finetune_energy_j, seconds_per_request, energy_j_per_request * seconds_per_request AS edp_js, model, precision,
       pruning, made_of, seeds,
       CASE WHEN list_contains(kinds, 'unknown') THEN 'unknown' WHEN len(kinds) = 1 THEN kinds[1] ELSE 'mixed' END
           AS energy_kind,
       CASE WHEN borrowed THEN 'dense parent' WHEN simulated THEN 'own (no dense parent)' ELSE 'own' END AS energy_from
FROM efficiencies ORDER BY rank, model, precision, pruning
"""
