"""Evaluation by several ranks, of models that are broken and test splits that are small."""

import pytest
import torch

from energyaware import inference
from energyaware.errors import Diverged
from energyaware.model_ref import folder_ref
from energyaware.models import load_model, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.spec import DENSE, InferenceSpec
from energyaware.tasks import TASKS
from energyaware.tasks.tickets import tickets
from tests.energyaware.alone import Alone

pytestmark = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="module")
def ref(folders):
    return folder_ref(folders("llama"), "model")


@pytest.fixture
def model(ref):
    return load_model(ref, PRECISIONS["fp32"], "cpu").eval()


@pytest.fixture
def evaluate(ref, monkeypatch):
    """Evaluates as a rank of two; each sees what it gathered itself and what those before it did."""
    told = []

    def gather(value):
        told.append(value)
        return told

    monkeypatch.setattr(inference, "gather", gather)
    spec = InferenceSpec(
        model=ref, data=None, tasks=tuple(TASKS), finetuned=None, finetune_method="none", finetune_precision="fp32",
        precision="fp32", pruning=DENSE, batch_size=2, sequence_length=64, max_new_tokens=4, test_examples=None,
        min_window_s=1, repeats=1, seed=0,
    )  # fmt: skip
    train, test = tickets("train")[:40], tickets("test")

    @torch.inference_mode()
    def evaluate(task, model, rank, examples):
        desk = inference._Desk(TASKS[task], train, test[:examples], model, load_tokenizer(ref), spec)
        return desk.evaluate(Alone(rank, 2))

    return evaluate


def test_a_rank_without_examples_evaluates_with_the_others(evaluate, model, task):
    first, second = (evaluate(task, model, rank, examples=1) for rank in range(2))
    assert first == second
    assert all(row["examples"] == 1 for row in first)


def test_logits_that_are_no_numbers_have_no_quality_on_any_rank(evaluate, model, ref, task):
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("inf")
    with pytest.raises(Diverged, match=f"{task}: the model's logits are no numbers"):
        evaluate(task, model, 0, examples=1)
    with pytest.raises(Diverged, match=f"{task}: the model's logits are no numbers"):
        evaluate(task, load_model(ref, PRECISIONS["fp32"], "cpu").eval(), 1, examples=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_after_the_prompt_alone_are_noticed(evaluate, model, task, value):
    def break_answers(module, arguments, output):
        if seen:
            output.logits.fill_(value)
        seen.append(1)

    seen = []
    model.register_forward_hook(break_answers)
    with pytest.raises(Diverged, match=f"{task}: the model's logits are no numbers"):
        evaluate(task, model, 0, examples=1)


def test_tokens_that_a_model_rules_out_are_no_broken_logits(evaluate, model, task):
    def rule_out(module, arguments, output):
        output.logits[..., 0] = float("-inf")

    model.register_forward_hook(rule_out)
    assert all(0 <= row["value"] <= 1 for row in evaluate(task, model, 0, examples=1))
