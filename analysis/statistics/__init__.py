"""What drives energy and quality: analysis of variance, effects against a reference, rank correlations.

    found = statistics(load("results/quickstart"))
    found.effects.filter(pl.col("level").is_not_null())["words"]

Importing this loads none of the libraries that the answer takes (extra `report`).
"""

from analysis.statistics.answer import Statistics, statistics
from analysis.statistics.responses import RESPONSES, Response

__all__ = ["RESPONSES", "Response", "Statistics", "statistics"]
