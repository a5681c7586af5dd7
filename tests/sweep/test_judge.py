"""What a later run is told of the fine-tunings of earlier ones is what their judges were told while they ran."""

import pytest

from analysis.kinds import AROUND
from energyaware.checkpoint_store import Checkpoints, Committed, Start
from energyaware.files import open_files
from sweep.judge import _earlier
from tests.analysis.builders import Lab, write

FIRST = [
    {"window": "prune", "energy_j": 1.0},
    {"window": "train", "epoch": 1, "from_step": 0, "energy_j": 10.0},
    {"window": "evaluate", "epoch": 1, "from_step": 8, "energy_j": 3.0},
    {"window": "checkpoint", "epoch": 1, "energy_j": 100.0},
    {"window": "train", "epoch": 2, "from_step": 8, "energy_j": 20.0},
    {"window": "other", "energy_j": 100.0},
]
SECOND = [
    {"window": "prune", "energy_j": 2.0},
    {"window": "train", "epoch": 2, "from_step": 8, "energy_j": 40.0},
    {"window": "evaluate", "epoch": 2, "from_step": 16, "energy_j": 5.0},
]


class Trained:
    """A fine-tuning that has come to the ends of some epochs."""

    def __init__(self, folder):
        self.lab = Lab(folder)

    def epochs(self, number, attempt=1):
        for epoch in range(1, number + 1):
            row = {"stage_id": "ft", "attempt": attempt, "epoch": epoch, "validation_loss": 1.0, "kept": True}
            write(self.lab.folder / "epochs" / f"ft-{attempt}-{epoch}.parquet", "epochs", row)

    def checkpoint(self, *attempts):
        step, number = attempts[-1][2], len(attempts)
        epochs = [{"epoch": epoch, "steps": 8, "validation_loss": 1.0} for epoch in range(1, number + 1)]
        committed = Committed(
            Start("ft", "d", 1, 0, {}), step, number, [list(a) for a in attempts], epochs, [0.0], 0, {}
        )
        Checkpoints(open_files(str(self.lab.folder)), "ft").commit(committed)

    def told(self):
        found = _earlier(self.lab.results(), open_files(str(self.lab.folder)), ["ft"])
        return dict(found.select("epoch", "so_far_j").iter_rows())


@pytest.fixture
def trained(tmp_path):
    return Trained(tmp_path)


def test_all_work_up_to_an_epoch_counts_and_nothing_around_it(trained):
    trained.lab.finetune("ft", carried_attempts=0)
    trained.lab.energy("ft", *FIRST)
    trained.epochs(2)
    assert {row["window"] for row in FIRST} >= set(AROUND)
    assert trained.told() == {1: 14.0, 2: 34.0}


def test_an_epoch_whose_joules_are_unknown_makes_those_after_it_unknown(trained):
    trained.lab.finetune("ft", carried_attempts=0)
    trained.lab.energy("ft", *FIRST[:4], FIRST[4] | {"energy_j": None}, FIRST[4] | {"epoch": 3})
    trained.epochs(3)
    assert trained.told() == {1: 14.0}


def test_an_interrupted_one_counts_with_what_its_checkpoint_holds(trained):
    trained.lab.finetune("ft", run=False)
    trained.lab.attempt("ft", "interrupted")
    trained.lab.energy("ft", *FIRST)
    assert trained.told() == {}
    trained.checkpoint((1, 0, 8))
    assert trained.told() == {1: 14.0}


@pytest.mark.parametrize("state", ["interrupted", "stopped"])
def test_of_several_attempts_the_training_counts_once_and_the_last_pruning(trained, state):
    trained.lab.finetune("ft", run=False)
    trained.lab.attempt("ft", "interrupted", 1)
    trained.lab.attempt("ft", state, 2)
    trained.lab.energy("ft", *FIRST)
    trained.lab.energy("ft", *SECOND, attempt=2)
    trained.checkpoint((1, 0, 8), (2, 8, 16))
    assert trained.told() == {1: 2.0 + 13.0, 2: 2.0 + 13.0 + 45.0}


def test_a_finished_one_counts_with_what_it_went_on_from(trained):
    trained.lab.finetune("ft", attempt=2, carried_attempts=1)
    trained.lab.energy("ft", *(row | {"kept": row["window"] in {"train", "evaluate"}} for row in FIRST[:3]), FIRST[4])
    trained.lab.energy("ft", *SECOND, attempt=2)
    trained.epochs(2, attempt=2)
    assert trained.told() == {1: 2.0 + 13.0, 2: 2.0 + 13.0 + 45.0}
