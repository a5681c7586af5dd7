import dataclasses

import pytest
import torch
from safetensors import safe_open

from energyaware.audit import audit
from energyaware.errors import AuditError
from energyaware.layers import dense_weight, eligible_layers, weight_matrix
from energyaware.lora import _adapted, add_adapter, load_adapter, merge_adapter
from energyaware.masks import achieved_sparsity, apply_masks, keep_through_training, load_masks, save_masks
from energyaware.models import load_model
from energyaware.precision import PRECISIONS
from energyaware.pruning import PRUNERS
from energyaware.spec import FinetuneSpec, ModelRef, Pruning
from tests.tiny import save_gpt2, save_llama

HALF = Pruning("magnitude", 0.5, "unstructured", "before")
TWO_OF_FOUR = Pruning("magnitude", 0.5, "2:4", "before")
FP32 = PRECISIONS["fp32"]


@pytest.fixture(scope="module", params=[save_llama, save_gpt2], ids=["llama", "gpt2"])
def folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("model"))


def ref(folder):
    return ModelRef("folder", folder.name, "x", str(folder))


def prune(model, pruning):
    """The masks; the model is pruned with them."""
    return PRUNERS[pruning.kind].prune(model, pruning, (), 0).masks


def finetune_spec(**changes):
    spec = FinetuneSpec(
        model=ModelRef("folder", "m", "x"), data=None, tasks=("root_cause",), precision="fp32", pruning=HALF,
        method="lora", epochs=1, steps=None, batch_size=4, learning_rate=1e-2, warmup=0.0, weight_decay=0.1,
        sequence_length=64, lora_rank=4, lora_alpha=8.0, lora_dropout=0.0, zero_stage=0, seed=0,
    )  # fmt: skip
    return dataclasses.replace(spec, **changes)


def test_eligible_layers_leave_out_head_and_embeddings(folder):
    model = load_model(ref(folder), FP32, "cpu")
    names = eligible_layers(model)
    assert len(names) == (14 if "llama" in type(model).__name__.lower() else 8)
    assert not any("lm_head" in name or "embed" in name or "wte" in name for name in names)


@pytest.mark.parametrize("pruning", [HALF, TWO_OF_FOUR], ids=lambda p: p.label)
def test_masks_run_along_the_input_and_survive_a_file(folder, pruning, tmp_path):
    model = load_model(ref(folder), FP32, "cpu")
    masks = prune(model, pruning)
    assert achieved_sparsity(model, masks) == 0.5
    for name, layer in eligible_layers(model).items():
        if pruning.pattern == "2:4":  # also of GPT-2's Conv1D, which stores (in, out)
            assert ((weight_matrix(layer) != 0).reshape(-1, 4).sum(-1) <= 2).all(), name
    save_masks(masks, tmp_path)
    again = load_masks(tmp_path)
    assert masks.keys() == again.keys()
    assert all(torch.equal(masks[name], again[name]) for name in masks)


def test_a_lost_mask_is_an_error(folder):
    model = load_model(ref(folder), FP32, "cpu")
    masks = prune(model, HALF)
    name = next(iter(masks))
    matrix = weight_matrix(model.get_submodule(name))
    where = (~masks[name]).nonzero()[0]
    matrix[where[0], where[1]] = 1.0
    with pytest.raises(AuditError, match=f"mask was lost: 1 of .* of {name}"):
        achieved_sparsity(model, masks)


@pytest.mark.parametrize("shape", [(24, 64), (3, 5), (1, 1), (7, 8)])
def test_a_mask_file_takes_one_bit_per_weight_and_gives_back_what_was_saved(shape, tmp_path):
    draw = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(shape, generator=draw) > 0.5 for name in ("a.b", "c")}
    masks["transposed"] = masks["c"].T.contiguous().T
    masks["same"] = masks["c"]
    save_masks(masks, tmp_path)
    again = load_masks(tmp_path)
    assert list(again) == list(masks)
    for name, mask in masks.items():
        assert again[name].dtype == torch.bool
        assert torch.equal(again[name], mask)
    with safe_open(tmp_path / "masks.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert stored == 4 * -(-shape[0] * shape[1] // 8)


def test_no_masks_leave_no_file(tmp_path):
    save_masks({}, tmp_path)
    assert not list(tmp_path.iterdir())
    assert load_masks(tmp_path) == {}


@pytest.mark.parametrize("precision", ["int8", "nf4"])
@pytest.mark.parametrize("pruning", [HALF, TWO_OF_FOUR], ids=lambda p: p.label)
def test_zeros_survive_quantisation(folder, precision, pruning, tmp_path):
    dense = load_model(ref(folder), FP32, "cpu")
    masks = prune(dense, pruning)
    dense.save_pretrained(tmp_path)
    model = load_model(ref(folder), PRECISIONS[precision], "cpu", tmp_path)
    audited = audit(model, PRECISIONS[precision])
    assert audited.quantised_layers == audited.eligible_layers == len(masks)
    assert achieved_sparsity(model, masks) == 0.5
    for name, layer in eligible_layers(model).items():
        exact = weight_matrix(dense.get_submodule(name))
        error = (dense_weight(layer).float() - exact).norm() / exact.norm()
        assert error < {"int8": 0.02, "nf4": 0.15}[precision], name


def test_audit_names_what_was_not_quantised(folder):
    with pytest.raises(AuditError, match=r"nf4: \d+ of \d+ linear layers were not quantised: .*(q_proj|c_attn)"):
        audit(load_model(ref(folder), FP32, "cpu"), PRECISIONS["nf4"])


def some_batch(model):
    return torch.randint(1, model.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(1))


def train_a_little(model, ids, steps=5):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("keep", [True, False])
def test_gradient_hooks_keep_the_mask_through_full_training(folder, keep):
    model = load_model(ref(folder), FP32, "cpu")
    masks = prune(model, HALF)
    if keep:
        keep_through_training(model, masks)
    before = {name: weight_matrix(model.get_submodule(name)).clone() for name in masks}
    train_a_little(model, some_batch(model))
    changed = [name for name in masks if not torch.equal(before[name], weight_matrix(model.get_submodule(name)))]
    assert len(changed) == len(masks), "the weights that stay do train"
    if keep:
        assert achieved_sparsity(model, masks) == 0.5
    else:
        with pytest.raises(AuditError):
            achieved_sparsity(model, masks)


def test_masked_adapter_trains_and_merges_sparse_and_merging_changes_nothing(folder, tmp_path):
    base = load_model(ref(folder), FP32, "cpu")
    masks = prune(base, HALF)
    model = add_adapter(base, finetune_spec(), masks)
    ids = some_batch(base)
    train_a_little(model, ids)
    model.eval()
    with torch.no_grad():
        unmerged = model(input_ids=ids).logits
    model.save_pretrained(tmp_path)

    fresh = load_model(ref(folder), FP32, "cpu")
    apply_masks(fresh, masks)
    loaded = load_adapter(fresh, tmp_path, masks)
    loaded.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, unmerged)
    merged = merge_adapter(loaded, masks)
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, unmerged, atol=1e-4, rtol=1e-4)
    assert achieved_sparsity(merged, masks) == 0.5


def test_an_unmasked_merge_would_leave_no_zero(folder, tmp_path):
    base = load_model(ref(folder), FP32, "cpu")
    masks = prune(base, HALF)
    model = add_adapter(base, finetune_spec(), {})
    train_a_little(model, some_batch(base))
    assert all(name in masks for name, _ in _adapted(model))
    with pytest.raises(AuditError, match="mask was lost"):
        achieved_sparsity(merge_adapter(model, {}), masks)
