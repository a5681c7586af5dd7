"""The page: what the results say, in the order in which people ask."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final, Unpack

from analysis.comparable import NotComparable
from analysis.extra import require_report_extra
from analysis.figures import figures
from analysis.figures.figure import Figure
from analysis.load import Results
from analysis.report import inline, sections
from analysis.report.charts import figures_section, specifications
from analysis.report.drivers import drivers_section
from analysis.report.failed import progress
from analysis.report.section import Section
from analysis.report.sure import sure_section
from analysis.report.tradeoffs import tradeoffs_section
from analysis.results import AnswerChoices
from analysis.show import Answer, answer
from analysis.status import Status, status

_NOTES: Final = 3
"""Notes that stand at the top; more are folded away. Those on where joules come from are the first."""

_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"


def report(results: Results, *, command: str | None = None, **choices: Unpack[AnswerChoices]) -> str:
    """One HTML file that holds all it needs.

    Args:
        results: a loaded results folder, of a sweep that is at its end or at work.
        command: the command line that makes the page anew, as it is to be shown.
        choices: how results are ranked, as of `analysis.show.answer`.

    Raises:
        InputError: a choice is out of its range, or the libraries of the extra `report` are not installed.
    """
    require_report_extra("report", ["jinja2", "markupsafe"])
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def readable(value: object) -> object:
        """Text without control characters and what turns the direction of writing; markup of our own as it is."""
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return "".join(letter if letter.isprintable() or letter == "\n" else _REPLACED for letter in value)

    environment = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(_content(results, command, choices))


def _content(results: Results, command: str | None, choices: AnswerChoices) -> dict[str, Any]:
    now = status(results)
    with ThreadPoolExecutor(max_workers=1) as beside:
        library = beside.submit(inline.vega)  # works without the interpreter, and takes as long as to draw all figures
        found, refusal = _answer(results, choices)
        drawn = list(figures(results, answer=found, **choices).values())
    notes = [] if found is None else [note for note in found.notes if note not in results.problems]
    style = inline.style()
    scripts = inline.scripts(library.result() if any(figure.chart is not None for figure in drawn) else None)
    return {
        "title": ", ".join(results.folders) or results.folder.name,
        "made": datetime.now(UTC).strftime("made %Y-%m-%d %H:%M UTC"),
        "version": version("energyaware"),
        "style": style,
        "scripts": scripts,
        "policy": inline.policy(style, scripts),
        "specifications": inline.as_data(specifications(drawn)),
        "progress": progress(now),
        "sentence": "Nothing can be ranked." if found is None else found.sentence,
        "beside": [refusal] if refusal else [],
        "notes": notes[:_NOTES],
        "more_notes": notes[_NOTES:],
        "key_figures": list(sections.key_figures(found, now)),
        "sections": _sections(results, now, found, drawn, command, asked_only=choices.get("asked_only", True)),
    }


def _answer(results: Results, choices: AnswerChoices) -> tuple[Answer | None, str | None]:
    """The ranking, or why there is none."""
    try:
        return answer(results, **choices), None
    except NotComparable as refusal:
        return None, str(refusal)


def _sections(
    results: Results, now: Status, found: Answer | None, drawn: list[Figure], command: str | None, *, asked_only: bool
) -> list[Section]:
    ranked = [] if found is None or found.rows.is_empty() else _of_ranking(found)
    return [
        *ranked[:1],
        figures_section(drawn),
        *ranked[1:],
        drivers_section(results, asked_only=asked_only),
        sections.measured_section(results),
        sections.machines_section(results, now),
        sections.failed_section(results, now, found),
        sections.problems_section(results.problems),
        sections.terms_section(),
        sections.reproduce_section(command, results.folders),
    ]


def _of_ranking(found: Answer) -> list[Section]:
    return [sections.ranking_section(found), sure_section(found), tradeoffs_section(found)]
