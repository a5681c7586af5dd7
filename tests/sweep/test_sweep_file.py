import pytest

from energyaware.errors import InputError
from energyaware.spec import Calibration
from sweep.sweep_file import dump, load, parse

TEN_LINES = """\
model: builtin
tasks: root_cause
precisions: [bf16, nf4]
prunings: [none, magnitude-50%, {kind: magnitude, pattern: 2:4, applied: before}]
finetune: {epochs: 1, learning_rate: 2e-3}
seeds: [0, 1]
resources: {workers: 2, device: cpu}
energy: {country: DEU, pue: 1.2}
ranking: {weight: 0.3}
results: out
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="my sweep.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def pairs(sweep):
    return [pair for choice in sweep.precisions for pair in choice.pairs()]


def prunings(sweep):
    return [pruning for choice in sweep.prunings for pruning in choice.prunings(Calibration())]


@pytest.mark.parametrize(
    ("file", "name"), [("my sweep.yaml", "my-sweep"), ("2:4.v1.yaml", "2-4.v1"), ("...yaml", "sweep")]
)
def test_a_sweep_is_called_as_its_file(tmp_path, file, name):
    (tmp_path / file).write_text("precisions: bf16")
    assert load(tmp_path / file).name == name


def test_a_useful_sweep_file_has_ten_lines(write):
    sweep = load(write(TEN_LINES))
    assert sweep.name == "my-sweep"
    assert pairs(sweep) == [("bf16", "bf16"), ("nf4", "nf4")]
    assert sweep.tasks == ("root_cause",)
    asked = prunings(sweep)
    assert [pruning.label for pruning in asked] == ["none", "magnitude-50%", "magnitude-2:4"]
    assert [pruning.applied for pruning in asked] == [None, "after", "before"]
    assert asked[2].sparsity == 0.5
    assert sweep.finetune.learning_rate == 0.002  # YAML 1.1 would read a text
    assert sweep.results == "out"


def test_train_in_one_precision_and_serve_in_others_is_one_line(write):
    sweep = load(write("precisions: [bf16, {finetune: bf16, inference: [int8, nf4]}]"))
    assert pairs(sweep) == [("bf16", "bf16"), ("bf16", "int8"), ("bf16", "nf4")]
    assert load(write(dump(sweep), "again.yaml")) == sweep


def test_lists_in_a_pruning_are_axes(write):
    text = "{kind: [magnitude, wanda], sparsity: [0.25, 0.5], pattern: 2:4, applied: [before, after]}"
    sweep = load(write(f"precisions: bf16\nprunings: [none, {text}, heads-25%]"))
    asked = prunings(sweep)
    assert len(asked) == len(set(asked)) == 1 + 2 * 3 * 2 + 1
    assert [(p.label, p.applied) for p in asked[1:7]] == [
        *(("magnitude-25%", "before"), ("magnitude-25%", "after"), ("magnitude-50%", "before")),
        *(("magnitude-50%", "after"), ("magnitude-2:4", "before"), ("magnitude-2:4", "after")),
    ]
    assert {p.kind for p in asked if p.calibration} == {"wanda", "heads"}
    assert asked[-1].pattern == "structured"
    assert load(write(dump(sweep), "again.yaml")) == sweep


def test_single_layers_can_be_pruned_otherwise(write):
    text = "{kind: wanda, sparsity: 0.5, layers: {model.layers.0.*: none, '*.down_proj': 25%, '*.q_proj': 4:8}}"
    (pruning,) = prunings(load(write(f"precisions: bf16\nprunings: {text}")))
    assert pruning.label == "wanda-50%*"
    assert pruning.overrides == (("model.layers.0.*", "none"), ("*.down_proj", "25%"), ("*.q_proj", "4:8"))


def test_one_line_is_enough(write):
    sweep = load(write("precisions: bf16"))
    assert sweep.model[0].builtin
    assert sweep.data.builtin
    assert sweep.results == "results/my-sweep"


def test_a_dumped_sweep_is_the_same_sweep(write):
    sweep = load(write(TEN_LINES))
    assert load(write(dump(sweep), "again.yaml")) == sweep


def test_paths_are_relative_to_the_file(write, tmp_path):
    sweep = load(write("precisions: bf16\nmodel: ./base\ndata: {train: a.jsonl, test: /b.csv}"))
    assert sweep.model[0].folder == str(tmp_path / "base")
    assert sweep.data.train == str(tmp_path / "a.jsonl")
    assert sweep.data.test == "/b.csv"


def test_the_tree_is_frozen(write):
    sweep = load(write("precisions: bf16"))
    with pytest.raises(Exception, match="frozen"):
        sweep.finetune.epochs = 5


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("precisions: [bf17]", "precisions[0]", "'bf17' is no precision; allowed: fp32, tf32, bf16"),
        ("precisions: bf17", "precisions", "'bf17' is no precision; allowed: fp32, tf32, bf16"),
        ("precisions: [{finetune: bf16}]", "precisions[0].inference", "is missing"),
        ("precisions: [{finetune: bf16, inference: [nf5]}]", "precisions[0].inference[0]", "'nf5' is no precision"),
        ("precisions: [{finetune: bf16, inference: nf5}]", "precisions[0].inference", "'nf5' is no precision"),
        (
            "precisions: [{finetune: bf16, inference: nf4, serve: nf4}]",
            "precisions[0].serve",
            "unknown key; allowed: finetune, inference",
        ),
        ("precisions: []", "precisions", "at least 1 item"),
        ("model: builtin", "precisions", "is missing"),
        ("precisions: bf16\nlr: 1", "lr", "unknown key; allowed: name, model, tasks, data, precisions"),
        ("precisions: bf16\nfinetune: {lr: 1}", "finetune.lr", "unknown key; allowed: method, epochs"),
        ("precisions: bf16\nfinetune: {lora: {r: 1}}", "finetune.lora.r", "unknown key; allowed: rank, alpha, dropout"),
        ("precisions: bf16\nmodel: {folder: x, rev: 1}", "model.rev", "unknown key; allowed: builtin, folder, hub"),
        ("precisions: bf16\nmodel: {folder: x, hub: y/z}", "model", "exactly one of builtin, folder, hub"),
        ("precisions: bf16\ntasks: [sentiment]", "tasks[0]", "'sentiment' is no task; allowed: root_cause, response"),
        (
            "precisions: bf16\nprunings: [wandb-50%]",
            "prunings[0].kind",
            "'wandb' is no pruning; allowed: none, random, m",
        ),
        ("precisions: bf16\nprunings: [magnitude]", "prunings[0]", "wants sparsity (such as 0.5) or pattern"),
        ("precisions: bf16\nprunings: [none-50%]", "prunings[0]", "none takes neither sparsity, pattern"),
        ("precisions: bf16\nprunings: [heads-2:4]", "prunings[0]", "heads removes whole structures: it wants sparsity"),
        ("precisions: bf16\nprunings: [{kind: wanda, sparsity: 0.5, layers: {x: half}}]", "", "'half' is not"),
        (
            "precisions: bf16\nprunings: [{kind: wanda, sparsity: 0.5, layers: {x: 4:2}}]",
            "",
            "'4:2' is not unstructured or n:m",
        ),
        ("precisions: bf16\nprunings: [{kind: wanda, sparsity: [0.5, 1.5]}]", "prunings[0].sparsity[1]", "less than 1"),
        (
            "precisions: bf16\nprunings: [{kind: wanda, pattern: 4:8, realisation: semi-structured-kernel}]",
            "prunings[0]",
            "semi-structured-kernel is for pattern 2:4 alone",
        ),
        (
            "precisions: bf16\nprunings: [{kind: wanda, pattern: 2:4, realisation: fast}]",
            "realisation",
            "'auto', 'simu",
        ),
        ("precisions: bf16\ncalibration: {examples: 0}", "calibration.examples", "greater than or equal to 1"),
        ("precisions: bf16\nprunings: [magnitude-150%]", "prunings[0].sparsity", "less than 1"),
        (
            "precisions: bf16\nprunings: [magnitude-4:2]",
            "prunings[0]",
            "'4:2' is not unstructured or n:m with 0 < n < m",
        ),
        ("precisions: bf16\nprunings: [none, none]", "prunings", "entry 1 says the same as entry 0"),
        ("precisions: bf16\nfinetune: {epochs: many}", "finetune.epochs", "'many': input should be a valid integer"),
        ("precisions: bf16\nfinetune: {zero_stage: 4}", "finetune.zero_stage", "less than or equal to 3"),
        ("precisions: bf16\nfinetune: {batch_size: 3}\nresources: {workers: 2}", "", "batch_size 3 is not a multiple"),
        ("precisions: bf16\nfinetune: {micro_batch_size: 5}", "", "micro_batch_size 5 does not divide"),
        ("precisions: bf16\nranking: {weight: 1.5}", "ranking.weight", "less than or equal to 1"),
        ("precisions: bf16\nenergy: {country: Germany}", "energy.country", "'Germany'"),
        ("precisions: bf16\nenergy: {pue: 0.5}", "energy.pue", "greater than or equal to 1"),
        ("precisions: bf16\ndata: {train: a.jsonl}", "data", "train and test go together"),
        ("precisions: bf16\ndata: {path: a, hub: b}", "", ""),
        ("precisions: bf16\nresources: {device: tpu}", "resources.device", "'auto', 'cuda' or 'cpu'"),
        ("precisions: bf16\nprecisions: nf4", "line 2, column 1", "key precisions stands twice"),
        ("precisions: [bf16", "line", "not YAML"),
        ("precisions: bf16\n? [a]\n: b", "line 2, column 3", "a key must be a name"),
        ("precisions: bf16\nseeds: !!int abc", "line 2, column 8", "cannot be read as int"),
        ("precisions: bf16\nseeds: !!float abc", "line 2, column 8", "cannot be read as float"),
        ("precisions: bf16\nseeds: !!bool abc", "line 2, column 8", "cannot be read as bool"),
        ("precisions: bf16\nseeds: !!timestamp abc", "line 2, column 8", "cannot be read as timestamp"),
        (f"precisions: bf16\nseeds: [{'9' * 5000}]", "line 2, column 9", "cannot be read as int"),
        (f"seeds: {'[' * 600}", "", "nested too deeply"),
        ('precisions: "\\UFFFFFFFF"', "", "not YAML: unreadable"),
        ("precisions: bf16\nname: a\x01b", "line 2, column 8", "special characters are not allowed: '\\x01'"),
        ("precisions: bf16\nname: ..", "name", "'..' is not allowed: letters, digits, _, - and ., not of dots alone"),
        ("precision: bf16", "precision", "unknown key; allowed: name, model"),
        ("precisions: bf16\nprunings: [wanda-0.5]", "prunings[0].pattern", "'0.5' is not allowed: a share such as 50%"),
        ("precisions: bf16\nenergy: {country: DE}", "energy.country", "'DE' is not allowed: three capital letters"),
        ("precisions: bf16\nenergy: {currency: €}", "energy.currency", "three capital letters, such as EUR"),
        (
            "precisions: bf16\nresources: {device: cpu, gpu_kind: H100}",
            "resources",
            "gpu_kind is for workers that hold",
        ),
        ("precisions: bf16\nname: a/b", "name", "'a/b' is not allowed: letters, digits, _, - and ."),
        ("precisions: [{finetune: [[bf16]], inference: nf4}]", "precisions[0].finetune[0]", "['bf16'] is no precision"),
        ("precisions: bf16\ntasks: [[root_cause]]", "tasks[0]", "is no task; allowed: root_cause, response"),
        ("precisions: bf16\ntasks: {a: b}", "tasks", "is no task; allowed: root_cause, response"),
        ("precisions: bf16\nprunings: [{kind: [[wanda]]}]", "prunings[0].kind[0]", "['wanda'] is no pruning"),
        ("precisions:", "precisions", "is empty: must be one of fp32, tf32"),
        ("precisions: [[bf16]]", "precisions[0]", "or a mapping; allowed: finetune, inference"),
        ("precisions: 5", "precisions", "5: must be one of fp32, tf32"),
        (
            "precisions: bf16\ndata:",
            "data",
            "is empty: must be builtin or a file, or a mapping; allowed: builtin, path",
        ),
        ("precisions: bf16\nfinetune:", "finetune", "is empty: must be a mapping; allowed: method, epochs"),
        ("precisions: bf16\nhalving:", "halving", "is empty: {} takes the defaults"),
        (
            "precisions: bf16\nstrategy: [funnel]",
            "strategy",
            "must be grid or funnel, or a mapping; allowed: kind, keep",
        ),
        ("precisions: bf16\ndata: {path: b, validation: c}", "data", "validation goes with train and test"),
        ("precisions: bf16\nmodel: ~nosuchuser/m", "model", "'~nosuchuser/m' is no path"),
        ("precisions: bf16\ndata: ~nosuchuser/x.csv", "data.path", "'~nosuchuser/x.csv' is no path"),
        ('precisions: bf16\nmodel: "a\\0b"', "model", "is no path"),
        ("precisions: bf16\nseeds: [9223372036854775808]", "seeds[0]", "less than 9223372036854775808"),
        ("precisions: bf16\nresources: {wait_minutes: inf}", "resources.wait_minutes", "a finite number"),
        ("precisions: bf16\nfinetune: {lora: {alpha: 1e400}}", "finetune.lora.alpha", "a finite number"),
        ("- bf16", "", "must be a mapping"),
        ("", "", "must be a mapping"),
    ],
)
def test_an_error_is_one_line_with_file_field_and_what_is_allowed(write, text, field, problem):
    if (field, problem) == ("", ""):
        load(write(text))  # a file inside a hub data set is fine
        return
    path = write(text)
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert field in caught.value.field
    assert problem in message


@pytest.mark.parametrize(
    ("metric", "place", "needs"),
    [
        ("cost", "currency: EUR", "energy.price_per_kwh above 0"),
        ("cost", "price_per_kwh: 0", "energy.price_per_kwh above 0"),
        ("cost", "price_per_kwh: 0.3", None),
        ("carbon", "pue: 1.2", "energy.country or energy.carbon_g_per_kwh above 0"),
        ("carbon", "country: DEU, carbon_g_per_kwh: 0", "energy.country or energy.carbon_g_per_kwh above 0"),
        ("carbon", "country: DEU", None),
        ("carbon", "carbon_g_per_kwh: 30", None),
    ],
)
def test_a_funnel_is_refused_a_metric_that_cannot_have_figures(write, metric, place, needs):
    grid = f"precisions: bf16\nranking: {{metric: {metric}}}\nenergy: {{{place}}}"
    load(write(grid))
    funnel = write(f"{grid}\nstrategy: funnel")
    if needs is None:
        load(funnel)
        return
    with pytest.raises(InputError, match=f"strategy funnel with ranking.metric {metric} needs {needs}"):
        load(funnel)


def test_numbers_are_those_of_yaml_1_2(write):
    sweep = load(write("precisions: bf16\nseeds: [07, 08, 010, 0o17, 0x1F]\nname: 2026-02-30"))
    assert sweep.seeds == (7, 8, 10, 15, 31)
    assert sweep.name == "2026-02-30"


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a folder, not a sweep file"):
        load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "binary.yaml")


def test_parsing_touches_no_file(tmp_path):
    sweep = parse({"precisions": "bf16", "model": "./missing"}, tmp_path / "x.yaml")
    assert sweep.model[0].folder.endswith("missing")
