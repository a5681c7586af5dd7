"""DeepSpeed in this process alone: the loss, fp16's scaling of it, and steps that are skipped."""

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from deepspeed.runtime.precision_config import DeepSpeedFP16Config

from energyaware.batches import tokenise
from energyaware.errors import Diverged
from energyaware.model_ref import folder_ref
from energyaware.models import decoder_start_id, load_model, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.tasks.base import Example
from energyaware.trainer import LOSS_SCALING, MOST_OVERFLOWS, Trainer, deepspeed_config, out_of_scale
from tests.energyaware.alone import Alone, finetune_spec, process_group_of_one
from tests.tiny import FAMILIES_TINY, WORDS, save_llama

pytestmark = [  # of what DeepSpeed calls
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed.\\w+. is deprecated:FutureWarning"),
]

EXAMPLES = [Example(" ".join(WORDS[: 2 + index % 7]), " ".join(WORDS[index % 5 : 7])) for index in range(12)]


@pytest.fixture(scope="module")
def alone():
    with process_group_of_one() as place:
        yield place


@pytest.fixture
def made(alone, tmp_path):
    """A trainer for a model of ours, its tokens, and the model."""
    trainers = []

    def made(save=save_llama, steps=40, **changes):
        ref = folder_ref(save(tmp_path / save.__name__), "model")
        spec = finetune_spec(ref, batch_size=4, micro_batch_size=2, **changes)
        model, tokenizer = load_model(ref, PRECISIONS[spec.precision], "cpu"), load_tokenizer(ref)
        model.requires_grad_(True)
        trainers.append(Trainer(model, spec, alone, tokenizer.pad_token_id, 64, steps))
        return trainers[-1], tokenise(EXAMPLES, tokenizer, 64), model

    yield made
    for trainer in trainers:
        trainer.destroy()


@pytest.mark.parametrize("family", FAMILIES_TINY)
def test_the_loss_is_the_mean_over_all_target_tokens_of_full_forwards_one_by_one(made, family):
    trainer, tokens, model = made(FAMILIES_TINY[family])
    start = decoder_start_id(model)
    total = targets = 0
    with torch.no_grad():
        for item in tokens:
            prompt, answer = item.ids[: item.prompt_length], item.ids[item.prompt_length :]
            if start is None:
                logits = model(torch.tensor([item.ids[:-1]])).logits[0, item.prompt_length - 1 :]
            else:
                read = torch.tensor([[start, *answer[:-1]]])
                logits = model(torch.tensor([prompt]), decoder_input_ids=read).logits[0]
            total -= float(logits.log_softmax(-1).gather(-1, torch.tensor([answer]).T).sum())
            targets += len(answer)
    assert trainer.loss_of(tokens) == pytest.approx(total / targets, rel=1e-5)
    before = sum(float(trainer.step(tokens[start : start + 4])) for start in (0, 4, 8))
    assert before == pytest.approx(total, rel=0.5)
    assert trainer.steps_taken == 3
    assert trainer.loss_of(tokens) < total / targets


@pytest.mark.parametrize("steps", [1, 2])
def test_a_fine_tuning_that_is_all_warm_up_trains_all_the_same(made, steps):
    trainer, tokens, _ = made(steps=steps, warmup=1.0)
    before = trainer.loss_of(tokens)
    for _ in range(steps):
        trainer.step(tokens[:4])
    assert trainer.loss_of(tokens) < before


@pytest.mark.parametrize(("count", "forwards"), [(1, 1), (4, 1), (5, 2)])
def test_ranks_make_as_many_forwards_whatever_they_have_left(made, monkeypatch, count, forwards):
    trainer, tokens, model = made()
    whole, calls = trainer.loss_of(tokens[:count]), []
    model.register_forward_hook(lambda *_: calls.append(1))
    parts = []
    for rank in range(2):
        monkeypatch.setattr(trainer, "_place", Alone(rank, 2))
        parts.append(trainer.loss_of(tokens[:count]))
        assert len(calls) == forwards
        calls.clear()
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_fp16_has_dynamic_loss_scaling_written_out():
    config = deepspeed_config(finetune_spec(None, precision="fp16"), 4, 1)
    assert config["bf16"] == {"enabled": False}
    assert config["fp16"] == {
        "enabled": True,
        "loss_scale": 0,
        "initial_scale_power": 16,
        "loss_scale_window": 1000,
        "hysteresis": 2,
        "min_loss_scale": 1,
    }
    arguments = DeepSpeedFP16Config(**config["fp16"]).dynamic_loss_scale_args()
    assert arguments["init_scale"] == 2**16


@pytest.mark.parametrize(("precision", "on"), [("fp32", None), ("bf16", "bf16"), ("nf4", "bf16"), ("fp16", "fp16")])
def test_each_precision_trains_in_its_own_arithmetic(precision, on):
    config = deepspeed_config(finetune_spec(None, precision=precision), 4, 1)
    assert [name for name in ("bf16", "fp16") if config[name]["enabled"]] == ([on] if on else [])


def scaler():
    return DynamicLossScaler(
        init_scale=2 ** LOSS_SCALING["initial_scale_power"],
        scale_window=LOSS_SCALING["loss_scale_window"],
        min_scale=LOSS_SCALING["min_loss_scale"],
        delayed_shift=LOSS_SCALING["hysteresis"],
        consecutive_hysteresis=False,
    )


def test_the_scale_is_at_its_least_after_as_many_overflows_as_are_borne(alone):
    import deepspeed

    deepspeed.init_distributed("gloo")
    adapting = scaler()
    for _ in range(MOST_OVERFLOWS):
        assert adapting.cur_scale > LOSS_SCALING["min_loss_scale"]
        adapting.update_scale(overflow=True)
    assert adapting.cur_scale == LOSS_SCALING["min_loss_scale"]
    with pytest.raises(Exception, match="minimum") as caught:
        adapting.update_scale(overflow=True)
    assert out_of_scale(caught.value)
    assert not out_of_scale(RuntimeError("CUDA out of memory"))


def overflow_in(model, steps):
    """Make the gradient of one weight infinite in the first optimizer steps; the loss stays finite."""
    backwards = [0]

    def overflow(gradient):
        backwards[0] += 1
        return gradient * float("inf") if backwards[0] <= 2 * steps else gradient

    next(model.parameters()).register_hook(overflow)


def take(trainer, tokens, steps):
    for _ in range(steps):
        trainer.step(tokens[:4])


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_overflows_are_skipped_and_no_divergence_while_they_end(made, zero_stage):
    trainer, tokens, model = made(precision="bf16", zero_stage=zero_stage)
    overflow_in(model, steps=5)
    before = trainer.loss_of(tokens)
    take(trainer, tokens, 5)
    assert trainer.steps_taken == 0
    assert trainer.loss_of(tokens) == before
    take(trainer, tokens, 10)
    assert trainer.steps_taken == 10
    assert trainer.loss_of(tokens) < before


def test_overflows_without_an_end_are_a_divergence(made):
    trainer, tokens, model = made(precision="bf16", zero_stage=1)
    overflow_in(model, steps=1000)
    with pytest.raises(Diverged, match=f"gradients overflowed in {MOST_OVERFLOWS} steps in a row"):
        take(trainer, tokens, 40)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_overflows_are_counted_on_over_a_checkpoint(made, tmp_path, zero_stage):
    trainer, tokens, model = made(precision="bf16", zero_stage=zero_stage)
    overflow_in(model, steps=3)
    take(trainer, tokens, 3)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    files = trainer.save(folder)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == files
    resumed, *_ = made(precision="bf16", zero_stage=zero_stage)
    resumed.load(folder, trainer.overflows)
    assert (resumed.overflows, resumed.steps_taken) == (3, 0)
    take(resumed, tokens, 1)
    assert (resumed.overflows, resumed.steps_taken) == (0, 1)
