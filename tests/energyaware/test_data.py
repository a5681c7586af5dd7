import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import energyaware
from energyaware.errors import InputError
from energyaware.spec import DataRef
from energyaware.tasks.data import builtin_ref, files_ref, hub_ref, load_splits
from energyaware.tasks.tickets import tickets

ROOT = Path(energyaware.__file__).parents[1]
BOTH = ("root_cause", "response")


def rows(count, labels=("fibre", "power", "dns")):
    return [
        {"ticket": f"Ticket number {n} about a router", "root_cause": labels[n % len(labels)], "response": f"Do {n} so"}
        for n in range(count)
    ]


def write(path, records):
    if path.suffix == ".parquet":
        pl.DataFrame(records).write_parquet(path)
    elif path.suffix == ".csv":
        pl.DataFrame(records).write_csv(path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def content(splits):
    return [{record["ticket"] for record in part} for part in (splits.train, splits.validation, splits.test)]


def refused(ref_of, *args, tasks=BOTH, **kwargs):
    """The one-line error that making the ref or reading the data ends with."""
    with pytest.raises(InputError) as caught:
        load_splits(ref_of(*args, **kwargs), tasks)
    assert "\n" not in str(caught.value)
    return caught.value


def test_builtin_tickets():
    ref = builtin_ref()
    splits = load_splits(ref, BOTH)
    assert ref.kind == "builtin"
    assert splits.train == tickets("train")
    assert splits.validation == tickets("validation")
    assert splits.test == tickets("test")


def test_builtin_tickets_of_another_version_are_refused():
    assert "another version" in str(refused(lambda: replace(builtin_ref(), revision="0" * 12)))


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".csv", ".parquet", ".CSV", ".JSONL"])
def test_one_file_of_every_kind_is_divided_80_10_10(tmp_path, ending):
    path = tmp_path / f"data{ending}"
    write(path if ending.islower() else path.with_suffix(ending.lower()), rows(100)).rename(path)
    splits = load_splits(files_ref(path), BOTH)
    assert [len(part) for part in content(splits)] == [80, 10, 10]
    assert set.union(*content(splits)) == {row["ticket"] for row in rows(100)}
    assert set(splits.train[0]) == {"ticket", "root_cause", "response"}


def test_every_kind_of_file_gives_the_same_records(tmp_path):
    kinds = [write(tmp_path / f"data{ending}", rows(40)) for ending in (".jsonl", ".csv", ".parquet")]
    first, *others = [load_splits(files_ref(path), BOTH) for path in kinds]
    assert all(other == first for other in others)


def test_dividing_depends_on_the_content_and_not_on_the_order(tmp_path):
    ahead = load_splits(files_ref(write(tmp_path / "a.jsonl", rows(60))), BOTH)
    back = load_splits(files_ref(write(tmp_path / "b.jsonl", rows(60)[::-1])), BOTH)
    assert content(ahead) == content(back)
    assert content(ahead) == content(load_splits(files_ref(tmp_path / "a.jsonl"), ("response",)))


def test_duplicates_of_a_ticket_are_in_one_split(tmp_path):
    twice = rows(60) + [{**row, "ticket": row["ticket"].upper(), "response": "another answer"} for row in rows(60)]
    splits = load_splits(files_ref(write(tmp_path / "a.jsonl", twice)), BOTH)
    train, validation, test = ({text.casefold() for text in part} for part in content(splits))
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [96, 12, 12]


def test_one_file_per_split(tmp_path):
    parts = {"train": rows(30), "validation": rows(36)[30:], "test": rows(42)[36:]}
    files = {split: write(tmp_path / f"{split}.jsonl", part) for split, part in parts.items()}
    splits = load_splits(files_ref(**files), BOTH)
    assert (splits.train, splits.validation, splits.test) == tuple(parts.values())


def test_validation_is_taken_from_train_where_no_file_is_named(tmp_path):
    train, test = write(tmp_path / "a.csv", rows(50)), write(tmp_path / "b.csv", rows(56)[50:])
    splits = load_splits(files_ref(train=train, test=test), BOTH)
    assert (len(splits.train), len(splits.validation), splits.test) == (45, 5, rows(56)[50:])
    assert content(splits)[0] | content(splits)[1] == {row["ticket"] for row in rows(50)}


def test_columns_are_mapped_and_others_left_out(tmp_path):
    theirs = [{"Text": r["ticket"], "cls": r["root_cause"], "reply": r["response"], "x": 1.5} for r in rows(30)]
    columns = {"ticket": "Text", "root_cause": "cls", "response": "reply"}
    splits = load_splits(files_ref(write(tmp_path / "a.parquet", theirs), columns=columns), BOTH)
    assert set.union(*content(splits)) == {row["ticket"] for row in rows(30)}
    assert set(splits.test[0]) == {"ticket", "root_cause", "response"}


def test_only_columns_of_the_chosen_tasks_are_needed(tmp_path):
    part = [{"ticket": row["ticket"], "response": row["response"]} for row in rows(30)]
    splits = load_splits(files_ref(write(tmp_path / "a.jsonl", part)), ("response",))
    assert set(splits.train[0]) == {"ticket", "response"}


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_integer_labels_become_text(tmp_path, ending):
    numbered = [{**row, "root_cause": n % 3} for n, row in enumerate(rows(60))]
    splits = load_splits(files_ref(write(tmp_path / f"a{ending}", numbered)), BOTH)
    assert {record["root_cause"] for record in splits.train} == {"0", "1", "2"}


def test_revision_follows_content_and_split_and_not_the_path(tmp_path):
    one, same = write(tmp_path / "a.jsonl", rows(30)), write(tmp_path / "b.jsonl", rows(30))
    other = write(tmp_path / "c.jsonl", rows(31))
    assert files_ref(one).revision == files_ref(same).revision
    assert files_ref(one).revision != files_ref(other).revision
    assert files_ref(train=one, test=other).revision != files_ref(train=other, test=one).revision


def test_content_that_changed_since_the_ref_was_made_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(30))
    ref = files_ref(path)
    write(path, rows(31))
    assert "changed since" in str(refused(lambda: ref))


def test_missing_file_and_folder_and_unknown_kind(tmp_path):
    error = refused(files_ref, tmp_path / "none.csv")
    assert (error.field, error.problem) == ("data.path", "no such file")
    error = refused(files_ref, train=write(tmp_path / "a.csv", rows(3)), test=tmp_path / "none.csv")
    assert (error.field, error.problem) == ("data.test", "no such file")
    assert "folder" in refused(files_ref, tmp_path).problem
    (tmp_path / "a.xlsx").touch()
    error = refused(files_ref, tmp_path / "a.xlsx")
    assert error.problem == ".xlsx is not known; allowed are .csv, .jsonl, .ndjson, .parquet"


@pytest.mark.parametrize("given", [{}, {"train": "a.csv"}, {"path": "a.csv", "test": "b.csv"}])
def test_either_one_path_or_train_and_test(given):
    assert "either path alone" in refused(files_ref, **given).problem


def test_unknown_field_in_the_column_map(tmp_path):
    error = refused(files_ref, write(tmp_path / "a.csv", rows(30)), columns={"tiket": "x"})
    assert error.field == "data.columns.tiket"
    assert "fields are response, root_cause, ticket" in error.problem


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_missing_column_says_which_there_are(tmp_path, ending):
    error = refused(files_ref, write(tmp_path / f"a{ending}", [{"text": "a", "label": "b"}] * 3))
    assert error.source == str(tmp_path / f"a{ending}")
    assert (error.field, error.problem) == ("data.columns.ticket", "no column 'ticket'; columns are: text, label")


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("ticket", 7, "an integer"),
        ("ticket", ["a"], "a list"),
        ("root_cause", 1.5, "a decimal number"),
        ("root_cause", True, "a truth value"),
        ("response", {"a": "b"}, "an object"),
    ],
)
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_wrong_types_name_column_type_and_row(tmp_path, field, value, kind, ending):
    wrong = [{**row, field: value} for row in rows(30)]
    error = refused(files_ref, write(tmp_path / f"a{ending}", wrong), columns={})
    assert error.field == f"data.columns.{field}"
    assert error.problem == f"column {field!r} holds {kind} in row 1, not text"


def test_a_wrong_type_in_the_middle_of_json_lines(tmp_path):
    wrong = rows(30)
    wrong[16]["ticket"] = 5
    assert "holds an integer in row 17" in refused(files_ref, write(tmp_path / "a.jsonl", wrong)).problem


def test_text_that_was_cut_within_a_character_is_named_by_its_row(tmp_path):
    wrong = rows(30)
    wrong[4]["ticket"] = "cut \ud83d"
    error = refused(files_ref, write(tmp_path / "a.jsonl", wrong))
    assert error.problem == "column 'ticket' holds what is no Unicode text in row 5: '\\ud83d'"


def test_numbers_in_a_text_column_of_a_csv(tmp_path):
    error = refused(files_ref, write(tmp_path / "a.csv", [{**row, "ticket": n} for n, row in enumerate(rows(30))]))
    assert (error.field, error.problem) == (
        "data.columns.ticket",
        "column 'ticket' holds numbers, not text: row 1 is '0'",
    )


@pytest.mark.parametrize("empty", [None, "", "  "])
@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_empty_values_name_their_row(tmp_path, empty, ending):
    wrong = rows(30)
    wrong[4]["root_cause"] = empty
    error = refused(files_ref, write(tmp_path / f"a{ending}", wrong))
    assert (error.field, error.problem) == ("data.columns.root_cause", "column 'root_cause' is empty in row 5")


def test_a_key_that_a_json_line_lacks_is_an_empty_value(tmp_path):
    wrong = rows(30)
    del wrong[2]["response"]
    assert "is empty in row 3" in refused(files_ref, write(tmp_path / "a.jsonl", wrong)).problem


@pytest.mark.parametrize(
    ("name", "raw", "problem"),
    [
        ("a.jsonl", b'{"ticket": "a"}\n{"ticket": \n', "line 2 is not JSON"),
        ("a.jsonl", b"[1, 2]\n", "line 1 is not a JSON object"),
        ("a.jsonl", b'{"ticket": "\xff"}\n', "not UTF-8"),
        ("a.parquet", b"no parquet at all", "cannot be read"),
        ("a.csv", b"", "cannot be read"),
    ],
)
def test_files_that_are_not_what_their_name_says(tmp_path, name, raw, problem):
    (tmp_path / name).write_bytes(raw)
    assert problem in refused(files_ref, tmp_path / name).problem


def test_empty_splits(tmp_path):
    full, none = write(tmp_path / "a.jsonl", rows(30)), tmp_path / "b.csv"
    none.write_text("ticket,root_cause,response\n")
    assert refused(files_ref, train=full, test=none).field == "data.test"
    assert refused(files_ref, write(tmp_path / "c.jsonl", rows(1))).field in {"data.train", "data.validation"}


def test_fewer_than_two_labels(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(30, labels=("fibre",)))
    error = refused(files_ref, path, columns={"root_cause": "root_cause"})
    assert (error.field, "one label, 'fibre'" in error.problem) == ("data.columns.root_cause", True)
    assert load_splits(files_ref(path), ("response",)).test


def test_labels_of_test_that_training_does_not_have(tmp_path):
    train, test = write(tmp_path / "a.jsonl", rows(30)), write(tmp_path / "b.jsonl", rows(4, labels=("dns", "new")))
    error = refused(files_ref, train=train, test=test)
    assert error.field == "data.columns.root_cause"
    assert error.problem.endswith("does not have: 'new'")


COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = """
import json, sys
from energyaware.errors import InputError
from energyaware.tasks.data import hub_ref, load_splits
try:
    ref = hub_ref(**json.loads(sys.argv[1]))
    splits = load_splits(ref, ["root_cause"])
    print(json.dumps([ref.kind, ref.name, ref.revision, ref.files, len(splits.train), len(splits.test)]))
except InputError as error:
    print(json.dumps([error.source, error.field, error.problem]))
"""


def from_hub(cache, **arguments):
    """What a process that has no network and the hub's cache `cache` makes of `hub_ref(**arguments)`."""
    env = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HUB, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=env,
    )
    return json.loads(done.stdout)


@pytest.fixture
def repository(tmp_path):
    """The folder of a data set in the hub's cache, as snapshot_download lays it out."""
    folder = tmp_path / "datasets--someone--faults"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    (snapshot / "data").mkdir(parents=True)
    return snapshot


def test_hub_files_told_by_name(tmp_path, repository):
    write(repository / "data" / "train-00000-of-00002.parquet", rows(30))
    write(repository / "data" / "train-00001-of-00002.parquet", rows(60)[30:])
    write(repository / "data" / "test-00000-of-00001.parquet", rows(66)[60:])
    (repository / "load.py").write_text("raise SystemExit('code of a data set was executed')")
    kind, name, revision, files, train, test = from_hub(tmp_path, repository="someone/faults")
    assert (kind, name, revision) == ("hub", "someone/faults", COMMIT)
    assert [split for split, _ in files] == ["test", "train", "train"]
    assert (train, test) == (54, 6)


def test_hub_files_named_in_the_sweep(tmp_path, repository):
    write(repository / "data" / "x.jsonl", rows(30))
    write(repository / "data" / "y.csv", rows(36)[30:])
    named = {"repository": "someone/faults", "train": "data/x.jsonl", "test": "data/y.csv"}
    _, _, revision, files, train, test = from_hub(tmp_path, **named)
    assert revision.startswith(f"{COMMIT}+")
    assert files == [["train", "data/x.jsonl"], ["test", "data/y.csv"]]
    assert (train, test) == (27, 6)


def test_hub_files_that_cannot_be_told_apart(tmp_path, repository):
    write(repository / "data" / "a.csv", rows(3))
    write(repository / "data" / "b.csv", rows(3))
    source, field, problem = from_hub(tmp_path, repository="someone/faults")
    assert (source, field) == ("someone/faults", "data.train")
    assert "data/a.csv, data/b.csv" in problem


def test_hub_without_the_repository_or_the_file(tmp_path, repository):
    source, field, _ = from_hub(tmp_path, repository="someone/else")
    assert (source, field) == ("someone/else", "data.hub")
    _, field, problem = from_hub(tmp_path, repository="someone/faults", path="none.csv")
    assert (field, problem) == ("data.path", "no such file")


def test_a_hub_id_that_is_none():
    assert refused(hub_ref, "not a hub id").field == "data.hub"


def test_refs_carry_columns_in_one_order(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(30))
    one = files_ref(path, columns={"ticket": "ticket", "response": "response"})
    other = files_ref(path, columns={"response": "response", "ticket": "ticket"})
    assert one == other
    assert isinstance(one, DataRef)
