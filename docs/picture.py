"""Draws docs/quickstart.svg: the ranking of a results folder as a terminal shows it.

python docs/picture.py results/quickstart
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

import analysis
from analysis.ranking_table import as_table


def draw(results: Path, picture: Path) -> None:
    """Write the ranking of that folder as an SVG that fetches nothing."""
    console = Console(record=True, width=82, file=io.StringIO(), force_terminal=True)
    console.print(as_table(analysis.answer(analysis.load(results))))
    svg = console.export_svg(title="energyaware run examples/quickstart.yaml")
    picture.write_text(re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(__file__).parent / "quickstart.svg")
