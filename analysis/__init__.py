"""From Parquet rows to answers, with Polars. Loads neither Ray nor torch.

    results = load("results/quickstart")
    results.ranking(weight=0.7).collect()
    results.query("SELECT precision, energy_j_per_request FROM stages WHERE kind = 'inference'").collect()

docs/python.md is a whole session.

The functions are bound here at once, not on first use: `analysis.load` is a module too, and whichever was imported
last would win. What costs time to import (rich) is imported where it is used.
"""

from analysis.load import Results, load
from analysis.query import query
from analysis.ranking import left_out, ranking
from analysis.show import Answer, answer
from analysis.status import Status, status

__all__ = ["Answer", "Results", "Status", "answer", "left_out", "load", "query", "ranking", "status"]
