"""Figures in a page: drawn without a word on the console, and answering to the reader."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import vl_convert
from playwright.sync_api import Page

from analysis.figures import TITLES, Figure, figures
from analysis.load import Results
from tests.analysis.figured import a_sweep
from tests.analysis.test_figures_robust import hostile

pytest_plugins = "tests.analysis.report_page"

DRAW = """
const specifications = JSON.parse(document.getElementById("specifications").textContent);
Promise.all(Object.entries(specifications).map(([name, specification]) => {
    const box = document.body.appendChild(document.createElement("div"));
    box.id = name;
    return vegaEmbed(box, specification, { renderer: "svg", actions: false });
})).then(() => document.body.dataset.drawn = "yes");
"""


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory) -> Iterator[Page]:
    """A page without figures, which keeps what is said on its console in `said`."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: None if request.url.startswith("file:") else page.said.append(request.url))
    page.place = tmp_path_factory.mktemp("page") / "figures.html"
    yield page
    page.close()


def show(page: Page, results: Results) -> dict[str, Figure]:
    """Draw all figures of results in the page."""
    found = figures(results)
    specifications = json.dumps({name: figure.specification() for name, figure in found.items() if figure.chart})
    scripts = vl_convert.javascript_bundle().replace("</script", "<\\/script")
    write_page(page.place, specifications.replace("<", "\\u003c"), scripts)
    page.said.clear()
    page.goto(page.place.as_uri())
    page.wait_for_selector("body[data-drawn=yes]", timeout=60_000)
    return found


def write_page(file: Path, specifications: str, scripts: str) -> None:
    """A page that draws specifications."""
    content = f'<script type="application/json" id="specifications">{specifications}</script>'
    file.write_text(
        f'<!doctype html><meta charset="utf-8"><body>{content}<script type="module">{scripts}{DRAW}</script>'
    )


@pytest.mark.parametrize("results", [a_sweep, hostile])
def test_all_figures_are_drawn_and_nothing_is_said_fetched_or_run(page, results):
    show(page, results())
    assert page.said == []
    for name in TITLES:
        box = page.locator(f"#{name} svg").bounding_box()
        assert box["width"] > 200
        assert box["height"] > 60
        assert page.locator(f"#{name} svg .role-mark > *").count() > 0
    assert page.evaluate("document.images.length") == 0


@pytest.mark.parametrize("name", ["weights", "break_even", "energy_loss"])
def test_a_click_on_a_legend_dims_the_others(page, name):
    show(page, a_sweep())
    dimmed = page.locator(f'#{name} .role-mark [opacity="0.12"]')
    assert dimmed.count() == 0
    page.locator(f"#{name} .role-legend-label text").first.click()
    dimmed.first.wait_for(state="attached")
    bright = page.locator(f'#{name} .role-mark path[opacity="1"]')
    assert bright.count() > 0


def test_a_tooltip_says_hostile_names_as_text(page):
    found = show(page, hostile())
    page.locator("#ranking .mark-rect.role-mark path").first.hover()
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    assert " ".join(found["ranking"].data["label"][0].split()) in " ".join(tooltip.inner_text().split())
    assert tooltip.locator("img, script").count() == 0
    assert page.said == []
