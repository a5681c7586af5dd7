"""Every precision: what it refuses, the arithmetic it asks for, and what it makes of models that are easily missed."""

import pytest
import torch
from torch import nn

from energyaware.audit import audit
from energyaware.errors import AuditError
from energyaware.layers import dense_weight, eligible_layers, is_quantised, storage_format, weight_matrix
from energyaware.models import load_model
from energyaware.precision import PRECISIONS, Hardware, Needs
from energyaware.precision.base import refusal_of
from energyaware.precision.float8_linear import Float8Linear
from energyaware.spec import ModelRef
from tests.loaded import loaded_by
from tests.tiny import FAMILIES_TINY, save_llama, save_t5_gated

CPU, UNKNOWN = Hardware("cpu"), Hardware("cuda")
TURING, AMPERE, ADA = (Hardware("cuda", capability) for capability in ((7, 5), (8, 0), (8, 9)))
HERE = [name for name, precision in PRECISIONS.items() if not precision.refusal(CPU, "none")]
MODELS = FAMILIES_TINY | {"t5-gated": save_t5_gated}


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    """A tiny model of a family, made once."""
    made = {}

    def of(family):
        if family not in made:
            folder = MODELS[family](tmp_path_factory.mktemp(family))
            made[family] = ModelRef("folder", family, "x", str(folder))
        return made[family]

    return of


def logits(model):
    ids = torch.randint(2, 90, (2, 11), generator=torch.Generator().manual_seed(0))
    more = {"decoder_input_ids": ids[:, :5]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=ids, **more).logits.float()


def relative_error(found, expected):
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize(
    ("name", "hardware", "method", "reason"),
    [
        ("fp16", CPU, "none", "fp16 is not supported on CPU (DeepSpeed refuses it; use bf16)"),
        ("tf32", CPU, "full", "tf32 is not supported on CPU (use fp32)"),
        ("tf32", TURING, "full", "tf32 needs compute capability 8.0, this GPU has 7.5 (use fp32)"),
        ("bf16", TURING, "lora", "bf16 needs compute capability 8.0, this GPU has 7.5 (use fp16)"),
        ("fp8", CPU, "none", "fp8 is not supported on CPU (use int8 or bf16)"),
        ("fp8", AMPERE, "none", "fp8 needs compute capability 8.9, this GPU has 8.0 (use int8 or bf16)"),
        ("fp8", ADA, "lora", "fp8 trains nothing: fine-tune in another precision and serve in fp8"),
        ("fp8", ADA, "none", None),
        ("fp8", UNKNOWN, "none", None),
        ("int8", CPU, "full", "int8 weights cannot be trained: use finetune.method lora"),
        ("nf4-dq", CPU, "full", "nf4-dq weights cannot be trained: use finetune.method lora"),
        ("nf4-dq", CPU, "lora", None),
        ("fp16", TURING, "full", None),
        ("fp32", TURING, "full", None),
        ("tf32", AMPERE, "full", None),
    ],
)
def test_what_is_refused_where_and_why(name, hardware, method, reason):
    assert PRECISIONS[name].refusal(hardware, method) == reason


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_refusal_follows_from_what_the_precision_says_of_itself(name):
    precision = PRECISIONS[name]
    assert precision.name == name
    assert hasattr(torch, precision.compute)
    assert precision.needs.devices
    assert precision.trains <= {"full", "lora"}
    assert not (precision.quantises and "full" in precision.trains), "quantised weights cannot require gradients"
    for hardware in (CPU, UNKNOWN, TURING, AMPERE, ADA):
        for method in ("lora", "full", "none"):
            reason = precision.refusal(hardware, method)
            assert reason == refusal_of(precision, hardware, method)
            assert reason is None or (reason.startswith(name) and "\n" not in reason)
    assert not precision.refusal(ADA, "none")


def test_the_registry_names_what_is_stored_and_trained():
    table = {name: (p.storage, p.compute, "".join(sorted(m[0] for m in p.trains))) for name, p in PRECISIONS.items()}
    assert table == {
        "fp32": ("float32", "float32", "fl"),
        "tf32": ("float32", "float32", "fl"),
        "bf16": ("bfloat16", "bfloat16", "fl"),
        "fp16": ("float16", "float16", "fl"),
        "int8": ("int8", "bfloat16", "l"),
        "fp4": ("fp4", "bfloat16", "l"),
        "nf4": ("nf4", "bfloat16", "l"),
        "nf4-dq": ("nf4", "bfloat16", "l"),
        "fp8": ("float8_e4m3fn", "bfloat16", ""),
    }
    assert PRECISIONS["tf32"].needs == Needs(("cuda",), (8, 0), instead="use fp32")


def test_a_table_of_precisions_loads_no_library():
    code = (
        "from energyaware.precision import PRECISIONS, Hardware\n"
        "for p in PRECISIONS.values(): p.needs, p.trains, p.storage, p.refusal(Hardware('cuda', (8, 9)), 'lora')"
    )
    loaded = loaded_by(code)
    assert "energyaware.precision" in loaded
    assert not {"torch", "transformers", "bitsandbytes"} & loaded


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_arithmetic_is_the_precisions_own_and_is_put_back(name, before):
    """A worker serves many stages: what one asked for must not reach the next."""
    asked = "tf32" if name == "tf32" else "ieee"
    original = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with PRECISIONS[name].arithmetic():
            assert torch.backends.cuda.matmul.fp32_precision == asked
            assert torch.backends.cuda.matmul.allow_tf32 == (name == "tf32")
            with PRECISIONS["tf32"].arithmetic():
                assert torch.backends.cuda.matmul.fp32_precision == "tf32"
            assert torch.backends.cuda.matmul.fp32_precision == asked
        assert torch.get_float32_matmul_precision() == before
        with pytest.raises(ZeroDivisionError), PRECISIONS[name].arithmetic():
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(original)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tf32_rounds_and_fp32_does_not():
    a, b = (torch.randn(512, 512, dtype=torch.float64, device="cuda") for _ in range(2))
    errors = {}
    for name in ("fp32", "tf32", "fp32"):
        with PRECISIONS[name].arithmetic():
            errors[name] = relative_error(a.float() @ b.float(), a @ b)
    assert errors["fp32"] < 1e-6
    assert 1e-5 < errors["tf32"] < 1e-2


@pytest.mark.parametrize("family", ["falcon", "t5", "t5-gated", "gpt2"])
@pytest.mark.parametrize("name", [name for name in HERE if PRECISIONS[name].quantises])
def test_layers_that_transformers_leaves_alone_are_quantised(ref, family, name):
    """Falcon's own linear class, and T5's wo, which transformers keeps out of quantisation."""
    exact, model = (load_model(ref(family), PRECISIONS[kind], "cpu") for kind in ("fp32", name))
    layers = eligible_layers(model)
    assert layers.keys() == eligible_layers(exact).keys()
    assert {storage_format(layer) for layer in layers.values()} == {PRECISIONS[name].storage}
    for path, layer in layers.items():
        weight = weight_matrix(exact.get_submodule(path))
        assert relative_error(dense_weight(layer), weight) < (0.02 if name == "int8" else 0.2), path
        weight.copy_(dense_weight(layer))
    assert relative_error(logits(model), logits(exact)) < 0.05, "computes something else than its weights say"


def adapter_gradients(model, ids):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=list(eligible_layers(model)), init_lora_weights=False)
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False).eval()  # without T5's dropout
    adapted(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.float() for name, p in adapted.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["falcon", "t5"])
@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_adapters_train_on_layers_that_we_quantised(ref, family, name):
    """Their gradients are those of adapters on the same weights in float32; activations are rounded to bf16 or int8."""
    exact, model = (load_model(ref(family), PRECISIONS[kind], "cpu") for kind in ("fp32", name))
    for path, layer in eligible_layers(model).items():
        weight_matrix(exact.get_submodule(path)).copy_(dense_weight(layer))
    ids = torch.randint(2, 90, (2, 11), generator=torch.Generator().manual_seed(0))
    expected, found = adapter_gradients(exact, ids), adapter_gradients(model, ids)
    assert len(found) == 2 * len(eligible_layers(model))
    assert found.keys() == expected.keys()
    assert relative_error(*(torch.cat([g.flatten() for g in part.values()]) for part in (found, expected))) < 0.2


def test_t5_reads_four_bits_of_wo_as_bf16(ref):
    """T5 casts activations to the dtype of wo's weight: to bytes, if those held it."""
    model = load_model(ref("t5"), PRECISIONS["nf4"], "cpu")
    layers = {name: layer for name, layer in eligible_layers(model).items() if name.endswith(".wo")}
    assert len(layers) == 4
    assert {layer.weight.dtype for layer in layers.values()} == {torch.bfloat16}


def test_half_precision_reaches_t5s_wo(ref):
    precision = PRECISIONS["fp16"]
    model = load_model(ref("t5"), precision, "cpu")
    assert audit(model, precision).bytes_by_dtype.keys() == {"float16"}
    assert relative_error(logits(model), logits(load_model(ref("t5"), PRECISIONS["fp32"], "cpu"))) < 0.01


def multiplies_float8_on_the_cpu():
    try:
        a, scale = torch.zeros(16, 16, dtype=torch.float8_e4m3fn), torch.ones(16, 1)
        torch._scaled_mm(a, a.T, scale_a=scale, scale_b=scale.T, out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


emulates_float8 = pytest.mark.skipif(
    not multiplies_float8_on_the_cpu(), reason="this torch has one scale per matrix for float8 on CPUs (2.11 does)"
)

SHAPES = [(48, 32), (64, 96), (40, 24), (7, 5), (16, 33), (1, 16)]


@emulates_float8
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_float8_layer_computes_with_its_rounded_numbers(rows, columns, bias):
    """Against the product in float64 of what e4m3 makes of weights by row and of activations by token."""
    torch.manual_seed(rows)
    dense = nn.Linear(columns, rows, bias=bias).to(torch.bfloat16)
    dense.weight.data[-1] *= 100
    dense.weight.data[1:2] = 0
    layer = Float8Linear(dense.weight, dense.bias)
    x = torch.randn(2, 3, columns, dtype=torch.bfloat16)
    x[0, 1] *= 1000
    x[1, 2] = 0

    rounded = round_to_e4m3(x.double()) @ round_to_e4m3(dense.weight.detach().double()).T
    expected = rounded + (dense.bias.detach().double() if bias else 0)
    found = layer(x)
    assert found.shape == (2, 3, rows)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02 * float(expected.abs().median()))
    # e4m3 rounds by at most one part in 16, of weights and of activations; bf16 the result by one in 256
    largest_error = (2 / 16 + 1 / 256 + 1 / 256) * (x.double().abs() @ dense.weight.detach().double().abs().T)
    assert bool(((found.double() - dense(x).detach().double()).abs() <= largest_error + 0.01).all())
    assert relative_error(dense_weight(layer), dense.weight.detach()) < 0.04
    assert dense_weight(layer).shape == (rows, columns)
    assert bool((dense_weight(layer)[1:2] == 0).all())
    assert layer(x.float()).dtype == torch.float32


def round_to_e4m3(rows):
    """To four significant bits (three stored) after scaling the largest of each row to 448; smallest step 2^-9."""
    scale = rows.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    scaled = rows / scale
    exponent = torch.floor(torch.log2(scaled.abs().clamp(min=2.0**-6)))
    step = 2.0 ** (exponent - 3)
    return torch.round(scaled / step) * step * scale


def test_float8_weights_survive_a_cast_of_the_model():
    layer = Float8Linear(torch.randn(32, 32), None)
    before = layer.dequantised()
    bits = layer.weight.clone()
    layer.to(torch.bfloat16)
    assert torch.equal(layer.weight, bits)
    assert relative_error(layer.dequantised(), before) < 0.01


@emulates_float8
@pytest.mark.parametrize("family", MODELS)
def test_float8_converts_every_eligible_layer_of_every_family(ref, family):
    precision = PRECISIONS["fp8"]
    exact = load_model(ref(family), PRECISIONS["fp32"], "cpu")
    model = load_model(ref(family), precision, "cpu")
    found = audit(model, precision)
    assert found.quantised_layers == found.eligible_layers == len(eligible_layers(exact))
    assert found.quantised_share == 1
    assert found.parameters == audit(exact, PRECISIONS["fp32"]).parameters
    assert {"float8_e4m3fn", "bfloat16", "float32"} == found.bytes_by_dtype.keys()
    assert relative_error(logits(model), logits(exact)) < 0.1


class Doubled(nn.Linear):
    """Something else than its base class."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("name", ["fp8", "int8", "nf4"])
def test_a_linear_class_that_is_not_known_is_left_alone_and_named(tmp_path, name):
    model = load_model(ModelRef("folder", "m", "x", str(save_llama(tmp_path))), PRECISIONS["bf16"], "cpu")
    for layer in model.model.layers[0].mlp.children():
        if isinstance(layer, nn.Linear):
            layer.__class__ = Doubled
    PRECISIONS[name].after_load(model)
    assert [path for path, layer in eligible_layers(model).items() if not is_quantised(layer)] == [
        f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")
    ]
    with pytest.raises(AuditError, match=rf"{name}: 3 of 14 linear layers were not quantised: .*layers.0.mlp.gate"):
        audit(model, PRECISIONS[name])
