"""The registry of model families says what the installed transformers has."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers

from energyaware.errors import AuditError
from energyaware.families import FAMILIES, family_of
from energyaware.pruning import PRUNERS
from energyaware.pruning.structured import structures
from tests.energyaware.structured_models import CONFIGS, build, modules_of

KNOWN = [name for name in CONFIGS if name in FAMILIES]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_model_here_and_its_names_are_those_of_transformers(name):
    model, family = build(name), FAMILIES[name]
    assert model.config.model_type == family.name == name
    assert model.config.is_encoder_decoder == family.encoder_decoder
    stacks = [model.get_submodule(path) for path in family.stacks]
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == len(stacks[0]) > 3]
    assert any(stacks[0] is found for found in lists)
    assert [len(stack) for stack in stacks] == [getattr(model.config, field) for field in family.depths]
    assert len(modules_of(model, family.feed_forward.module)) == sum(map(len, stacks))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_linear_layer_inside_a_block_is_known_to_its_family(name):
    from energyaware.layers import eligible_layers

    model = build(name)
    family = family_of(model.config)
    known = {*family.feed_forward.into, family.feed_forward.out}
    if family.attention:
        known |= {family.attention.query, family.attention.key, family.attention.value, family.attention.out}
        assert {layer.rpartition(".")[2] for layer in eligible_layers(model)} <= known
    else:
        assert known <= {layer.rpartition(".")[2] for layer in eligible_layers(model)}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_counted_is_what_the_model_has(name):
    model = build(name)
    family, counts = family_of(model.config), structures(model.config)
    assert sum(counts[unit] for unit in family.layer_units) == sum(
        len(model.get_submodule(path)) for path in family.stacks
    )
    for module in modules_of(model, family.feed_forward.module):
        out = getattr(module, family.feed_forward.out)
        assert counts["neurons"] == out.weight.shape[0 if type(out).__name__ == "Conv1D" else 1]
    if family.attention:
        for kind in family.attention.modules:
            for module in modules_of(model, kind):
                rows = getattr(module, family.attention.key).weight.shape[0]
                assert rows == counts[family.attention.unit] * getattr(model.config, family.attention.head_dim)


@pytest.mark.parametrize("name", [name for name in KNOWN if "heads" in FAMILIES[name].cannot])
def test_where_heads_cannot_go_fewer_heads_are_wider_heads(name):
    """The reason given: attention keeps its size whatever the number of heads, so removed ones have no config."""
    sizes = []
    field = "n_head" if "n_head" in CONFIGS[name][2] else "num_heads" if name == "gpt_neo" else "num_attention_heads"
    for heads in (4, 2):
        model = build(name, **{field: heads})
        assert model.config.num_attention_heads == heads
        sizes.append([tuple(p.shape) for n, p in model.named_parameters() if "attn" in n or "attention.dense" in n])
    assert sizes[0]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", [name for name in KNOWN if "heads" not in FAMILIES[name].cannot])
def test_whether_heads_must_divide_the_hidden_size_is_what_the_config_insists_on(name):
    attention = FAMILIES[name].attention
    three = {attention.heads: 3} | ({attention.groups: 3} if attention.groups else {})
    if attention.heads_divide_width:
        with pytest.raises(Exception, match="not a multiple of the number of attention heads"):
            build(name, **three)
    else:
        assert structures(build(name, **three).config)[attention.unit] == 3


def test_plain_linear_classes_compute_what_a_linear_layer_does():
    from transformers.models.falcon import modeling_falcon

    for name, family in FAMILIES.items():
        for kind in family.plain_linear:
            assert name == "falcon"
            layer = getattr(modeling_falcon, kind)(48, 20, bias=True)
            plain = torch.nn.Linear(48, 20)
            plain.load_state_dict(layer.state_dict())
            x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
            torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("name", CONFIGS)
def test_no_other_subclass_of_linear_is_in_a_model(name):
    model = build(name)
    subclasses = {type(m).__name__ for m in model.modules() if isinstance(m, torch.nn.Linear)} - {"Linear"}
    assert subclasses <= family_of(model.config).plain_linear


def test_what_a_family_cannot_have_is_named_and_explained():
    from energyaware.precision import PRECISIONS

    for family in FAMILIES.values():
        for name, reason in family.cannot.items():
            assert name in PRUNERS or name in PRECISIONS
            assert reason
            assert "\n" not in reason
        assert ("heads" in family.cannot) == (family.attention is None)


def test_an_unknown_family_is_refused_by_name_with_the_known_ones():
    with pytest.raises(AuditError, match="'mixtral' is not known: llama, mistral, falcon, gpt2, gptj, gpt_neo, t5 are"):
        family_of(transformers.MixtralConfig())
    with pytest.raises(AuditError, match="'' is not known"):
        family_of(SimpleNamespace(model_type=""))


@pytest.mark.parametrize("module", ["energyaware.families", "energyaware.pruning.structured"])
def test_importing_it_loads_no_heavy_library(module):
    code = (
        f"import sys, {module}; print(sorted({{'torch', 'transformers', 'numpy', 'bitsandbytes'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
