"""What finished stages were measured with."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from analysis import answer, ranking, status
from analysis.status import as_table
from analysis.versions import differences, in_words
from tests.analysis.builders import Lab

NOW = {"python": "3.11.7", "torch": "2.13.0", "code": "0123456789ab"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "results")
    for name in ("a", "b", "c"):
        lab.inference(name, precision=name, needs=None, versions=json.dumps(NOW))
    return lab


def words(lab: Lab, **options) -> str | None:
    return in_words(differences(lab.results(), **options))


def test_one_set_of_versions_is_nothing_to_tell(lab):
    (only,) = differences(lab.results())
    assert (only.versions, only.stage_ids) == (NOW, ["a", "b", "c"])
    assert words(lab) is status(lab.results()).versions is None


def test_differing_versions_are_told_with_how_many_stages_they_measured(lab):
    lab.inference("d", precision="d", needs=None, versions=json.dumps(NOW | {"torch": "2.12.1"}))
    expected = "3 stages with torch 2.13.0, 1 with torch 2.12.1"
    assert words(lab) == expected
    assert status(lab.results()).versions == expected
    assert f"versions differ: {expected}" in answer(lab.results()).notes
    assert ranking(lab.results()).collect().height == 4
    console = Console(width=200, file=io.StringIO())
    console.print(as_table(status(lab.results())))
    assert f"versions differ: {expected}; run --rerun-changed measures anew" in console.file.getvalue()


def test_our_code_is_told_by_its_hash(lab):
    lab.inference(
        "d", precision="d", needs=None, versions=json.dumps(NOW | {"code": "fedcba987654", "torch": "2.12.1"})
    )
    assert words(lab) == "3 stages with code 01234567 and torch 2.13.0, 1 with code fedcba98 and torch 2.12.1"


@pytest.mark.parametrize("text", [None, "torn {", "[1]", "{}"])
def test_what_a_row_does_not_say_is_not_compared(lab, text):
    lab.inference("d", precision="d", needs=None, versions=text)
    lab.inference("e", precision="e", needs=None, versions=json.dumps({"python": "3.11.7"}))
    assert words(lab) is None
    lab.inference("f", precision="f", needs=None, versions=json.dumps({"python": "3.12.1"}))
    assert words(lab) == "4 stages with python 3.11.7, 1 with python 3.12.1"


def test_what_is_no_longer_asked_for_does_not_count(lab):
    lab.inference("d", precision="d", needs=None, versions=json.dumps(NOW | {"torch": "2.12.1"}))
    lab.plan = [row for row in lab.plan if row["stage_id"] != "d"]
    assert words(lab) is None
    assert words(lab, asked_only=False) == "3 stages with torch 2.13.0, 1 with torch 2.12.1"
