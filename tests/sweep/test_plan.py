import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from energyaware.errors import InputError
from energyaware.precision import Hardware
from energyaware.spec import FinetuneSpec, InferenceSpec, canonical_json, stage_id
from sweep.plan import make_plan
from sweep.show_plan import as_json
from sweep.sweep_file import load
from tests.tiny import save_gpt2

QUICKSTART = "examples/quickstart.yaml"


@pytest.fixture
def plan_of(tmp_path):
    def plan_of(text, device="cpu", capability=None):
        path = tmp_path / "s.yaml"
        path.write_text(text)
        return make_plan(load(path), Hardware(device, capability))

    return plan_of


def kinds(plan):
    return Counter(stage.spec.kind for stage in plan)


def test_the_quickstart_is_4_fine_tunings_and_12_inferences(plan_of):
    plan = plan_of(Path(QUICKSTART).read_text())
    assert kinds(plan) == {"finetune": 4, "inference": 12}
    assert all(stage.state == "planned" for stage in plan)


@pytest.mark.parametrize("example", sorted(Path("examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_has_a_plan_that_runs_here_in_part(plan_of, example):
    plan = plan_of(example.read_text())
    assert plan.minus(())
    assert all(stage.reason for stage in plan if stage.state == "infeasible")


def test_prunings_after_share_a_fine_tuning_and_those_before_do_not(plan_of):
    after = "precisions: [fp32, bf16]\nprunings: [none, magnitude-50%, magnitude-2:4]"
    before = after.replace("magnitude-2:4", "{kind: magnitude, pattern: 2:4, applied: before}")
    assert kinds(plan_of(after)) == {"finetune": 2, "inference": 6}
    assert kinds(plan_of(before)) == {"finetune": 4, "inference": 6}


def test_stages_come_after_what_they_need(plan_of):
    seen = set()
    for stage in plan_of("precisions: [fp32, nf4]\nseeds: [0, 1]\nprunings: [none, magnitude-50%]"):
        assert seen.issuperset(stage.spec.needs)
        seen.add(stage.stage_id)
    assert len(seen) == 2 * 2 + 2 * 2 * 2


def test_without_fine_tuning_there_are_only_inferences(plan_of):
    plan = plan_of("precisions: [fp32, int8]\nfinetune: {method: none}")
    assert kinds(plan) == {"inference": 2}
    assert all(stage.spec.needs == () for stage in plan)


def test_infeasible_stages_say_why_and_so_do_those_that_need_them(plan_of):
    plan = plan_of("precisions: [fp16, int8]\nfinetune: {method: full}")
    reasons = {(stage.spec.kind, stage.spec.precision): (stage.state, stage.reason) for stage in plan}
    assert reasons["finetune", "fp16"] == (
        "infeasible",
        "fp16 is not supported on CPU (DeepSpeed refuses it; use bf16)",
    )
    assert reasons["finetune", "int8"] == ("infeasible", "int8 weights cannot be trained: use finetune.method lora")
    assert reasons["inference", "int8"] == (
        "infeasible",
        "its fine-tuning is infeasible: int8 weights cannot be trained: use finetune.method lora",
    )
    assert plan.minus(()) == ()
    on_gpu = plan_of("precisions: [fp16]", device="cuda")
    assert all(stage.state == "planned" for stage in on_gpu)


def test_serving_in_several_precisions_shares_a_fine_tuning(plan_of):
    plan = plan_of("precisions: [{finetune: bf16, inference: [bf16, int8, nf4]}, nf4]")
    assert kinds(plan) == {"finetune": 2, "inference": 4}
    assert {(s.spec.finetune_precision, s.spec.precision) for s in plan if s.spec.kind == "inference"} == {
        *(("bf16", "bf16"), ("bf16", "int8"), ("bf16", "nf4"), ("nf4", "nf4")),
    }
    assert "inference bf16→nf4" in {stage.title for stage in plan}


def test_what_hardware_lacks_is_infeasible_with_the_reason(plan_of):
    text = "precisions: [tf32, fp8]\nfinetune: {method: none}"
    assert all(stage.state == "infeasible" and stage.reason for stage in plan_of(text))
    assert [s.state for s in plan_of(text, "cuda", (7, 0))] == ["infeasible", "infeasible"]
    assert [s.state for s in plan_of(text, "cuda", (8, 0))] == ["planned", "infeasible"]
    assert [s.state for s in plan_of(text, "cuda", (9, 0))] == ["planned", "planned"]
    serve_fp8 = plan_of("precisions: {finetune: bf16, inference: fp8}", "cuda", (9, 0))
    assert all(stage.state == "planned" for stage in serve_fp8)


def test_a_sparse_kernel_that_is_asked_for_is_infeasible_without_cuda(plan_of):
    text = "precisions: [bf16, nf4]\nprunings: {kind: wanda, pattern: 2:4, realisation: semi-structured-kernel}"
    here = [stage for stage in plan_of(text) if stage.spec.kind == "inference"]
    assert all(stage.state == "infeasible" for stage in here)
    assert {s.spec.precision: "an NVIDIA GPU" in s.reason for s in here} == {"bf16": True, "nf4": False}
    assert all("16-bit weights, not nf4" in s.reason for s in here if s.spec.precision == "nf4")
    there = {s.spec.precision: s.state for s in plan_of(text, "cuda", (9, 0)) if s.spec.kind == "inference"}
    assert there == {"bf16": "planned", "nf4": "infeasible"}


def test_a_pruning_before_is_the_same_fine_tuning_however_it_is_realised(plan_of):
    text = "{{kind: magnitude, pattern: 2:4, applied: before, realisation: {}}}"
    plan = plan_of(f"precisions: bf16\nprunings: [{text.format('auto')}, {text.format('simulated')}]")
    assert kinds(plan) == {"finetune": 1, "inference": 2}


def test_without_fine_tuning_a_pruning_is_carried_out_all_the_same(plan_of):
    text = "{kind: magnitude, sparsity: 0.5, applied: [before, after]}"
    (stage,) = plan_of(f"precisions: fp32\nfinetune: {{method: none}}\nprunings: {text}")
    assert stage.spec.pruning.applied == "after"


def test_a_family_that_cannot_lose_heads_says_so_before_anything_starts(plan_of, tmp_path):
    save_gpt2(tmp_path / "gpt2")
    plan = plan_of("precisions: bf16\nmodel: ./gpt2\nprunings: [heads-50%, neurons-50%]")
    refused = {s.spec.pruning.kind: s.reason for s in plan if s.state == "infeasible"}
    assert refused.keys() == {"heads"}
    assert "head" in refused["heads"]


def test_own_calibration_texts_are_pinned_by_content(plan_of, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"body": "one"}\n')
    text = "precisions: bf16\nprunings: wanda-50%\ncalibration: {path: texts.jsonl, column: body}"
    first = [stage.stage_id for stage in plan_of(text)]
    (tmp_path / "texts.jsonl").write_text('{"body": "two"}\n')
    again = [stage.stage_id for stage in plan_of(text)]
    assert first[0] == again[0], "the fine-tuning does not look at them"
    assert first[1] != again[1]


def test_an_id_names_what_determines_the_result_and_nothing_else(plan_of, tmp_path):
    text = "precisions: bf16\nfinetune: {batch_size: 32}"
    first = [stage.stage_id for stage in plan_of(text)]
    where = "\nresources: {workers: 4, cpus_per_worker: 2}\nresults: elsewhere\nranking: {weight: 1}\nname: other"
    assert [stage.stage_id for stage in plan_of(text + where)] == first
    assert [stage.stage_id for stage in plan_of(text.replace("32", "16"))] != first
    changed = plan_of(text + "\ninference: {batch_size: 4}")
    assert [stage.stage_id == old for stage, old in zip(changed, first, strict=True)] == [True, False]
    assert all(len(name) == 12 for name in first)


def test_an_id_is_the_hash_of_canonical_json(plan_of):
    for stage in plan_of("precisions: bf16"):
        settings = json.loads(canonical_json(stage.spec))
        assert stage_id(stage.spec) == stage.stage_id
        assert settings["protocol"] == 4
        assert "location" not in settings["model"]
        assert isinstance(stage.spec, FinetuneSpec | InferenceSpec)


def test_a_model_folder_is_pinned_by_its_content(plan_of, tmp_path):
    save_gpt2(tmp_path / "one", seed=0)
    save_gpt2(tmp_path / "two", seed=0)
    save_gpt2(tmp_path / "three", seed=1)
    ids = [
        next(iter(plan_of(f"precisions: fp32\nmodel: ./{name}\nname: x"))).spec.model.revision
        for name in ("one", "two", "three")
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("config.json", "holds no config.json"),
        ("model.safetensors", "loaded from safetensors alone"),
        ("tokenizer*", "no tokenizer files"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(plan_of, tmp_path, missing, problem):
    folder = save_gpt2(tmp_path / "model")
    for path in folder.glob(missing):
        path.unlink()
    with pytest.raises(InputError, match=problem) as caught:
        plan_of("precisions: fp32\nmodel: ./model")
    assert caught.value.field == "model[0].folder"


def test_minus_leaves_out_what_is_finished_and_what_nothing_left_needs(plan_of):
    plan = plan_of("precisions: [fp32, bf16]\nprunings: [none, magnitude-50%]")
    finetune, dense, pruned = list(plan)[:3]
    assert len(plan.minus(())) == 6
    assert finetune not in plan.minus({dense.stage_id, pruned.stage_id})
    assert plan.minus({finetune.stage_id, dense.stage_id})[0] == pruned


def test_json_has_what_programs_need(plan_of, tmp_path):
    path = tmp_path / "j.yaml"
    path.write_text("precisions: [bf16, fp16]")
    sweep = load(path)
    plan = make_plan(sweep, Hardware("cpu"))
    done = next(iter(plan)).stage_id
    stages = json.loads(as_json(sweep, plan, {done}))["stages"]
    assert [stage.keys() >= {"id", "kind", "needs", "settings", "state", "reason"} for stage in stages] == [True] * 4
    assert [stage["state"] for stage in stages] == ["finished", "planned", "infeasible", "infeasible"]
    assert stages[1]["needs"] == [done]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "command", [["--help"], ["plan", QUICKSTART], ["plan", QUICKSTART, "--format", "json"], ["run", "--help"]]
)
def test_commands_that_run_nothing_load_neither_ray_nor_torch(command):
    code = f"""
import sys
sys.argv = ["energyaware", *{command!r}]
from sweep.cli import main
try:
    main()
except SystemExit as done:
    assert done.code == 0, done.code
heavy = {{"ray", "torch", "transformers", "deepspeed", "codecarbon"}} & set(sys.modules)
assert not heavy, heavy
print("light")
"""
    assert run_python(code).endswith("light\n")
