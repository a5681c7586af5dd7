"""Cases of structured pruning, and which outputs of a layer it kept."""

import pytest

from energyaware.layers import weight_matrix
from tests.energyaware.structured_models import CASES


def cases(*kinds):
    return [pytest.param(*case, id="-".join(case)) for case in CASES if not kinds or case[1] in kinds]


def kept_outputs(whole, part):
    """Which outputs of a linear layer a smaller one computes, found by their weights."""
    rows, remaining = weight_matrix(whole), weight_matrix(part)
    found = (rows[:, None, :] == remaining[None, :, :]).all(-1)
    assert (found.sum(0) == 1).all(), "a row that stays was changed, or is there twice"
    indices = found.nonzero()[:, 0]
    assert len(indices) == len(remaining)
    return indices
