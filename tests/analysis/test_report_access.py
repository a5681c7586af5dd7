"""Everyone can read the report: without scripts, on any screen, in the dark, by keyboard and on paper."""

from itertools import pairwise

import pytest

from analysis.figures.theme import PALETTES
from tests.analysis.report_sweep import SECTIONS

pytest_plugins = "tests.analysis.report_page"

LANDSCAPE_PX = 277 / 25.4 * 96


def test_without_scripts_all_but_pictures_and_sorting_is_there(read, page_html):
    reader = read(page_html, scripts=False)
    text = reader.says("main")
    assert [heading for heading in SECTIONS if heading not in text] == []
    assert len(reader.page.locator("#table-ranking tbody tr").all()) == 8
    assert reader.page.locator("button:visible, input:visible, select:visible").count() == 0
    assert reader.page.locator("figure table tbody tr").count() > 8
    assert "drawn by a script" in reader.says("#figure-pareto")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(read, page_html, width):
    reader = read(page_html, width=width).drawn()
    assert not reader.runs_over()
    for box in reader.page.locator(".box, .chart").all():
        assert box.get_attribute("tabindex") == "0"


@pytest.mark.parametrize("width", [360, 1280])
def test_names_scrolled_sideways_keep_their_heading_and_caption(read, page_html, width):
    reader = read(page_html, width=width)
    box = reader.page.locator("[aria-labelledby=caption-ranking]")
    box.evaluate("box => { box.scrollLeft = 300; }")
    assert box.evaluate("box => box.scrollLeft") > 100
    left = box.bounding_box()["x"]
    for part in ("thead th.names", "tbody th", "caption span"):
        assert 0 <= box.locator(part).first.bounding_box()["x"] - left < 20, part
    at_name = """box => {
        const { left, top } = box.querySelector("thead th.names").getBoundingClientRect();
        return document.elementFromPoint(left + 20, top + 12).textContent;
    }"""
    box.scroll_into_view_if_needed()
    assert box.evaluate(at_name) == "configuration"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(read, page_html, theme):
    reader = read(page_html, theme=theme).drawn()
    reader.page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert reader.page.locator(".chart").first.get_attribute("data-drawn") == theme
    assert reader.faint() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_edges_of_controls_and_faded_marks_stand_out_from_their_ground(read, page_html, theme):
    reader = read(page_html, theme=theme).drawn()
    rgb = """([selector, property]) => getComputedStyle(document.querySelector(selector))[property]
        .match(/[\\d.]+/g).slice(0, 3).map(Number)"""
    ground = reader.page.evaluate(rgb, ["body", "backgroundColor"])
    for control in (".tools input", ".pick select", ".toggle"):
        assert contrast(reader.page.evaluate(rgb, [control, "borderTopColor"]), ground) >= 3, control
    faded = [int(PALETTES[theme].faded[at : at + 2], 16) for at in (1, 3, 5)]
    seen = [0.8 * mark + 0.2 * below for mark, below in zip(faded, ground, strict=True)]
    assert contrast(seen, ground) >= 3


def contrast(one: list[float], other: list[float]) -> float:
    """Of two colours, as WCAG 2.2 computes it."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: list[float]) -> float:
    shares = [part / 255 for part in colour]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_an_entry_of_a_legend_is_picked_by_keyboard_and_stays_when_the_page_turns_dark(read, page_html):
    reader = read(page_html).drawn()
    figure = reader.page.locator("#figure-weights")
    faint = ".mark-line path[opacity='0.12']"
    assert figure.locator(faint).count() == 0
    choice = figure.get_by_label("Pick in: Who is best")
    choice.focus()
    reader.page.keyboard.press("ArrowDown")
    figure.locator(faint).first.wait_for()
    assert figure.locator(".mark-line path[opacity='1']").count() > 0
    entry = choice.input_value()
    assert entry
    reader.page.get_by_role("button", name="Dark page").click()
    reader.page.wait_for_selector(".chart:not([data-drawn=dark])", state="detached")
    figure.locator(faint).first.wait_for()
    assert choice.input_value() == entry
    choice.select_option("all")
    figure.locator(faint).first.wait_for(state="detached")
    figure.locator(".role-legend-label text").last.click()
    reader.page.wait_for_function(
        "entry => ![entry, ''].includes(document.querySelector('.pick select').value)", arg=entry
    )
    assert reader.complaints == []


def test_the_reader_turns_the_page_dark_and_the_figures_with_it(read, page_html):
    reader = read(page_html).drawn()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = reader.page.evaluate(ground)
    reader.page.get_by_role("button", name="Dark page").click()
    reader.page.wait_for_selector(".chart:not([data-drawn=dark])", state="detached")
    assert reader.page.evaluate(ground) != light
    reader.page.get_by_role("button", name="Light page").click()
    assert reader.page.evaluate(ground) == light
    assert reader.complaints == []


def test_who_cannot_see_or_point_finds_the_way(read, page_html):
    reader = read(page_html)
    levels = [level for level, _ in reader.outline()]
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    page = reader.page
    assert [page.locator(part).count() for part in ("main", "header", "footer", "nav[aria-label]")] == [1, 1, 1, 1]
    assert page.locator("html").get_attribute("lang") == "en"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    for link in page.locator("nav a").all():
        assert link.get_attribute("href").removeprefix("#") in ids
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("thead th:not([scope=col]), tbody tr:not(:has(th[scope=row]))").count() == 0
    assert page.evaluate("[...document.querySelectorAll('input')].every((input) => input.labels.length === 1)")
    names = page.evaluate("[...document.querySelectorAll('summary, label')].map((part) => part.textContent.trim())")
    assert len(names) == len(set(names))
    page.locator("#table-ranking button").first.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_on_paper_nothing_is_cut_and_no_tools_are_printed(read, page_html):
    reader = read(page_html, theme="dark", width=800).drawn()
    reader.page.emulate_media(media="print", color_scheme="light")
    reader.page.set_viewport_size({"width": 700, "height": 1000})
    assert (
        reader.page.locator(".toggle:visible, input:visible, select:visible, nav:visible, .skip:visible").count() == 0
    )
    cut = """[...document.querySelectorAll(".chart svg, table:not(#table-ranking)")]
        .filter((part) => part.getBoundingClientRect().right > document.documentElement.clientWidth)
        .map((part) => part.closest("figure, .box").textContent.slice(0, 80))"""
    assert reader.page.evaluate(cut) == []
    assert reader.page.locator("#table-ranking").bounding_box()["width"] < LANDSCAPE_PX
    assert reader.page.evaluate("getComputedStyle(document.querySelector('.box')).overflowY") == "visible"
    assert reader.page.evaluate("getComputedStyle(document.querySelector('.box')).maxHeight") == "none"
    assert reader.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert reader.page.pdf().startswith(b"%PDF")


def test_on_paper_nothing_that_explains_is_folded_away(read, page_html):
    reader = read(page_html)
    reader.page.emulate_media(media="print")
    folded = """selector => [...document.querySelectorAll(selector)]
        .filter((part) => !part.checkVisibility({ contentVisibilityAuto: true })).map((part) => part.textContent)"""
    assert reader.page.locator(".notes details li, .meanings dd").count() > 5
    assert reader.page.evaluate(folded, ".notes li, .meanings dd") == []
    assert len(reader.page.evaluate(folded, "figure table")) == reader.page.locator("figure table").count()


def test_on_paper_words_of_the_ranking_stay_whole(read, page_html):
    reader = read(page_html, width=int(LANDSCAPE_PX))
    reader.page.emulate_media(media="print")
    broken = """() => {
        const words = document.createTreeWalker(document.getElementById("table-ranking"), NodeFilter.SHOW_TEXT);
        const found = [];
        while (words.nextNode()) {
            for (const { 0: word, index } of words.currentNode.data.matchAll(/\\w+/g)) {
                const range = document.createRange();
                range.setStart(words.currentNode, index);
                range.setEnd(words.currentNode, index + word.length);
                if (range.getClientRects().length > 1) found.push(word);
            }
        }
        return found;
    }"""
    assert reader.page.evaluate(broken) == []
