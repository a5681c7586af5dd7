"""The tables of a results folder, column by column; `energyaware.arrow` has them as Arrow schemas.

Every row carries the schema version it was written under; a reader takes older ones and sees null where a column
did not exist yet. Missing is null, never 0. Joules are what was metered at the node (PUE is applied to carbon and
cost only). `docs/tables.md` is generated from this module, and it loads no library: `energyaware rank` starts with it.
"""

from collections.abc import Collection
from typing import Any, Final, Literal, NamedTuple

SCHEMA_VERSION: Final = 7

Row = dict[str, Any]

Kind = Literal["text", "texts", "int", "float", "floats", "flag", "time"]
"""Of a column: texts is a list of text, time is UTC in microseconds."""


class Column(NamedTuple):
    """One column of a table; any of its values may be null."""

    name: str
    kind: Kind
    doc: str


_VERSION = Column("schema_version", "int", "version of this table's schema")

_CONFIGURATION = (
    Column("model", "text", "name of the base model: builtin, folder name or hub id"),
    Column("model_revision", "text", "what pins the base model: recipe hash, content hash or hub revision"),
    Column(
        "model_family",
        "text",
        "architecture of the model, transformers' model_type; null in a plan where not known yet",
    ),
    Column("tasks", "texts", "tasks of the configuration"),
    Column("finetune_method", "text", "lora, full or none"),
    Column("finetune_precision", "text", "precision the fine-tuning ran in"),
    Column("precision", "text", "precision of the stage: of training in a fine-tuning, of serving in an inference"),
    Column("pruning", "text", "label, none for dense: magnitude-50%, wanda-2:4, heads-25%, …; * with overrides"),
    Column("pruning_applied", "text", "before or after fine-tuning; null for dense"),
    Column("seed", "int", "seed of the trial"),
    Column("gpu_kind", "text", "product name of the GPUs that workers held; in a plan what is asked for; else null"),
    Column("settings", "text", "everything that determines the result, as canonical JSON; its hash is stage_id"),
)

_TOTALS = (
    Column(
        "energy_j",
        "float",
        "joules of its windows but `other` and `checkpoint`, on all nodes; null if a part is unknown",
    ),
    Column(
        "energy_other_j",
        "float",
        "joules of checkpoints and between windows, such as of loading and imports: they depend on what was warm, and "
        "are compared with nothing",
    ),
    Column("energy_kind", "text", "measured, estimated, or mixed: a sum of both; null without windows"),
    Column("energy_measured_j", "float", "the part of energy_j that hardware measured"),
    Column("energy_estimated_j", "float", "the part of energy_j that a model estimated"),
    Column("energy_net_j", "float", "energy_j beyond what the machines' share draws when idle; null if unknown"),
    Column("carbon_g", "float", "g CO2e of energy_j, PUE applied; null if unknown"),
    Column("cost", "float", "price of energy_j, PUE applied; null where no price was given"),
    Column("measured", "flag", "true only if every joule comes from hardware: energy_kind is measured"),
    Column("marks", "texts", "what its windows were marked with, each as window: mark; see the energy table"),
)

PLAN = (
    _VERSION,
    Column("stage_id", "text", "hash of all that determines the stage's result"),
    Column("kind", "text", "finetune or inference"),
    Column("needs", "texts", "stages whose artifacts this one starts from"),
    *_CONFIGURATION,
    Column("state", "text", "planned, infeasible, or skipped by a funnel"),
    Column("reason", "text", "why it is infeasible or skipped, else null"),
)

STAGES = (
    _VERSION,
    Column("stage_id", "text", "hash of all that determines the stage's result"),
    Column("kind", "text", "finetune or inference"),
    Column("state", "text", "finished: the row is written last, so its presence means finished"),
    Column("attempt", "int", "the attempt that finished, from 1"),
    Column("sweep", "text", "name of the sweep that ran it"),
    Column("needs", "texts", "stages whose artifacts it started from"),
    *_CONFIGURATION,
    Column(
        "sparsity_target", "float", "share asked for of pruned weights, or of heads, neurons or layers; 0 for dense"
    ),
    Column("sparsity_achieved", "float", "the same share as found at the end of the stage"),
    Column("pruned_layers", "int", "number of linear layers with a mask; 0 where whole structures were removed"),
    Column("structures", "text", "JSON: heads, neurons, layers, … removed, as [removed, of]; null for masks"),
    Column("realisation", "text", "none, simulated, semi-structured-kernel or physical"),
    Column("realised_layers", "int", "layers on sparse kernels; null where structures were removed"),
    Column("realised_share", "float", "share of the pruned weights that saves work: 1 if physical; null for dense"),
    Column("unrealised_layers", "texts", "pruned layers left on dense kernels, each with the reason"),
    Column("calibration_examples", "int", "examples that the pruning was calibrated on; null without calibration"),
    Column("calibration_tokens", "int", "their tokens, padding left out"),
    Column("calibration_seed", "int", "seed they were drawn with"),
    Column("calibration_hash", "text", "hash of their token ids"),
    Column("storage", "text", "format of the linear layers' weights: float32, bfloat16, int8, nf4, …"),
    Column("compute", "text", "format of the arithmetic"),
    Column("eligible_layers", "int", "linear layers that precision and pruning could apply to"),
    Column("quantised_layers", "int", "layers that hold quantised weights"),
    Column("quantised_share", "float", "their share of the body's weights; 0 where nothing is quantised"),
    Column("skipped_layers", "texts", "weights of the body, experts too, in another format than the precision's"),
    Column("parameters", "int", "parameters of the loaded model, adapters left out"),
    Column("weight_bytes", "int", "bytes of all parameters as loaded, quantisation constants included, adapters not"),
    Column("bytes_by_dtype", "text", "JSON: those bytes by storage format"),
    Column("trained_parameters", "int", "parameters that were trained; null for inference"),
    Column("prefill_requests", "int", "tickets whose prompts the prefill window processed; null for fine-tuning"),
    Column("decode_requests", "int", "tickets whose responses the decode window generated; null where no task does"),
    Column("prompt_tokens", "int", "prompt tokens processed in the prefill window, padding left out"),
    Column(
        "prompt_lengths",
        "text",
        "JSON: how many prompts of the test split have so many tokens, rounded up to multiples of 16; null for "
        "fine-tuning",
    ),
    Column("new_tokens", "int", "tokens generated in the decode window"),
    *_TOTALS,
    Column("carried_attempts", "int", "earlier attempts whose training this one went on from; their joules are in"),
    Column("energy_j_per_request", "float", "joules of prefill and decode per ticket; null for fine-tuning"),
    Column("energy_net_j_per_request", "float", "the same beyond idle power; null where that is unknown"),
    Column("carbon_g_per_kwh", "float", "emission factor used, PUE applied"),
    Column("carbon_source", "text", "where the emission factor comes from"),
    Column("pue", "float", "power usage effectiveness applied to carbon and cost"),
    Column("price_per_kwh", "float", "price of electricity used, PUE not applied; null where none was given"),
    Column("currency", "text", "of price and cost"),
    Column("duration_s", "float", "wall time of the finishing attempt"),
    Column("started_at", "time", "start of the finishing attempt"),
    Column("finished_at", "time", "when the stage was committed"),
    Column("workers", "int", "worker processes of the gang"),
    Column("micro_batch_size", "int", "examples per worker and forward pass in training; null for inference"),
    Column("nodes", "texts", "nodes of the gang"),
    Column("device", "text", "cpu or cuda"),
    Column("device_name", "text", "kind of processor or GPU the workers computed on"),
    Column("versions", "text", "library versions, as JSON"),
)

ATTEMPTS = (
    _VERSION,
    Column("stage_id", "text", "stage"),
    Column("attempt", "int", "number of the attempt, from 1"),
    Column("kind", "text", "finetune or inference"),
    Column("state", "text", "finished, failed, diverged, oom, interrupted, or stopped: others were too far ahead"),
    Column("reason", "text", "one line; null when finished"),
    Column("traceback", "text", "of the worker that failed first; null when finished"),
    Column("started_at", "time", "start"),
    Column("finished_at", "time", "end"),
    Column("duration_s", "float", "wall time"),
    *_TOTALS,
    Column("kept", "flag", "whether it finished its stage; the joules of one that did not are lost, but those carried"),
    Column("from_step", "int", "optimizer steps of earlier attempts that it went on from; 0 or null: from the start"),
    Column("checkpoint_step", "int", "optimizer steps in its last committed checkpoint; null without one"),
    Column(
        "energy_carried_j",
        "float",
        "joules of its windows that the attempt which finished the stage went on from; null where none were carried",
    ),
    Column("micro_batch_size", "int", "examples per worker and forward pass in training; null for inference"),
    Column("workers", "int", "worker processes of the gang"),
    Column("nodes", "texts", "nodes of the gang"),
    Column("settings", "text", "settings of the stage, as canonical JSON"),
)

EPOCHS = (
    _VERSION,
    Column("stage_id", "text", "fine-tuning stage"),
    Column("attempt", "int", "number of the attempt"),
    Column("epoch", "int", "epoch, from 1"),
    Column("steps", "int", "optimizer steps in the epoch"),
    Column("loss", "float", "mean training loss per target token, in nats"),
    Column("validation_loss", "float", "mean loss per target token on the validation split, in nats"),
    Column("tokens", "int", "tokens trained on, padding left out"),
    Column("energy_j", "float", "joules of the epoch's train windows, over all nodes and attempts; null if unknown"),
    Column("duration_s", "float", "wall time of the epoch's train windows"),
    Column("measured", "flag", "true only if every joule comes from hardware"),
    Column("kept", "flag", "whether the attempt became the stage's result"),
)

QUALITY = (
    _VERSION,
    Column("stage_id", "text", "inference stage"),
    Column("attempt", "int", "number of the attempt"),
    Column("task", "text", "root_cause, response, …"),
    Column("metric", "text", "accuracy, macro_f1, rouge_l, bleu, …"),
    Column("value", "float", "in [0, 1], higher is better"),
    Column("examples", "int", "test examples it was computed over"),
    Column("per_example", "floats", "what each of them adds, in the order of the test set; their mean is the value"),
)

ENERGY = (
    _VERSION,
    Column("run", "text", "which run metered it"),
    Column("stage_id", "text", "stage; null for what belongs to none"),
    Column("attempt", "int", "number of the attempt; null where there is no stage"),
    Column("node", "text", "machine"),
    Column(
        "window",
        "text",
        "prune, calibrate, train, evaluate, checkpoint, prefill or decode; other: the rest of an attempt, such as "
        "loading; "
        "idle: what nobody held; unattributed: CPU and DRAM for processes of no stage",
    ),
    Column("epoch", "int", "epoch of a train or evaluate window, else null"),
    Column("from_step", "int", "optimizer steps taken before it, in a train or evaluate window; else null"),
    Column("repeat", "int", "which measurement of the same work, from 1; null where it is done once"),
    Column("requests", "int", "requests of the whole gang handled in the window; null where it handles none"),
    Column("component", "text", "cpu, dram or gpu"),
    Column("device", "text", "UUID of a GPU; null where the component is the node's"),
    Column("energy_j", "float", "joules; null with a reason where they could not be read"),
    Column("energy_net_j", "float", "joules beyond the idle power of the window's share; null if that is unknown"),
    Column("duration_s", "float", "length of the window"),
    Column("power_w", "float", "mean power: energy_j / duration_s"),
    Column("source", "text", "where the figure comes from: nvml energy counter, rapl, codecarbon cpu_load, …"),
    Column("measured", "flag", "true: hardware; false: an estimate by a model"),
    Column("kept", "flag", "whether it is part of the stage's result: of the attempt that finished it, or carried"),
    Column("reason", "text", "why energy_j is null, else null"),
    Column(
        "marks",
        "texts",
        "what to know before trusting it: short, implausible: …, disagrees: …, throttled: …, shared: …; empty if sound",
    ),
    Column(
        "power_integral_j", "float", "a GPU's sampled power integrated over the window, to hold its counter against"
    ),
    Column("power_limit_w", "float", "enforced limit of the GPU, the lowest seen"),
    Column("temperature_c", "float", "of the GPU, the highest seen"),
    Column("clock_sm_mhz", "float", "of the GPU's multiprocessors, mean of what was seen"),
    Column("clock_memory_mhz", "float", "of the GPU's memory, mean of what was seen"),
    Column("throttle_reasons", "texts", "why its clocks were held down, all that were seen"),
    Column("other_processes", "int", "processes of others on the GPU, the most seen; null where that cannot be told"),
    Column("carbon_g", "float", "g CO2e, PUE applied; null if unknown"),
    Column("cost", "float", "price, PUE applied; null where no price was given"),
    Column("started_at", "time", "when the window was opened"),
)

NODES = (
    _VERSION,
    Column("run", "text", "which run metered it"),
    Column("node", "text", "machine"),
    Column("component", "text", "cpu, dram or gpu"),
    Column("device", "text", "UUID of a GPU; null where the component is the node's"),
    Column("source", "text", "where the figures come from"),
    Column("measured", "flag", "true: hardware; false: an estimate by a model"),
    Column("energy_j", "float", "joules from the first to the last reading of the run; null with a reason"),
    Column("stages_j", "float", "of these, in windows of stages; null if any of them is unknown"),
    Column("idle_j", "float", "of these, idle"),
    Column("unattributed_j", "float", "of these, of no stage and not idle"),
    Column("difference", "float", "share of energy_j that the three parts miss or exceed: wanted within 0.005"),
    Column("reason", "text", "why energy_j or difference is null, else null"),
    Column("duration_s", "float", "from the first to the last reading"),
    Column("idle_power_w", "float", "idle power, read before anything started; null if not read"),
    Column("idle_reason", "text", "why idle power is null, or not to be trusted; else null"),
    Column("idle_context", "flag", "whether a CUDA context was alive on the GPU when its idle power was read"),
    Column("started_at", "time", "when the meter was started"),
)

COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "plan": PLAN,
    "stages": STAGES,
    "attempts": ATTEMPTS,
    "epochs": EPOCHS,
    "quality": QUALITY,
    "energy": ENERGY,
    "nodes": NODES,
}

KEYS: Final[dict[str, list[str]]] = {
    "plan": ["stage_id"],
    "stages": ["stage_id"],
    "attempts": ["stage_id", "attempt"],
    "epochs": ["stage_id", "attempt", "epoch"],
    "quality": ["stage_id", "attempt", "task", "metric"],
    "energy": [
        *["run", "node", "stage_id", "attempt", "window", "epoch", "repeat", "started_at", "component", "device"],
    ],
    "nodes": ["run", "node", "component", "device", "started_at"],
}
"""What names a row. Of rows with one key, the last in `reading_order` counts."""

FILLED: Final = {table: "node" if table in {"energy", "nodes"} else "stage_id" for table in COLUMNS}
"""Column that every file of a table has filled. Without it a file is not ours."""

COMPACTED: Final = "compacted-"
"""Files whose name starts so hold the rows of many, merged at the time that follows."""


def reading_order(name: str) -> tuple[bool, str, str]:
    """Sorts files of a table by name: a newer merged one counts over an older one, and a file of its own over both."""
    own = name.rpartition("/")[2]
    merged = own.startswith(COMPACTED)
    return not merged, own if merged else "", name


def not_of(table: str, columns: Collection[str]) -> str | None:
    """Why a file with these columns is not one of this table; None if it is, of an older schema too."""
    known = {name: sum(column.name in columns for column in of) for name, of in COLUMNS.items()}
    best = max(known, key=lambda name: known[name])
    if known[best] > known[table] and FILLED[best] in columns:
        return f"a file of the table {best}"
    return None if FILLED[table] in columns else "not a table of ours"
