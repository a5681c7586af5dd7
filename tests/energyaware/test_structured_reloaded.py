"""What structured pruning leaves is an ordinary model: saved, reloaded by plain transformers, and quantised."""

import json
import subprocess
import sys

import pytest
import torch

from energyaware.errors import AuditError
from energyaware.families import family_of
from energyaware.pruning.structured import structures, verify_structures
from tests.energyaware.structured_cases import cases
from tests.energyaware.structured_models import CASES, batches, logits, pruned

RELOAD = """
import json, sys, bitsandbytes, torch, transformers
from transformers import BitsAndBytesConfig

def quantised(kind):
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)

def values(layer):
    if type(layer).__name__ == "Linear4bit":
        return bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight.data.float() * layer.weight.SCB[:, None] / 127

report = {}
for folder in sys.argv[1:]:
    asked = torch.load(f"{folder}/asked.pt")
    load = getattr(transformers, asked["class"]).from_pretrained
    model = load(folder).eval()
    with torch.no_grad():
        difference = float((model(**asked["batch"]).logits - asked["logits"]).abs().max())
    report[folder] = {"difference": difference, "tokens": {}, "quantised": {}}
    for cache in (True, False):
        tokens = model.generate(asked["prompt"], max_new_tokens=10, do_sample=False, use_cache=cache)
        report[folder]["tokens"][str(cache)] = tokens.tolist()
    for kind in ("int8", "nf4"):
        small = load(folder, quantization_config=quantised(kind), dtype=torch.float32, device_map={"": "cpu"}).eval()
        for module in small.modules():
            if type(module).__name__ == "Linear4bit":
                module.support_avx512bf16_for_cpu = False
        plain, errors = dict(model.named_modules()), []
        for name, module in small.named_modules():
            if type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
                weight = plain[name].weight.data
                weight = weight.T if type(plain[name]).__name__ == "Conv1D" else weight
                errors.append(float((values(module) - weight).norm() / weight.norm()))
        with torch.no_grad():
            finite = bool(small(**asked["batch"]).logits.isfinite().all())
        report[folder]["quantised"][kind] = {"layers": len(errors), "error": max(errors, default=0), "finite": finite}
assert not [name for name in sys.modules if name.partition(".")[0] == "energyaware"]
print(json.dumps(report))
"""
"""What someone does who has transformers and our folder, and nothing else of ours."""


def generated(model, **how):
    prompt = torch.randint(2, 90, (1, 9), generator=torch.Generator().manual_seed(3))
    return model.generate(prompt, max_new_tokens=10, do_sample=False, **how)


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_generation_with_a_cache_is_generation_without_one_before_saving(name, pruner):
    _, small, _ = pruned(name, pruner)
    assert generated(small, use_cache=True).tolist() == generated(small, use_cache=False).tolist()


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """By case: what a fresh process without our code found in the saved folder."""
    folders = {}
    for name, pruner in CASES:
        _, small, _ = pruned(name, pruner)
        folder = folders[name, pruner] = tmp_path_factory.mktemp("saved")
        small.save_pretrained(folder)
        batch = batches(small, lengths=((12, 12),), answers=((7, 7),))[0]
        with torch.no_grad():
            asked = {"class": type(small).__name__, "batch": batch, "logits": small(**batch).logits}
        prompt = torch.randint(2, 90, (1, 9), generator=torch.Generator().manual_seed(3))
        torch.save(asked | {"prompt": prompt}, folder / "asked.pt")
    command = [sys.executable, "-c", RELOAD, *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path_factory.getbasetemp())
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    return {case: report[str(folder)] for case, folder in folders.items()}


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_plain_transformers_reloads_the_same_model(reloaded, name, pruner):
    found = reloaded[name, pruner]
    assert found["difference"] < 1e-4 * max(1.0, float(logits(pruned(name, pruner)[1]).abs().max()))
    expected = generated(pruned(name, pruner)[1], use_cache=True).tolist()
    assert found["tokens"] == {"True": expected, "False": expected}


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_the_smaller_model_can_be_quantised(reloaded, name, pruner):
    for kind, error in (("int8", 0.02), ("nf4", 0.15)):
        found = reloaded[name, pruner]["quantised"][kind]
        # bitsandbytes leaves Falcon's subclass of nn.Linear alone in plain transformers.
        assert (found["layers"] == 0) == name.startswith("falcon")
        assert (found["error"] == 0) == name.startswith("falcon")
        assert found["error"] < error
        assert found["finite"]


@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_a_reloaded_model_is_checked_in_any_precision_and_with_an_adapter(name, kind, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import BitsAndBytesConfig

    dense, small, removed = pruned(name, "neurons")
    settings = {"int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}

    def load(model, folder):
        model.save_pretrained(folder)
        quantisation = {"quantization_config": BitsAndBytesConfig(**settings[kind])} if kind != "none" else {}
        return type(model).from_pretrained(folder, device_map={"": "cpu"}, **quantisation)

    whole = load(dense, tmp_path / "dense")
    with pytest.raises(AuditError, match="neurons were removed"):
        verify_structures(whole, removed)
    setattr(whole.config, family_of(whole.config).feed_forward.width, structures(small.config)["neurons"])
    with pytest.raises(AuditError, match=r"not as wide as the config says: .*mlp|DenseReluDense"):
        verify_structures(whole, removed)

    model = load(small, tmp_path / "small")
    verify_structures(model, removed)
    shape = family_of(small.config).feed_forward
    targets = [name for name in (*shape.into, shape.out) if any(n.endswith(name) for n, _ in model.named_modules())]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, fan_in_fan_out=name == "gpt2"))
    verify_structures(adapted, removed)
