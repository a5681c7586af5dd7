import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from typer.main import get_command

from analysis import query
from analysis.comparable import NotComparable
from analysis.query import render
from energyaware.errors import InputError
from sweep import cli_results  # noqa: F401 - has the command
from sweep.options import app
from tests.analysis.builders import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "results")
    lab.finetune(energy_j=1000.0)
    lab.inference("a", precision="A", energy=2.0)
    lab.inference("b", precision="B", energy=1.0)
    return lab


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT COUNT(*) AS n FROM plan", [{"n": 3}]),
        ("select sum(energy_j) as j from stages where kind = 'finetune';", [{"j": 1000.0}]),
        ("  -- a comment; with a semicolon\n SELECT COUNT(*) AS n FROM attempts", [{"n": 0}]),
        ("SELECT COUNT(*) AS n FROM epochs", [{"n": 0}]),
        ("SELECT window, SUM(energy_j) AS j FROM energy GROUP BY window", []),
        ("SELECT task, AVG(value) AS v FROM quality GROUP BY task", [{"task": "root_cause", "v": 0.8}]),
        ("WITH best AS (SELECT * FROM ranking WHERE rank = 1) SELECT precision FROM best", [{"precision": "B"}]),
        ("SELECT stage_id FROM stages WHERE precision = 'drop; delete' OR stage_id = 'a'", [{"stage_id": "a"}]),
        ("SELECT COUNT(*) AS n FROM stages WHERE state LIKE '%read_timeout%' OR state = 'scan_x'", [{"n": 0}]),
        ("SELECT COUNT(*) AS n FROM stages; /* that was all */", [{"n": 3}]),
        ('SELECT COUNT(*) AS "delete; (n)" FROM nodes', [{"delete; (n)": 0}]),
        (
            "SELECT s.precision, q.value FROM stages s JOIN quality q ON s.stage_id = q.stage_id ORDER BY 1 LIMIT 1",
            [{"precision": "A", "value": 0.8}],
        ),
    ],
)
def test_selects_over_all_tables(lab, sql, expected):
    assert query(lab.results(), sql).to_dicts() == expected


def test_the_ranking_table_takes_the_weight_and_requests(lab):
    sql = "SELECT score, energy_j_per_request AS e FROM ranking ORDER BY rank LIMIT 1"
    assert query(lab.results(), sql, weight=0.25, requests=10).to_dicts() == [
        {"score": pytest.approx(0.25 + 0.75 * 0.8), "e": 101.0}
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";",
        "DROP TABLE stages",
        "TRUNCATE TABLE stages",
        "DELETE FROM stages",
        "CREATE TABLE t AS SELECT * FROM stages",
        "INSERT INTO stages SELECT * FROM stages",
        "UPDATE stages SET energy_j = 0",
        "EXPLAIN SELECT 1",
        "SHOW TABLES",
        "VALUES (1)",
        "/* SELECT */ DROP TABLE stages",
        "SELECT 1; DROP TABLE stages",
        "SELECT 1; SELECT 2",
        "SELECT 1;;",
        "WITH x AS (SELECT 1) DELETE FROM stages",
        "SELECT * INTO copied FROM stages",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM READ_PARQUET ('{file}')",
        "SELECT * FROM \"read_parquet\"('{file}')",
        "SELECT * FROM `read_parquet`('{file}')",
        "SELECT * FROM rEaD_pArQuEt\n(\n'{file}')",
        "SELECT * FROM read_parquet -- why not\n('{file}')",
        "SELECT * FROM read_parquet/* /* */ */('{file}')",
        "SELECT * FROM \"read_parquet\"\u00a0('{file}')",
        "SELECT $$'$$ AS a FROM read_parquet('{file}') WHERE $$'$$ = ''",
        "SELECT stage_id FROM stages WHERE stage_id IN (SELECT stage_id FROM read_parquet('{file}'))",
        "SELECT stage_id FROM stages UNION ALL SELECT stage_id FROM read_parquet('{file}')",
        "WITH x AS (FROM read_parquet('{file}')) SELECT * FROM x",
        "SELECT * FROM (FROM read_parquet('{file}'))",
        "SELECT * FROM read_json('{file}')",
        "SELECT * FROM read_ndjson('{file}')",
        "SELECT * FROM read_ipc('{file}')",
        "FROM read_parquet('{file}')",
        "COPY stages TO '{file}'",
        "SELECT * FROM stages FOR UPDATE",
        "(SELECT 1) INTO OUTFILE '{file}'",
        "ATTACH '{file}' AS x",
        "SET x = 1",
        "SELECT * FROM read_parquet /* ; */ ('{file}')",
        "SELECT '/*' AS a FROM read_parquet('{file}') WHERE '*/' = ''",
        "SELECT * FROM '{file}'",
        'SELECT * FROM "{file}"',
        "SELECT nope FROM stages",
        "SELECT * FROM nope",
        "SELECT energy_j + FROM stages",
        "SELECT no_such_function(energy_j) FROM stages",
        "SELECT * FROM stages WHERE kind > 3",
    ],
)
def test_all_else_is_one_line_of_input_error_and_changes_nothing(lab, sql):
    results = lab.results()
    files = {file: file.read_bytes() for file in lab.folder.rglob("*") if file.is_file()}
    with pytest.raises(InputError) as caught:
        query(results, sql.replace("{file}", str(lab.folder / "plan.parquet")))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200
    assert {file: file.read_bytes() for file in lab.folder.rglob("*") if file.is_file()} == files
    assert query(results, "SELECT COUNT(*) AS n FROM stages").item() == 3


def test_the_guard_is_needed_polars_would_read_the_file(lab):
    lab.results()
    sql = f"SELECT * FROM read_parquet('{lab.folder / 'plan.parquet'}')"
    assert pl.SQLContext(eager=True).execute(sql).height == 3


def test_an_unknown_column_or_table_is_answered_with_those_that_exist(lab):
    with pytest.raises(InputError, match=r'"energy".*stages has schema_version, stage_id, kind'):
        query(lab.results(), "SELECT energy FROM stages")
    with pytest.raises(
        InputError, match=r"'runs'.*tables: plan, stages, attempts, epochs, quality, energy, nodes, ranking"
    ):
        query(lab.results(), "SELECT * FROM runs")


def test_a_ranking_that_is_refused_is_refused_in_sql_and_other_tables_are_not(lab):
    lab.inference("c", precision="C", energy=1.0, measured=False)
    assert query(lab.results(), "SELECT COUNT(*) AS n FROM stages").item() == 4
    with pytest.raises(NotComparable, match="allow_mixed"):
        query(lab.results(), "SELECT * FROM ranking")
    sql = "SELECT energy_kind, mixed FROM ranking WHERE precision = 'C'"
    assert query(lab.results(), sql, allow_mixed=True).rows() == [("mixed", True)]


def test_what_an_error_repeats_of_a_statement_cannot_command_a_terminal(lab):
    with pytest.raises(InputError) as caught:
        query(lab.results(), 'SELECT "\x1b[31m\u202e" FROM stages')
    assert str(caught.value).isprintable()


def test_deep_nesting_is_an_error_of_one_line(lab):
    with pytest.raises(InputError) as caught:
        query(lab.results(), f"SELECT {'(' * 2000}1{')' * 2000}")
    assert "\n" not in str(caught.value)


def test_the_ranking_table_takes_what_the_ranking_takes(lab):
    results = lab.results()
    sql = "SELECT precision FROM ranking ORDER BY precision"
    assert query(results, sql, gpu_kind="H200").rows() == [("A",), ("B",)]
    assert query(results, sql, gpu_kind="A100").rows() == []


def test_rows_as_json_csv_and_table(lab):
    lab.inference("c", precision="[red]C\x1b[31m", needs=None, energy=float("nan"), finished_at=None)
    frame = query(
        lab.results(),
        "SELECT precision, energy_j_per_request AS e, needs, finished_at FROM stages "
        "WHERE kind = 'inference' ORDER BY precision",
    )
    objects = json.loads(render(frame, "json"))
    assert objects[0]["e"] == 2.0
    assert objects[0]["needs"] == ["ft"]
    assert objects[0]["finished_at"] == "2026-01-01T00:01:10+00:00"
    assert (objects[2]["e"], objects[2]["finished_at"]) == (None, None)
    back = pl.read_csv(io.StringIO(render(frame, "csv")))
    assert back["precision"].to_list() == frame["precision"].to_list()
    assert back["needs"].to_list() == ["ft", "ft", ""]
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(render(frame, "table"))
    assert "[red]C\N{REPLACEMENT CHARACTER}[31m" in console.file.getvalue()


def test_lengths_of_time_are_seconds_and_decimals_are_numbers(lab):
    frame = query(
        lab.results(), "SELECT finished_at - started_at AS took, 1.5 AS x FROM stages WHERE kind = 'finetune'"
    )
    assert json.loads(render(frame, "json")) == [{"took": 10.0, "x": 1.5}]
    assert render(frame, "csv") == "took,x\n10.0,1.5\n"


def test_columns_may_be_called_as_functions_are_that_read_files(lab):
    frame = query(lab.results(), "WITH t AS (SELECT energy_j AS read_j FROM stages) SELECT read_j / 2 AS half FROM t")
    assert frame.height == 3


def test_the_examples_of_the_help_run(lab, tmp_path):
    lab.results()
    examples = [line for line in get_command(app).commands["query"].epilog.splitlines() if "energyaware query" in line]
    assert len(examples) == 2
    for example in examples:
        command, _, *arguments = shlex.split(example.removeprefix("Examples: "))
        arguments = [str(lab.folder) if word.startswith("results/") else word for word in arguments]
        subprocess.run([Path(sys.executable).with_name(command), "query", *arguments], cwd=tmp_path, check=True)
    assert (tmp_path / "stages.parquet").is_file()


def test_lists_of_records_survive_csv_as_json(lab):
    text = render(query(lab.results(), "SELECT quality FROM ranking LIMIT 1"), "csv")
    (row,) = pl.read_csv(io.StringIO(text))["quality"]
    assert json.loads(row) == [{"task": "root_cause", "metric": "accuracy", "value": 0.8}]


def run_query(lab, *arguments, **more):
    lab.results()
    command = [Path(sys.executable).with_name("energyaware"), "query", lab.folder, *arguments]
    return subprocess.run(command, capture_output=True, check=False, **more)


@pytest.mark.parametrize("form", ["table", "json", "csv", "parquet"])
def test_every_format_can_be_written_to_a_file(lab, tmp_path, form):
    file = tmp_path / "out"
    sql = "SELECT stage_id, needs, energy_j, marks, finished_at FROM stages ORDER BY stage_id"
    done = run_query(lab, sql, "--format", form, "-o", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    expected = query(lab.results(), sql)
    read = {
        "parquet": lambda: pl.read_parquet(file),
        "csv": lambda: pl.read_csv(file).with_columns(pl.col("needs").str.split(" ")),
        "json": lambda: pl.DataFrame(json.loads(file.read_text())),
        "table": lambda: pl.DataFrame({"stage_id": re.findall(r"^ *(ft|a|b) ", file.read_text(), re.MULTILINE)}),
    }[form]()
    assert read["stage_id"].to_list() == ["a", "b", "ft"]
    if form == "parquet":
        assert read.equals(expected)


def test_a_table_in_a_file_is_as_wide_as_it_is(lab, tmp_path):
    run_query(lab, "SELECT * FROM stages ORDER BY stage_id", "-o", tmp_path / "out")
    lines = (tmp_path / "out").read_text().splitlines()
    assert sum("root_cause" in line and "H200" in line for line in lines) == 3, "each row on one line"


def test_parquet_goes_to_a_pipe_but_not_to_a_terminal(lab):
    piped = run_query(lab, "SELECT 1 AS one", "--format", "parquet")
    assert pl.read_parquet(io.BytesIO(piped.stdout))["one"].to_list() == [1]
    ours, theirs = os.openpty()
    lab.results()
    command = [Path(sys.executable).with_name("energyaware"), "query", lab.folder, "SELECT 1", "--format", "parquet"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert done.stderr == b"error: --format: parquet is not for a terminal: name a file with -o, or pipe it\n"


def test_an_answer_goes_into_a_pipe_that_is_named_as_a_file(lab):
    done = run_query(lab, "SELECT 1 AS one", "--format", "csv", "-o", "/dev/stdout")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\n1\n", b"")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("results/stages/z.parquet", "which is only read here"),
        ("results/../results/z.parquet", "which is only read here"),
        ("nowhere/z.parquet", "cannot be written: No such file or directory"),
        (".", "cannot be written: Is a directory"),
    ],
)
def test_where_an_answer_cannot_go_is_said_in_one_line(lab, tmp_path, name, problem):
    done = run_query(lab, "SELECT 1", "--format", "parquet", "-o", tmp_path / name)
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert problem in done.stderr.decode()
    assert lab.results().problems == []


def test_several_folders_are_asked_as_one(lab, tmp_path):
    other = Lab(tmp_path / "other")
    other.inference("c", precision="C", needs=None)
    other.results()
    sql = "SELECT sweep, COUNT(*) AS n FROM stages GROUP BY sweep ORDER BY sweep"
    done = run_query(lab, other.folder, sql, "--format", "csv")
    assert done.stdout.decode().splitlines() == ["sweep,n", "other,1", "results,3"]
    assert done.returncode == 0
