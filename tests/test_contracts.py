"""What everything registered must keep to; a new entry is tested by being registered."""

import inspect

import pytest
import torch

from energyaware.audit import audit
from energyaware.layers import dense_weight, eligible_layers, weight_matrix
from energyaware.masks import achieved_sparsity
from energyaware.models import load_model, load_tokenizer
from energyaware.precision import PRECISIONS, Hardware
from energyaware.pruning import PRUNERS
from energyaware.pruning.calibration import calibration_batches
from energyaware.spec import Calibration, ModelRef, Pruning
from energyaware.tasks import TASKS
from tests.tiny import save_gpt2, save_llama

RECORD = {
    "id": "7",
    "ticket": "P1 at Kelso: low receive power on xe-1/3, otdr reflection at 12 km.",
    "root_cause": "fibre cut",
    "response": "Fibre broken behind xe-1/3 at Kelso. Send a splicing crew.",
}


@pytest.fixture(scope="module", params=[save_llama, save_gpt2], ids=["llama", "gpt2"])
def ref(request, tmp_path_factory):
    folder = request.param(tmp_path_factory.mktemp("model"))
    return ModelRef("folder", folder.name, "x", str(folder))


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_says_what_it_is_and_what_it_refuses(name):
    precision = PRECISIONS[name]
    assert precision.name == name
    assert hasattr(torch, precision.compute)
    for device in ("cpu", "cuda"):
        for method in ("lora", "full", "none"):
            reason = precision.refusal(Hardware(device), method)
            assert reason is None or (reason and "\n" not in reason)
    if precision.quantises:
        assert precision.refusal(Hardware("cuda"), "full"), "quantised weights cannot require gradients"


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_that_runs_here_computes_what_full_precision_does(ref, name):
    precision = PRECISIONS[name]
    if precision.refusal(Hardware("cpu"), "none"):
        assert not precision.refusal(Hardware("cuda"), "none"), "refused everywhere, it could be left out"
        return
    exact, model = (load_model(ref, kind, "cpu").eval() for kind in (PRECISIONS["fp32"], precision))
    audited = audit(model, precision)
    assert audited.eligible_layers == len(eligible_layers(exact))
    assert (audited.quantised_layers > 0) == precision.quantises
    ids = torch.randint(1, 300, (2, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in eligible_layers(model).values():
            assert dense_weight(layer).isfinite().all()
        difference = (model(ids).logits.float() - exact(ids).logits).norm() / exact(ids).logits.norm()
    assert difference < 0.2


LAYERWISE = [name for name, pruner in PRUNERS.items() if not pruner.structured]


def pruned(ref, pruning, seed=0):
    """A freshly loaded model, pruned, with its masks."""
    model = load_model(ref, PRECISIONS["fp32"], "cpu").eval()
    batches = ()
    if PRUNERS[pruning.kind].calibrates:
        examples = [TASKS[name].example(RECORD | {"id": str(n)}) for n in range(5) for name in TASKS]
        tokenizer = load_tokenizer(ref)
        batches = calibration_batches(Calibration(8), examples, tokenizer, model, sequence_length=64, seed=seed).batches
    return model, PRUNERS[pruning.kind].prune(model, pruning, batches, seed).masks


@pytest.mark.parametrize("name", LAYERWISE)
@pytest.mark.parametrize(("pattern", "sparsity"), [("unstructured", 0.37), ("2:4", 0.5), ("4:8", 0.5)])
def test_a_pruner_removes_exactly_what_the_settings_say_and_leaves_the_rest_alone(ref, name, pattern, sparsity):
    before = load_model(ref, PRECISIONS["fp32"], "cpu")
    pruning = Pruning() if name == "none" else Pruning(name, sparsity, pattern, "after")
    model, masks = pruned(ref, pruning)
    assert masks.keys() == eligible_layers(model).keys()
    achieved_sparsity(model, masks)
    for layer, mask in masks.items():
        found, dense = (weight_matrix(m.get_submodule(layer)) for m in (model, before))
        assert not found[~mask].any()
        if not PRUNERS[name].reconstructs:
            assert torch.equal(found[mask], dense[mask])
        assert int(mask.sum()) == round((1 - pruning.sparsity) * mask.numel())
        if ":" in pruning.pattern:
            n, m = map(int, pruning.pattern.split(":"))
            assert (mask.view(mask.shape[0], -1, m).sum(-1) == n).all()
    assert torch.equal(model.get_output_embeddings().weight, before.get_output_embeddings().weight)


@pytest.mark.parametrize("name", LAYERWISE)
def test_a_pruner_is_deterministic(ref, name):
    pruning = Pruning() if name == "none" else Pruning(name, 0.37, "unstructured", "after")
    (first, masks), (second, same) = (pruned(ref, pruning, seed=3) for _ in range(2))
    for layer in masks:
        assert torch.equal(masks[layer], same[layer])
        assert torch.equal(first.get_submodule(layer).weight, second.get_submodule(layer).weight)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_asks_and_scores(name):
    task = TASKS[name]
    assert task.name == name
    example = task.example({field: RECORD[field] for field in task.fields})
    assert example.target
    assert example.target not in example.prompt
    perfect = task.score([example.target] * 3, [example.target] * 3)
    assert all(score.value > 0.99 for score in perfect.values())
    for answers in (["", "", ""], ["nonsense"] * 3):
        scores = task.score(answers, [example.target] * 3)
        assert scores.keys() == perfect.keys()
        assert all(0 <= score.value < 0.5 for score in scores.values())


@pytest.mark.parametrize("registry", [PRECISIONS, PRUNERS, TASKS], ids=["precisions", "pruners", "tasks"])
def test_everything_registered_says_what_it_does(registry):
    for name, entry in registry.items():
        assert inspect.getdoc(type(entry)), name
