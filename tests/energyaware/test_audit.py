"""What the audit counts, and what it refuses by name."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from energyaware.audit import audit
from energyaware.errors import AuditError
from energyaware.layers import eligible_layers, is_transposed, unseen_matrices
from energyaware.models import load_model
from energyaware.precision import PRECISIONS
from energyaware.rows import STAGES
from energyaware.spec import ModelRef
from tests.tiny import save_gpt2, save_llama, save_mixtral, save_t5

QUANTISING = [name for name, precision in PRECISIONS.items() if precision.quantises]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {"llama": save_llama, "gpt2": save_gpt2, "t5": save_t5, "mixtral": save_mixtral}
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in made.items()}


def load(folders, family, name):
    return load_model(ModelRef("folder", family, "x", str(folders[family])), PRECISIONS[name], "cpu")


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("name", PRECISIONS)
def test_numbers_of_the_model_are_the_same_in_every_precision_and_bytes_are_not(folders, family, name):
    plain, precision = load(folders, family, "fp32"), PRECISIONS[name]
    found = audit(load(folders, family, name), precision)
    numbers = sum(parameter.numel() for parameter in plain.parameters())  # tied ones once
    body = sum(layer.weight.numel() for layer in eligible_layers(plain).values())
    assert found.parameters == numbers
    assert (found.storage, found.compute) == (precision.storage, precision.compute)
    assert found.quantised_layers == (found.eligible_layers if precision.quantises else 0)
    assert found.quantised_share == (1 if precision.quantises else 0)
    assert found.skipped_layers == ()
    assert found.weight_bytes == sum(found.bytes_by_dtype.values())

    bits = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "float8_e4m3fn": 8, "fp4": 4, "nf4": 4}
    rest = (numbers - body) * bits[precision.compute] // 8
    if not precision.quantises:
        assert found.bytes_by_dtype == {precision.storage: numbers * bits[precision.storage] // 8}
    else:
        assert found.bytes_by_dtype[precision.storage] == body * bits[precision.storage] // 8
        assert found.bytes_by_dtype[precision.compute] == rest


def test_constants_of_quantised_weights_are_counted_in_their_own_format(folders):
    layers = eligible_layers(load(folders, "llama", "fp32")).values()
    blocks = sum(layer.weight.numel() for layer in layers) // 64
    rows = sum(layer.weight.shape[0] for layer in layers)
    bytes_of = {name: audit(load(folders, "llama", name), PRECISIONS[name]).bytes_by_dtype for name in QUANTISING}
    assert bytes_of["int8"]["float32"] == 4 * rows
    assert bytes_of["fp8"]["float32"] == 4 * rows
    codes = bytes_of["nf4"]["float32"] - 4 * blocks
    assert 0 < codes <= 64 * len(layers)
    assert bytes_of["nf4-dq"]["uint8"] == blocks, "double quantisation keeps each block's scale in a byte"
    assert "uint8" not in bytes_of["nf4"]


def test_scales_of_int8_are_counted_after_a_forward_too(folders):
    model = load(folders, "llama", "int8")
    before = audit(model, PRECISIONS["int8"])
    with torch.no_grad():
        model(torch.ones(1, 4, dtype=torch.int64))
    assert audit(model, PRECISIONS["int8"]) == before


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("name", ["bf16", "int8", "nf4"])
def test_an_adapter_changes_nothing(folders, family, name):
    model = load(folders, family, name)
    before = audit(model, PRECISIONS[name])
    layers = eligible_layers(model)
    config = LoraConfig(r=2, target_modules=list(layers), fan_in_fan_out=any(map(is_transposed, layers.values())))
    adapted = get_peft_model(model, config)
    assert audit(adapted.get_base_model(), PRECISIONS[name]) == before
    assert audit(adapted, PRECISIONS[name]) == before
    assert audit(adapted.unload(), PRECISIONS[name]) == before


def test_columns_are_those_of_the_stage_table(folders):
    columns = audit(load(folders, "llama", "nf4"), PRECISIONS["nf4"]).columns
    kinds = {column.name: column.kind for column in STAGES}
    kind_of = {int: "int", float: "float", str: "text", list: "texts"}
    assert {name: kind_of[type(value)] for name, value in columns.items()} == {name: kinds[name] for name in columns}
    assert json.loads(columns["bytes_by_dtype"]).keys() == {"nf4", "bfloat16", "float32"}


@pytest.mark.parametrize("name", QUANTISING)
def test_experts_that_no_linear_layer_holds_are_refused_by_name(folders, name):
    model = load(folders, "mixtral", name)
    experts = [f"model.layers.{i}.mlp.experts.{part}" for i in range(2) for part in ("gate_up_proj", "down_proj")]
    assert list(unseen_matrices(model)) == experts
    with pytest.raises(AuditError, match=rf"{name}: 4 of 12 linear layers were not quantised: {', '.join(experts)}"):
        audit(model, PRECISIONS[name])


def test_routers_and_biases_of_experts_are_not_counted_as_matrices():
    from transformers import GptOssConfig, GptOssForCausalLM

    model = GptOssForCausalLM(
        GptOssConfig(
            vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, num_local_experts=4, pad_token_id=0,
        )
    )  # fmt: skip
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    experts = {f"model.layers.0.mlp.experts.{part}_proj" for part in ("gate_up", "down")}
    assert {"model.layers.0.mlp.router.weight", *(f"{name}_bias" for name in experts)} < matrices
    assert unseen_matrices(model).keys() == experts


def test_a_matrix_that_two_blocks_share_is_counted_once(folders):
    model = load(folders, "mixtral", "fp32")
    first, second = (layer.mlp.experts for layer in model.model.layers)
    before = audit(model, PRECISIONS["fp32"]).parameters
    second.down_proj = first.down_proj
    assert len(unseen_matrices(model)) == 3
    assert audit(model, PRECISIONS["fp32"]).parameters == before - first.down_proj.numel()


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_experts_are_no_error_where_nothing_is_quantised(folders, name):
    model = load(folders, "mixtral", name)
    found = audit(model, PRECISIONS[name])
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.bytes_by_dtype.keys() == {PRECISIONS[name].storage}


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_nothing_is_unseen_in_models_without_experts(folders, family):
    assert unseen_matrices(load(folders, family, "fp32")) == {}


def test_a_small_layer_left_in_16_bits_is_tolerated_and_named(folders):
    model = load(folders, "llama", "nf4")
    dense = load(folders, "llama", "bf16")
    skipped = "model.layers.1.self_attn.k_proj"
    model.set_submodule(skipped, dense.get_submodule(skipped))
    found = audit(model, PRECISIONS["nf4"])
    sizes = {name: layer.weight.numel() for name, layer in eligible_layers(dense).items()}
    assert found.skipped_layers == (skipped,)
    assert found.quantised_layers == found.eligible_layers - 1
    assert found.quantised_share == pytest.approx(1 - sizes[skipped] / sum(sizes.values()))
    assert found.quantised_share < 1


@pytest.mark.parametrize(
    ("name", "foreign"), [("bf16", "float32"), ("fp32", "bfloat16"), ("nf4", "float32"), ("nf4", "fp4")]
)
def test_a_layer_in_another_format_than_the_precisions_is_refused_by_name(folders, name, foreign):
    model = load(folders, "llama", name)
    odd = "model.layers.1.self_attn.k_proj"
    other = {"float32": "fp32", "bfloat16": "bf16", "fp4": "fp4"}[foreign]
    model.set_submodule(odd, load(folders, "llama", other).get_submodule(odd))
    with pytest.raises(AuditError, match=rf"{name} stores weights as \w+, but not these: {odd} \({foreign}\)$"):
        audit(model, PRECISIONS[name])


def test_t5s_wo_as_transformers_leaves_it_under_fp16_is_refused_by_name(folders):
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(folders["t5"], dtype=torch.float16)
    with pytest.raises(AuditError, match=r"fp16 stores weights as float16, but not these: encoder\S+\.wo \(float32\)"):
        audit(model, PRECISIONS["fp16"])


def test_a_long_list_of_names_is_cut(folders):
    with pytest.raises(AuditError, match=r"nf4: 14 of 14 linear layers were not quantised: (\S+, ){4}\S+ and 9 more$"):
        audit(load(folders, "llama", "fp32"), PRECISIONS["nf4"])
