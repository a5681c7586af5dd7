"""The tables of a results folder, as Arrow schemas.

Every row carries the schema version it was written under; a reader takes older ones and sees null where a column
did not exist yet. Missing is null, never 0. Joules are what was metered at the node (PUE is applied to carbon only).
`docs/tables.md` is generated from this module.
"""

from typing import Any, Final

import pyarrow as pa

SCHEMA_VERSION: Final = 1

_TEXT, _FLOAT, _INT, _FLAG, _TIME = pa.string(), pa.float64(), pa.int64(), pa.bool_(), pa.timestamp("us", tz="UTC")


def _column(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    return pa.field(name, kind, metadata={"doc": doc})


_VERSION = _column("schema_version", _INT, "version of this table's schema")

_CONFIGURATION = [
    _column("model", _TEXT, "name of the base model: builtin, folder name or hub id"),
    _column("model_revision", _TEXT, "what pins the base model: recipe hash, content hash or hub revision"),
    _column("tasks", pa.list_(_TEXT), "tasks of the configuration"),
    _column("finetune_method", _TEXT, "lora, full or none"),
    _column("finetune_precision", _TEXT, "precision the fine-tuning ran in"),
    _column("precision", _TEXT, "precision of the stage: of training in a fine-tuning, of serving in an inference"),
    _column("pruning", _TEXT, "pruning label, none for dense: magnitude-50%, magnitude-2:4, …"),
    _column("pruning_applied", _TEXT, "before or after fine-tuning; null for dense"),
    _column("seed", _INT, "seed of the trial"),
    _column("settings", _TEXT, "everything that determines the result, as canonical JSON; its hash is stage_id"),
]

PLAN = pa.schema(
    [
        _VERSION,
        _column("stage_id", _TEXT, "hash of all that determines the stage's result"),
        _column("kind", _TEXT, "finetune or inference"),
        _column("needs", pa.list_(_TEXT), "stages whose artifacts this one starts from"),
        *_CONFIGURATION,
        _column("state", _TEXT, "planned or infeasible"),
        _column("reason", _TEXT, "why it is infeasible, else null"),
    ]
)

STAGES = pa.schema(
    [
        _VERSION,
        _column("stage_id", _TEXT, "hash of all that determines the stage's result"),
        _column("kind", _TEXT, "finetune or inference"),
        _column("state", _TEXT, "finished: the row is written last, so its presence means finished"),
        _column("attempt", _INT, "the attempt that finished, from 1"),
        _column("sweep", _TEXT, "name of the sweep that ran it"),
        _column("needs", pa.list_(_TEXT), "stages whose artifacts it started from"),
        *_CONFIGURATION,
        _column("sparsity_target", _FLOAT, "share of zeros asked for in pruned layers, 0 for dense"),
        _column("sparsity_achieved", _FLOAT, "share of masked weights found at the end of the stage"),
        _column("pruned_layers", _INT, "number of pruned layers"),
        _column("realisation", _TEXT, "none, simulated, semi-structured-kernel or physical"),
        _column("eligible_layers", _INT, "linear layers that the precision could apply to"),
        _column("quantised_layers", _INT, "layers that hold quantised weights"),
        _column("skipped_layers", pa.list_(_TEXT), "eligible layers that were left unquantised"),
        _column("weight_bytes", _INT, "bytes of all parameters as loaded"),
        _column("trained_parameters", _INT, "parameters that were trained; null for inference"),
        _column("prefill_requests", _INT, "tickets whose prompts the prefill window processed; null for fine-tuning"),
        _column(
            "decode_requests", _INT, "tickets whose responses the decode window generated; null where no task does"
        ),
        _column("prompt_tokens", _INT, "prompt tokens processed in the prefill window, padding left out"),
        _column("new_tokens", _INT, "tokens generated in the decode window"),
        _column("energy_j", _FLOAT, "joules of all windows of the finishing attempt; null if any part is unknown"),
        _column("energy_j_per_request", _FLOAT, "joules of prefill and decode per ticket; null for fine-tuning"),
        _column("carbon_g", _FLOAT, "g CO2e of energy_j, PUE applied; null if unknown"),
        _column("carbon_g_per_kwh", _FLOAT, "emission factor used, PUE applied"),
        _column("pue", _FLOAT, "power usage effectiveness applied to carbon"),
        _column("measured", _FLAG, "true only if every joule of the stage comes from a hardware counter"),
        _column("duration_s", _FLOAT, "wall time of the finishing attempt"),
        _column("started_at", _TIME, "start of the finishing attempt"),
        _column("finished_at", _TIME, "when the stage was committed"),
        _column("workers", _INT, "worker processes of the gang"),
        _column("nodes", pa.list_(_TEXT), "nodes of the gang"),
        _column("device", _TEXT, "cpu or cuda"),
        _column("device_name", _TEXT, "kind of processor or GPU the workers computed on"),
        _column("versions", _TEXT, "library versions, as JSON"),
    ]
)

ATTEMPTS = pa.schema(
    [
        _VERSION,
        _column("stage_id", _TEXT, "stage"),
        _column("attempt", _INT, "number of the attempt, from 1"),
        _column("kind", _TEXT, "finetune or inference"),
        _column("state", _TEXT, "finished, failed, diverged or interrupted"),
        _column("reason", _TEXT, "one line; null when finished"),
        _column("traceback", _TEXT, "of the worker that failed first; null when finished"),
        _column("started_at", _TIME, "start"),
        _column("finished_at", _TIME, "end"),
        _column("duration_s", _FLOAT, "wall time"),
        _column("energy_j", _FLOAT, "joules of its windows; null if any part is unknown"),
        _column("kept", _FLAG, "whether its work became the stage's result; false means its joules are lost"),
        _column("measured", _FLAG, "true only if every joule comes from a hardware counter; null without windows"),
        _column("workers", _INT, "worker processes of the gang"),
        _column("nodes", pa.list_(_TEXT), "nodes of the gang"),
        _column("settings", _TEXT, "settings of the stage, as canonical JSON"),
    ]
)

EPOCHS = pa.schema(
    [
        _VERSION,
        _column("stage_id", _TEXT, "fine-tuning stage"),
        _column("attempt", _INT, "number of the attempt"),
        _column("epoch", _INT, "epoch, from 1"),
        _column("steps", _INT, "optimizer steps in the epoch"),
        _column("loss", _FLOAT, "mean training loss per target token, in nats"),
        _column("validation_loss", _FLOAT, "mean loss per target token on the validation split, in nats"),
        _column("tokens", _INT, "tokens trained on, padding left out"),
        _column("energy_j", _FLOAT, "joules of the epoch's train window, over all nodes; null if unknown"),
        _column("duration_s", _FLOAT, "wall time of the epoch's train window"),
        _column("measured", _FLAG, "true only if every joule comes from a hardware counter"),
        _column("kept", _FLAG, "whether the attempt became the stage's result"),
    ]
)

QUALITY = pa.schema(
    [
        _VERSION,
        _column("stage_id", _TEXT, "inference stage"),
        _column("attempt", _INT, "number of the attempt"),
        _column("task", _TEXT, "root_cause, response, …"),
        _column("metric", _TEXT, "accuracy, macro_f1, rouge_l, bleu, …"),
        _column("value", _FLOAT, "in [0, 1], higher is better"),
        _column("examples", _INT, "test examples it was computed over"),
    ]
)

ENERGY = pa.schema(
    [
        _VERSION,
        _column("stage_id", _TEXT, "stage; null for a node's idle time"),
        _column("attempt", _INT, "number of the attempt; null for idle"),
        _column("node", _TEXT, "machine"),
        _column("window", _TEXT, "prune, train, evaluate, prefill, decode or idle"),
        _column("epoch", _INT, "epoch of a train window, else null"),
        _column("component", _TEXT, "cpu, dram or gpu"),
        _column("device", _TEXT, "UUID of a GPU; null where the component is the node's"),
        _column("energy_j", _FLOAT, "joules; null with a reason where they could not be read"),
        _column("duration_s", _FLOAT, "length of the window"),
        _column("source", _TEXT, "where the figure comes from: codecarbon cpu_load model, rapl, nvml counter, …"),
        _column("measured", _FLAG, "true: a hardware counter; false: an estimate by a model"),
        _column("kept", _FLAG, "whether the attempt became the stage's result"),
        _column("reason", _TEXT, "why energy_j is null, else null"),
        _column("carbon_g", _FLOAT, "g CO2e, PUE applied; null if unknown"),
        _column("started_at", _TIME, "when the window was opened"),
    ]
)

TABLES: Final[dict[str, pa.Schema]] = {
    "stages": STAGES,
    "attempts": ATTEMPTS,
    "epochs": EPOCHS,
    "quality": QUALITY,
    "energy": ENERGY,
}

Row = dict[str, Any]


def to_table(schema: pa.Schema, rows: list[Row]) -> pa.Table:
    """Rows as an Arrow table of that schema.

    Raises:
        KeyError: a row has a column that the schema does not know.
    """
    for row in rows:
        if unknown := row.keys() - set(schema.names):
            raise KeyError(f"columns not in the schema: {', '.join(sorted(unknown))}")
    return pa.Table.from_pylist([{"schema_version": SCHEMA_VERSION, **row} for row in rows], schema=schema)
