"""Reads figures back: their data, their text, and what a drawing of them consists of."""

import json
from typing import Any
from xml.etree import ElementTree as ET

from analysis.figures import Figure, figures
from analysis.load import Results

Row = dict[str, Any]


def drawn(results: Results, name: str, **options: Any) -> Figure:
    """One figure that there is something to draw for."""
    figure = figures(results, only=[name], **options)[name]
    assert figure.reason is None
    return figure


def data(figure: Figure, *fields: str) -> list[Row]:
    """The rows of the one data set of a figure's specification that has these fields."""
    found = [rows for rows in figure.specification()["datasets"].values() if rows and rows[0].keys() >= {*fields}]
    assert len(found) == 1, f"{len(found)} data sets have {fields}"
    return found[0]


def parts(specification: Any, key: str) -> list[Any]:
    """All values of a key, however deep it lies in a specification, the data aside."""
    if isinstance(specification, list):
        return [part for item in specification for part in parts(item, key)]
    if not isinstance(specification, dict):
        return []
    found = [specification[key]] if key in specification else []
    return found + [part for name, item in specification.items() if name != "datasets" for part in parts(item, key)]


def elements(svg: str) -> list[ET.Element]:
    """The elements of an SVG, which is read as XML."""
    return list(ET.fromstring(svg).iter())


def names(svg: str) -> set[str]:
    """The kinds of its elements."""
    return {element.tag.rpartition("}")[2] for element in elements(svg)}


def text(svg: str) -> list[str]:
    """What can be read in it."""
    return ["".join(element.itertext()) for element in elements(svg) if element.tag.endswith("}text")]


def marks(svg: str, role: str) -> int:
    """How many marks of a role, such as `mark-symbol`, are drawn in the plot itself."""
    groups = [element for element in elements(svg) if f"{role} role-mark" in element.get("class", "")]
    return sum(len(group) for group in groups)


def is_plain_json(specification: Row) -> bool:
    """Whether it can be written as strict JSON: a number that is none would make the page unreadable."""
    return bool(json.dumps(specification, allow_nan=False))
