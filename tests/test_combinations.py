"""Every precision x pruning x family that the project says it supports, and every one it says it does not.

What docs/support.md promises is what runs here: both ask `energyaware.support`. Models are tiny, of each family's real
classes, with random weights.
"""

import dataclasses

import pytest
import torch

from energyaware.assemble import plain
from energyaware.audit import audit
from energyaware.errors import AuditError
from energyaware.families import FAMILIES
from energyaware.layers import eligible_layers
from energyaware.lora import add_adapter, merge_adapter
from energyaware.masks import apply_masks, keep_through_training
from energyaware.model_ref import folder_ref
from energyaware.models import load_model
from energyaware.precision import PRECISIONS, Hardware
from energyaware.pruning import PRUNERS
from energyaware.pruning_record import NOT_PRUNED, PruningRecord
from energyaware.serving import choose, generate, prefill
from energyaware.spec import DENSE, Calibration, FinetuneSpec, Pruning
from energyaware.support import family_refusal
from tests.tiny import FAMILIES_TINY

HERE = Hardware("cpu")
PRECISIONS_HERE = [name for name, precision in PRECISIONS.items() if not precision.refusal(HERE, "none")]

SUPPORTED = [
    (family, pruning, precision)
    for family in FAMILIES
    for pruning in PRUNERS
    for precision in PRECISIONS_HERE
    if not family_refusal(family, precision, pruning)
]
REFUSED = [(family, pruning) for family in FAMILIES for pruning in PRUNERS if family_refusal(family, "fp32", pruning)]


def pruning_of(kind):
    if kind == "none":
        return DENSE
    pattern = "structured" if PRUNERS[kind].structured else "2:4"
    calibration = Calibration(8) if PRUNERS[kind].calibrates else None
    return Pruning(kind, 0.5, pattern, "before", calibration=calibration)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    made = {}

    def base(family):
        if family not in made:
            folder = FAMILIES_TINY[family](tmp_path_factory.mktemp(family))
            made[family] = folder_ref(folder, "model")
        return made[family]

    return base


@pytest.fixture(scope="module")
def pruned(base, tmp_path_factory):
    """Folder of plain weights of a family's model after a pruning, as every stage loads them."""
    made = {}

    def pruned(family, kind):
        if (family, kind) not in made:
            model = load_model(base(family), PRECISIONS["fp32"], "cpu").eval()
            done = PRUNERS[kind].prune(model, pruning_of(kind), calibration(model), 0)
            record = PruningRecord(done.masks, done.removed) if kind != "none" else NOT_PRUNED
            record.verify(model)
            folder = tmp_path_factory.mktemp(f"{family}-{kind}")
            model.save_pretrained(folder)
            record.save(folder)
            made[family, kind] = folder
        return made[family, kind]

    return pruned


def tokens(model, shape, seed=0):
    return torch.randint(5, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def calibration(model):
    """Two batches of unequal lengths, padded on the right."""
    batches = []
    for seed in (1, 2):
        ids, attention = tokens(model, (4, 14), seed), torch.ones(4, 14, dtype=torch.int64)
        attention[0, 9:] = 0
        batch = {"input_ids": ids * attention, "attention_mask": attention}
        if model.config.is_encoder_decoder:
            answers, present = tokens(model, (4, 6), seed + 10), torch.ones(4, 6, dtype=torch.int64)
            present[1, 4:] = 0
            batch |= {"decoder_input_ids": answers * present, "decoder_attention_mask": present}
        batches.append(batch)
    return batches


def train_a_little(model):
    ids = tokens(model, (4, 16))
    weights = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in weights]
    optimizer = torch.optim.AdamW(weights, lr=5e-3)
    model.train()
    losses = []
    for _ in range(3):
        torch.manual_seed(0)  # the same dropout in every step, so that losses compare
        loss = model(input_ids=ids, labels=ids).loss
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert losses[-1] < losses[0]
    assert any(not torch.equal(now, then) for now, then in zip(weights, before, strict=True))


def answers(model):
    """What it generates for two prompts, one of them padded, and which of three labels it would choose."""
    ids, attention = tokens(model, (2, 8)), torch.ones(2, 8, dtype=torch.int64)
    attention[0, :3] = 0
    with torch.no_grad():
        generated = generate(model, prefill(model, ids, attention), 4, None)
        chosen = choose(model, prefill(model, ids, attention), [[7, 8, 0], [9, 0], [11]])
    assert generated.shape == (2, 4)
    assert chosen.shape == (2,)
    return generated.tolist(), chosen.tolist()


def lora_spec(ref, precision, kind):
    return FinetuneSpec(
        model=ref, data=None, tasks=("root_cause",), precision=precision, pruning=pruning_of(kind), method="lora",
        epochs=1, steps=None, batch_size=4, learning_rate=1e-3, warmup=0.0, weight_decay=0.0, sequence_length=64,
        lora_rank=4, lora_alpha=8.0, lora_dropout=0.0, zero_stage=0, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize(("family", "kind", "precision"), SUPPORTED)
def test_a_supported_combination_does_what_its_name_says(base, pruned, family, kind, precision):
    ref, folder, number_format = base(family), pruned(family, kind), PRECISIONS[precision]
    record = PruningRecord.load(folder)
    model = load_model(ref, number_format, "cpu", folder).eval()

    audited = audit(model, number_format)
    assert audited.columns["storage"] == number_format.storage
    assert audited.columns["skipped_layers"] == []
    assert audited.columns["quantised_layers"] == (len(eligible_layers(model)) if number_format.quantises else 0)
    share = record.verify(model)
    assert share == (0 if kind == "none" else pytest.approx(0.5, abs=0.17))  # whole structures may not halve exactly
    answers(model)

    if "full" in number_format.trains:
        model.requires_grad_(True)
        keep_through_training(model, record.masks)
        train_a_little(model)
        assert record.verify(model) == share
        model = load_model(ref, number_format, "cpu", folder).eval()

    adapted = add_adapter(model, lora_spec(ref, precision, kind), record.masks)
    train_a_little(adapted)
    assert record.verify(plain(adapted)) == share
    unmerged = answers(adapted)
    if not number_format.quantises:
        merged = merge_adapter(adapted, record.masks)
        assert record.verify(merged) == share
        if precision == "fp32":
            assert answers(merged) == unmerged


@pytest.mark.parametrize(("family", "kind"), REFUSED)
def test_what_is_refused_cannot_be_done(base, family, kind):
    model = load_model(base(family), PRECISIONS["fp32"], "cpu").eval()
    with pytest.raises(AuditError):
        PRUNERS[kind].prune(model, pruning_of(kind), calibration(model), 0)


@pytest.mark.parametrize("kind", [name for name, pruner in PRUNERS.items() if not pruner.structured])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruning_after_masks_were_applied_removes_nothing_more(base, pruned, family, kind):
    """Masks say all that was removed: on the same weights, applying them again changes nothing."""
    model = load_model(base(family), PRECISIONS["fp32"], "cpu", pruned(family, kind))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    apply_masks(model, PruningRecord.load(pruned(family, kind)).masks)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_every_family_has_a_tiny_model_and_is_told_from_its_folder(base):
    for family in FAMILIES:
        assert base(family).family == family
        assert dataclasses.replace(base(family), family="") != base(family)


def test_most_of_the_grid_is_supported():
    assert {family for family, *_ in SUPPORTED} == set(FAMILIES)
    assert len(SUPPORTED) > 0.85 * len(FAMILIES) * len(PRUNERS) * len(PRECISIONS_HERE)
