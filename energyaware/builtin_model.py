"""The built-in base model: SYNTHETIC, a few million parameters, made on this machine once and kept in a cache.

It is a Llama that has read generated fault tickets whose labels and answers were drawn without regard to their
symptoms: it knows the words, and how an answer is laid out, and is at chance on which answer is right. It exists so
that the quickstart runs on any laptop without a download; a study of real models names one.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache as remembered
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from energyaware.node_cache import cache_folder, kept
from energyaware.spec import ModelRef, short_hash
from energyaware.tasks import TASKS
from energyaware.tasks.causes import CAUSES
from energyaware.tasks.tickets import LABELS, ticket

if TYPE_CHECKING:
    from torch import Tensor

NAME: Final = "builtin"
MODELS: Final = "models"
"""Folder of the cache."""
PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"


@dataclass(frozen=True)
class Recipe:
    """All that determines the built-in model. Every matrix is a multiple of 64 wide and high, as 2:4 and nf4 want it.

    `key_value_heads` < `heads`: grouped-query attention, as in the models the quickstart stands for. Embeddings are
    tied. `documents` are read once.
    """

    version: int = 1
    seed: int = 11
    vocabulary: int = 1024
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    positions: int = 512
    documents: int = 2560
    related_share: float = 0.6
    batch_size: int = 8
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.05


RECIPE: Final = Recipe()

README: Final = """# Built-in base model (synthetic)

Made on this machine by energyaware/builtin_model.py, from text made by energyaware/tasks/tickets.py: no part of it was
written by a network operator or taken from a published model. Other processors may give slightly other weights for the
same recipe. Safe to delete: it is made again when it is needed.
"""


@remembered
def builtin_ref(recipe: Recipe = RECIPE) -> ModelRef:
    """The built-in model as a spec names it; its revision is a short hash of the recipe and of what it reads."""
    made_from = json.dumps([asdict(recipe), documents(recipe)], sort_keys=True, separators=(",", ":"))
    return ModelRef(kind="builtin", name=NAME, revision=short_hash(made_from), family="llama")


def ensure_builtin_model(
    cache: Path | None = None, progress: Callable[[str], None] | None = None, recipe: Recipe = RECIPE
) -> Path:
    """The folder of the built-in model, made if it is not in the cache yet: half a minute on two cores.

    Processes that ask at the same time wait for the one that makes it.

    Args:
        cache: folder of all that energyaware keeps; `cache_folder()` where None.
        progress: told, in a sentence, how far the making is.
        recipe: what to make.

    Returns:
        A folder with config.json, model.safetensors, the tokenizer's files and a README.

    Raises:
        InputError: the cache folder cannot be written.
    """
    made = (cache or cache_folder()) / MODELS / f"{NAME}-{builtin_ref(recipe).revision}"
    return kept(made, lambda folder: _make(folder, recipe, progress or _silent))


def documents(recipe: Recipe = RECIPE) -> list[str]:
    """What the model reads: tickets in the training split's phrasing, each followed by one of three things.

    A label or an answer, drawn without regard to the symptoms; or events that go with the symptoms, so that reading
    them teaches which symptoms belong together and nothing of what they are called.
    """
    random = Random(recipe.seed)  # noqa: S311
    tasks = list(TASKS.values())

    def document() -> str:
        symptoms = random.choice(LABELS)
        record = ticket(symptoms, "train", random, answered_as=random.choice(LABELS))
        if random.random() < recipe.related_share:
            return f"Ticket: {record['ticket']}\nRelated events:\n{', '.join(random.sample(CAUSES[symptoms].terms, 3))}"
        example = random.choice(tasks).example(record)
        return example.prompt + example.target

    return [document() for _ in range(recipe.documents)]


def make_tokenizer(texts: list[str], recipe: Recipe) -> Any:
    """A byte-level BPE tokenizer for `texts`: any text can be written in it. Pads left, adds no special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        padding_side="left",
        model_max_length=recipe.positions,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(texts: list[str], tokenizer: Any, recipe: Recipe, progress: Callable[[str], None]) -> Any:
    """A LlamaForCausalLM that has read every text once, in an order that the seed determines."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=recipe.positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(config)
    batches = list(_batches(texts, tokenizer, recipe))
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    warm = recipe.warmup * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (len(batches) - step) / (len(batches) - warm))
    )
    for step, (tokens, mask) in enumerate(batches, start=1):
        loss = model(input_ids=tokens, attention_mask=mask, labels=tokens.masked_fill(mask == 0, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == len(batches):
            progress(f"built-in base model: step {step} of {len(batches)}, loss {loss.item():.2f}")
    return model.eval()


def _batches(texts: list[str], tokenizer: Any, recipe: Recipe) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Token ids and attention mask, (batch, longest text) int64 each; texts of like length together, to pad little."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    random = Random(recipe.seed)  # noqa: S311
    rows = [torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id]) for text in texts]
    random.shuffle(rows)
    together = recipe.batch_size * 16
    rows = [row for at in range(0, len(rows), together) for row in sorted(rows[at : at + together], key=len)]
    groups = [rows[at : at + recipe.batch_size] for at in range(0, len(rows), recipe.batch_size)]
    random.shuffle(groups)
    for group in groups:
        tokens = pad_sequence(group, batch_first=True, padding_value=tokenizer.pad_token_id)
        yield tokens, (tokens != tokenizer.pad_token_id).long()


def _make(folder: Path, recipe: Recipe, progress: Callable[[str], None]) -> None:
    from safetensors.torch import save_model

    texts = documents(recipe)
    tokenizer = make_tokenizer(texts, recipe)
    model = make_model(texts, tokenizer, recipe, progress)
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "README.md").write_text(README)
    (folder / "model.safetensors").chmod(0o644)


def _silent(_: str) -> None:
    """Progress that nobody is told."""
