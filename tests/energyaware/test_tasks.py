import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from rouge_score.tokenizers import DefaultTokenizer

import energyaware.tasks
from energyaware.tasks import TASKS, Example
from energyaware.tasks.base import jackknife
from energyaware.tasks.response import _Words
from energyaware.tasks.root_cause import macro_f1
from energyaware.tasks.tickets import tickets

ROOT = Path(energyaware.tasks.__file__).parents[2]


@pytest.mark.parametrize("name", TASKS)
def test_contract(name):
    task = TASKS[name]
    assert task.name == name
    for record in tickets("test", 24):
        needed = {field: record[field] for field in task.fields}
        example = task.example(needed)
        assert isinstance(example, Example)
        assert record["ticket"] in example.prompt
        assert example.target
        assert example.target not in example.prompt
        assert not example.target.startswith(" ")
        assert not example.prompt.endswith(" ")


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_within_0_and_1_and_the_right_answer_scores_1(name):
    task = TASKS[name]
    targets = [task.example(record).target for record in tickets("test", 24)]
    nothing, shifted, perfect, single = (
        {metric: score.value for metric, score in task.score(answers, targets[: len(answers)]).items()}
        for answers in ([""] * 24, targets[1:] + targets[:1], targets, targets[:1])
    )
    assert perfect == dict.fromkeys(perfect, pytest.approx(1.0))
    assert nothing == dict.fromkeys(perfect, 0.0)
    assert shifted.keys() == perfect.keys()
    assert all(0 <= value < 1 for value in shifted.values())
    assert all(value <= 1 for value in perfect.values())
    assert single == dict.fromkeys(perfect, pytest.approx(1.0))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("count", [1, 2, 40])
def test_the_mean_of_what_examples_add_is_the_score(name, count):
    task = TASKS[name]
    targets = [task.example(record).target for record in tickets("test", count)]
    for answers in (targets, [""] * count, [target[: 5 * number] for number, target in enumerate(targets)]):
        for score in task.score(answers, targets).values():
            assert len(score.per_example) == count
            assert sum(score.per_example) / count == pytest.approx(score.value)


@pytest.mark.parametrize(("name", "metric"), [("root_cause", "macro_f1"), ("response", "bleu")])
def test_what_an_example_adds_to_a_score_that_is_no_mean_follows_from_the_score_without_it(name, metric):
    task = TASKS[name]
    targets = [task.example(record).target for record in tickets("test", 30)]
    answers = [*targets[:20], *targets[:10]]
    without = [
        task.score(answers[:number] + answers[number + 1 :], targets[:number] + targets[number + 1 :])[metric].value
        for number in range(30)
    ]
    score = task.score(answers, targets)[metric]
    assert score.per_example == pytest.approx(jackknife(score.value, without))
    assert min(without) < max(without)


def test_a_jackknife_of_a_mean_gives_its_values_back():
    values = [0.0, 1.0, 1.0, 0.25]
    without = [(sum(values) - value) / 3 for value in values]
    assert jackknife(sum(values) / 4, without) == pytest.approx(values)


@pytest.mark.parametrize("name", TASKS)
def test_answers_and_targets_have_to_match_in_number(name):
    with pytest.raises(ValueError, match="argument"):
        TASKS[name].score(["a"], ["a", "b"])


def test_prompts_of_the_tasks_differ_at_their_end():
    record = tickets("test", 1)[0]
    endings = {task.example(record).prompt.removeprefix(f"Ticket: {record['ticket']}\n") for task in TASKS.values()}
    assert endings == {"Root cause:\n", "Response:\n"}


def test_accuracy_and_macro_f1_worked_by_hand():
    # a: 1 hit, 1 answered, 2 expected -> 2/3; b: 1 hit, 3 answered, 1 expected -> 1/2; c: no hit -> 0.
    scores = TASKS["root_cause"].score(["a", "b", "b", "b"], ["a", "a", "b", "c"])
    assert scores["accuracy"].value == pytest.approx(0.5)
    assert scores["macro_f1"].value == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_macro_f1_averages_over_expected_classes_alone():
    # z is never expected: it costs a a miss, and is no class of its own.
    assert macro_f1(["a", "z"], ["a", "a"]) == pytest.approx(2 / 3)


def test_macro_f1_weighs_a_rare_class_like_a_frequent_one():
    assert macro_f1(["a"] * 10, ["a"] * 9 + ["b"]) == pytest.approx((2 * 9 / 19 + 0) / 2)


def test_spaces_around_a_label_do_not_count():
    assert TASKS["root_cause"].score([" fibre cut\n"], ["fibre cut"])["accuracy"].value == 1


def test_rouge_l_worked_by_hand():
    # Longest common subsequence "send crew": precision 2/2, recall 2/4 -> F 2/3; the second pair shares nothing.
    scores = TASKS["response"].score(["send crew", "restart"], ["send a crew today", "replace the card"])
    assert scores["rouge_l"].value == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("right", "other"),
    [
        ("Замените кабель на порту 3 и перезагрузите", "Перезагрузите маршрутизатор 3 и проверьте питание"),
        ("光纤在端口后断裂 请派出接续队", "请更换电源模块并重新启动设备"),
        ("ケーブルを交換してください。", "ルーターを再起動してください。"),
        ("αντικαταστήστε το καλώδιο στη θύρα 3", "επανεκκινήστε τον δρομολογητή 3"),
        ("फ़ाइल की जाँच दिन में करें", "फ़ाइल का जाँच दान में करें"),
    ],
)
def test_answers_in_any_script_are_compared_by_their_words(right, other):
    task = TASKS["response"]
    same, differs = ({name: score.value for name, score in task.score([a], [right]).items()} for a in (right, other))
    assert same == {"rouge_l": pytest.approx(1.0), "bleu": pytest.approx(1.0)}
    assert 0 < differs["rouge_l"] < 0.7
    assert differs["bleu"] < 0.7


def test_letters_with_their_accents_are_the_same_however_they_are_encoded():
    composed, apart = (unicodedata.normalize(form, "Vérifiez le réseau à Ōtsu") for form in ("NFC", "NFD"))
    scores = TASKS["response"].score([apart], [composed])
    assert {name: score.value for name, score in scores.items()} == pytest.approx({"rouge_l": 1.0, "bleu": 1.0})


def test_ascii_words_are_those_of_rouge_score():
    text = "Re-seat card_2 on node-7; don't restart (yet)... 10.5 dB, O'Brien_x"
    assert _Words().tokenize(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


def test_rouge_l_does_not_stem():
    assert TASKS["response"].score(["routers"], ["router"])["rouge_l"].value == 0


def test_bleu_is_that_of_the_corpus():
    import sacrebleu

    answers = ["send a splicing crew to the site today", ""]
    targets = ["send a splicing crew to the site at once", "replace the line module today"]
    expected = sacrebleu.corpus_bleu(answers, [targets]).score / 100
    assert TASKS["response"].score(answers, targets)["bleu"].value == pytest.approx(expected)
    assert 0 < expected < 1


def test_importing_the_tasks_loads_nothing_heavy():
    code = (
        "import sys, energyaware.tasks, energyaware.tasks.tickets, energyaware.builtin_model as b; b.builtin_ref();"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'ray', 'sacrebleu', 'rouge_score'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
