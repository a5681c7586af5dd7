"""Who holds a results folder, as its lease says."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from analysis import status
from energyaware.files import open_files
from energyaware.lease import Lease, this_process
from tests.analysis.builders import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "results")
    lab.inference("a", needs=None)
    return lab


def held_by(lab: Lab) -> str | None:
    return status(lab.results()).held_by


def test_a_fresh_lease_names_its_holder(lab):
    assert held_by(lab) is None
    lab.lease()
    assert held_by(lab) == "ann@node1, process 123, since 2026-01-01 00:00 UTC"
    now = datetime.now(UTC)
    lab.lease(started_at=now)
    assert held_by(lab) == f"ann@node1, process 123, since {now:%H:%M} UTC"


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({}, True),
        ({"released": True}, False),
        ({"age_s": 20.0}, True),
        ({"age_s": 40.0}, False),
        ({"age_s": -600}, False),
    ],
)
def test_one_that_was_released_or_fell_silent_holds_nothing(lab, change, held):
    lab.lease(**change)
    assert (held_by(lab) is not None) == held


def test_the_highest_number_counts(lab):
    lab.lease(9, user="old")
    lab.lease(10, user="new")
    assert held_by(lab).startswith("new@node1")
    lab.lease(10, released=True)
    assert held_by(lab) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"released": false}', '{"started_at": 3, "beat_at": 4}'])
def test_one_that_cannot_be_read_is_named(lab, text):
    lab.lease().write_text(text)
    (lab.folder / "lease" / "notes.txt").write_text("hello")
    results = lab.results()
    assert results.held_by is None
    assert results.problems == [
        "lease/notes.txt: not a lease; skipped",
        "lease/000001.json: torn, or not a lease; skipped",
    ]


def test_the_lease_of_a_run_is_understood(lab):
    lab.results()
    about = this_process()
    with Lease.take(open_files(lab.folder), about):
        assert held_by(lab).startswith(f"{about['user']}@{about['host']}, process {about['pid']}, since ")
    assert held_by(lab) is None
