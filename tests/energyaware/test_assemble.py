"""Where an adapter goes before a model is served."""

from types import SimpleNamespace

import pytest
import torch

from energyaware.assemble import Materials, model_to_serve, plain
from energyaware.energy.base import NullMeter
from energyaware.layers import dense_weight, eligible_layers
from energyaware.lora import add_adapter
from energyaware.masks import achieved_sparsity
from energyaware.model_ref import folder_ref
from energyaware.models import load_model
from energyaware.precision import PRECISIONS
from energyaware.pruning import PRUNERS
from energyaware.pruning_record import PruningRecord
from energyaware.spec import DENSE, FinetuneSpec, InferenceSpec, Pruning
from tests.tiny import save_llama

ALONE = SimpleNamespace(rank=0, world_size=1, device="cpu")
HALF = Pruning("magnitude", 0.5, "unstructured", "before")


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    return folder_ref(save_llama(tmp_path_factory.mktemp("llama")), "model")


def finetuned(ref, pruning, artifact):
    """Leaves an adapter that changes every weight; returns what base and adapter are together, by layer."""
    model = load_model(ref, PRECISIONS["fp32"], "cpu").eval()
    masks = PRUNERS["magnitude"].prune(model, pruning, (), 0).masks if pruning is HALF else {}
    spec = FinetuneSpec(
        model=ref, data=None, tasks=("root_cause",), precision="bf16", pruning=pruning, method="lora", epochs=1,
        steps=None, batch_size=4, learning_rate=1e-3, warmup=0.0, weight_decay=0.0, sequence_length=64, lora_rank=4,
        lora_alpha=8.0, lora_dropout=0.0, zero_stage=0, seed=0,
    )  # fmt: skip
    adapted = add_adapter(model, spec, masks)
    torch.manual_seed(1)
    together = {}
    for name, layer in eligible_layers(adapted.get_base_model()).items():
        part = adapted.get_base_model().get_submodule(name)
        part.lora_B["default"].weight.data.normal_(std=0.1)
        change = part.get_delta_weight("default").detach()
        together[name] = layer.weight.detach() + (change * masks[name] if masks else change)
    adapted.save_pretrained(artifact)
    PruningRecord(masks).save(artifact)
    return together


def served(ref, pruning, artifact, scratch, trained_in, served_in):
    spec = InferenceSpec(
        model=ref, data=None, tasks=("root_cause",), finetuned="x", finetune_method="lora",
        finetune_precision=trained_in, precision=served_in, pruning=pruning, batch_size=1, sequence_length=64,
        max_new_tokens=4, test_examples=None, min_window_s=0.1, repeats=1, seed=0,
    )  # fmt: skip
    return model_to_serve(spec, ALONE, NullMeter(), artifact, scratch, Materials(None, ()))


@pytest.mark.parametrize("pruning", [DENSE, HALF], ids=lambda p: p.label)
@pytest.mark.parametrize("precision", [name for name, precision in PRECISIONS.items() if "lora" in precision.trains])
def test_an_adapter_that_stays_apart_computes_in_what_the_model_does(ref, tmp_path, pruning, precision):
    artifact, scratch = tmp_path / "artifact", tmp_path / "scratch"
    scratch.mkdir()
    finetuned(ref, pruning, artifact)
    model, _ = served(ref, pruning, artifact, scratch, precision, precision)
    changes = [*model.named_parameters(), *model.named_buffers()]
    changes = [change for name, change in changes if "lora_" in name or name.endswith("masked_change")]
    assert bool(changes) == PRECISIONS[precision].quantises
    assert {change.dtype for change in changes} <= {getattr(torch, PRECISIONS[precision].compute)}


@pytest.mark.parametrize("pruning", [DENSE, HALF], ids=lambda p: p.label)
@pytest.mark.parametrize(
    ("trained_in", "served_in", "stays_apart"),
    [
        ("bf16", "nf4", False),
        ("int8", "nf4", False),
        ("nf4", "bf16", False),
        ("nf4", "nf4", True),
        ("int8", "int8", True),
    ],
)
def test_only_over_the_quantised_weights_it_learnt_over_an_adapter_stays_apart(
    ref, tmp_path, pruning, trained_in, served_in, stays_apart
):
    artifact, scratch = tmp_path / "artifact", tmp_path / "scratch"
    scratch.mkdir()
    together = finetuned(ref, pruning, artifact)
    model, record = served(ref, pruning, artifact, scratch, trained_in, served_in)
    assert hasattr(model, "get_base_model") == stays_apart
    layers = eligible_layers(plain(model))
    assert achieved_sparsity(plain(model), record.masks) == (0.5 if pruning is HALF else 0)
    if not stays_apart:
        for name, wanted in together.items():
            error = (dense_weight(layers[name]).float() - wanted).norm() / wanted.norm()
            assert error < {"nf4": 0.12, "bf16": 0.005}[served_in], name
