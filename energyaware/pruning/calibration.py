"""The examples whose activations a calibrated pruner looks at: which, as tokens, and what pins them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.batches import filled, tokenise
from energyaware.errors import InputError
from energyaware.pruning.base import Batch
from energyaware.rows import Row
from energyaware.spec import DataRef, short_hash
from energyaware.tasks.record_files import READERS, read_records

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

    from energyaware.spec import Calibration
    from energyaware.tasks.base import Example

EXAMPLES_PER_BATCH: Final = 8

TEXT: Final = "text"
"""Our name for the field of own plain texts."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class CalibrationSet:
    """Batches on the model's device, and columns of the stage's row that say what they are."""

    batches: Sequence[Batch] = ()
    columns: Row = field(default_factory=dict)


NO_CALIBRATION: Final = CalibrationSet()


def calibration_batches(
    calibration: Calibration,
    examples: Sequence[Example],
    tokenizer: Any,
    model: Any,
    *,
    sequence_length: int,
    seed: int,
) -> CalibrationSet:
    """Draw examples with the seed and make batches of them, padded on the right.

    A decoder reads prompt and answer as one sequence, of an own text at most `sequence_length` tokens from a drawn
    place in it. An encoder-decoder reads the prompt, or the first half of a text, with its encoder and the rest with
    its decoder; the two are padded to different lengths, so that a tensor's shape says which tokens it holds.

    Args:
        calibration: how many, and of what: own texts, or `examples` where it names none.
        examples: of the tasks' training split.
        tokenizer: the model's.
        model: tells the device and whether it is an encoder-decoder.
        sequence_length: most tokens of an example; of a longer one the start of the prompt is left out.
        seed: of what is drawn.

    Returns:
        Batches, and the columns calibration_examples, calibration_tokens (padding left out), calibration_seed and
        calibration_hash (over the token ids). All there is, where it is fewer than asked for.

    Raises:
        InputError: the texts cannot be read, or are others than when the plan was made.
    """
    import numpy as np

    random = np.random.default_rng([seed, calibration.examples])
    texts = load_texts(calibration.data) if calibration.data else None
    drawn = random.permutation(len(examples if texts is None else texts))[: calibration.examples]
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    if texts is None:
        answered = tokenise([examples[index] for index in drawn], tokenizer, sequence_length)
        parts = [(item.ids[: item.prompt_length], item.ids[item.prompt_length :]) for item in answered]
    else:
        read = tokenizer([texts[index] for index in drawn])["input_ids"]
        parts = [_halves(_excerpt(ids, sequence_length, random)) for ids in read]
    if start is None:
        rows: list[tuple[Ids, ...]] = [((*prompt, *answer),) for prompt, answer in parts]
    else:
        rows = [(prompt, (start, *answer[:-1])) for prompt, answer in parts]
    columns: Row = {
        "calibration_examples": len(rows),
        "calibration_tokens": sum(len(ids) for row in rows for ids in row),
        "calibration_seed": seed,
        "calibration_hash": short_hash(json.dumps(rows)),
    }
    rows.sort(key=lambda row: len(row[0]))  # to pad little
    groups = [rows[at : at + EXAMPLES_PER_BATCH] for at in range(0, len(rows), EXAMPLES_PER_BATCH)]
    return CalibrationSet([_batch(group, tokenizer.pad_token_id, model.device) for group in groups], columns)


def text_ref(path: str | Path, column: str = TEXT) -> DataRef:
    """Own plain texts to calibrate on, one per record of a CSV, JSON lines or Parquet file, pinned by content.

    Raises:
        InputError: the file is missing or of another kind.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(file, "calibration.path", "is a folder, not a file" if file.is_dir() else "no such file")
    if file.suffix.lower() not in READERS:
        kind = file.suffix or "a file without an ending"
        raise InputError(file, "calibration.path", f"{kind} is not known; allowed are {', '.join(READERS)}")
    return DataRef("files", file.name, _digest(file), ((TEXT, column),), (("all", str(file.resolve())),))


def load_texts(ref: DataRef) -> list[str]:
    """The texts of a `text_ref`.

    Raises:
        InputError: the file is gone, has changed since the plan was made, holds no text, lacks the column, or a value
            in it is empty or no text.
    """
    _, file = ref.files[0]
    column = dict(ref.columns)[TEXT]
    if text_ref(file, column).revision != ref.revision:
        raise InputError(file, "calibration.path", "the content has changed since the plan was made")
    try:
        texts = [record[TEXT] for record in read_records(Path(file), {TEXT: column})]
    except InputError as error:  # the reader's fields are those of the data
        here = "calibration.column" if error.field.startswith("data.columns") else "calibration.path"
        raise InputError(error.source, here, error.problem) from error
    if not texts:
        raise InputError(file, "calibration.path", "holds no text")
    return texts


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return short_hash(hashlib.file_digest(stream, "sha256").hexdigest())


def _excerpt(ids: Sequence[int], at_most: int, random: Generator) -> Ids:
    """The ids, or of a longer text as many as are allowed, from a drawn place."""
    start = int(random.integers(max(1, len(ids) - at_most + 1)))
    return tuple(ids[start : start + at_most])


def _halves(ids: Ids) -> tuple[Ids, Ids]:
    middle = (len(ids) + 1) // 2
    return ids[:middle], ids[middle:]


def _batch(rows: Sequence[tuple[Ids, ...]], pad_id: int, device: Any) -> Batch:
    """Of rows of one part (a decoder's) or two (an encoder's and a decoder's)."""
    lengths = [max(len(row[part]) for row in rows) for part in range(len(rows[0]))]
    if len(set(lengths)) < len(lengths):
        lengths[-1] += 1
    batch: dict[str, Tensor] = {}
    for part, length, prefix in zip(zip(*rows, strict=True), lengths, ("", "decoder_"), strict=False):
        ids, mask = filled(part, pad_id, length), filled([[1] * len(ids) for ids in part], 0, length)
        batch |= {f"{prefix}input_ids": ids.to(device), f"{prefix}attention_mask": mask.to(device)}
    return batch
