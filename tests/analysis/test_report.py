"""The report, as a browser shows it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from analysis import answer
from analysis.figures.theme import PALETTES
from analysis.report import report
from tests.analysis.builders import Lab, write
from tests.analysis.report_reader import Reader
from tests.loaded import loaded_by

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "<img src=x onerror=\"alert('a')\"></script><script>alert('b')</script><!--<script>'; alert(`c`) // "
    "javascript:alert(4) \u2028\u2029\x1b[2J\u202e{{7*7}}${7*7}&lt;b&gt;"
)
FIGURES = ["ranking", "pareto", "weights", "energy_loss", "components", "lost"]
SECTIONS = [
    *["Ranking", "Figures", "How sure", "Trade-offs", "What drives energy and quality", "What was measured, and how"],
    *["Machines and versions", "What failed, and what was left out", "Problems of files", "How R is computed"],
    "How to reproduce this",
]
CELLS = {"fp32": (4.0, 0.83), "bf16": (2.4, 0.82), "int8": (1.9, 0.8), "nf4": (1.3, 0.74)}
LANDSCAPE_PX = 277 / 25.4 * 96
PRUNINGS = {"none": 1.0, "neurons-25%": 0.8}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def read(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Reader]]:
    """Opens a page from a file, without a network."""
    contexts = []

    def opened(html: str, *, width: int = 1280, scripts: bool = True, theme: str = "light", **more) -> Reader:
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        size = {"width": width, "height": 900}
        contexts.append(
            browser.new_context(viewport=size, java_script_enabled=scripts, color_scheme=theme, offline=True, **more)
        )
        reader = Reader(contexts[-1].new_page())
        reader.page.goto(file.as_uri())
        return reader

    yield opened
    for context in contexts:
        context.close()


def sweep(folder: Path, *, seeds: int = 2) -> Lab:
    """Four precisions, each dense and pruned; one that is infeasible, and one attempt that failed."""
    lab = Lab(folder)
    about = {"nodes": ["node-a"], "versions": json.dumps({"torch": "2.13.0", "python": "3.11.7"}), "workers": 1}
    for seed in range(seeds):
        for precision, (joules, accuracy) in CELLS.items():
            tuned = lab.finetune(
                f"ft-{precision}-{seed}",
                energy_j=900 * joules,
                precision=precision,
                finetune_precision=precision,
                seed=seed,
                **about,
            )
            losses = [{"epoch": epoch, "loss": 2 / epoch, "validation_loss": 2.1 / epoch} for epoch in (1, 2)]
            rows = [loss | {"stage_id": tuned, "attempt": 1, "energy_j": 400 * joules} for loss in losses]
            write(lab.folder / "epochs" / f"{tuned}.parquet", "epochs", *rows)
            for pruning, share in PRUNINGS.items():
                energy = joules * share * (1 + seed / 100)
                served = {
                    "precision": precision,
                    "pruning": pruning,
                    "seed": seed,
                    "needs": tuned,
                    "finetune_precision": precision,
                }
                served |= {"pruning_applied": None if pruning == "none" else "after"}
                stage = lab.inference(
                    f"i-{precision}-{pruning[:4]}-{seed}",
                    energy=energy,
                    quality={"root_cause": {"accuracy": accuracy - (pruning != "none") * 0.03 + seed / 500}},
                    **served,
                    **about,
                )
                windows = [("prefill", 0.3), ("decode", 0.7)]
                lab.energy(
                    stage,
                    *(
                        {"window": window, "repeat": repeat, "requests": 100, "energy_j": 100 * energy * part}
                        | {"duration_s": 6.0, "node": "node-a", "source": "rapl", "kept": True}
                        for window, part in windows
                        for repeat in (1, 2)
                    ),
                )
    lab.inference("i-fp8", precision="fp8", needs=None, run=False)
    lab.infeasible("i-fp8", "fp8 needs a GPU of capability 8.9")
    lab.attempt("i-nf4-none-0", "failed", attempt=0, reason="RuntimeError: connection lost")
    lab.node("node-a", "cpu", 1000.0, 900.0, 90.0, 10.0, idle_power_w=30.0)
    (lab.folder / "energy" / "torn.parquet").write_bytes(b"PAR1")
    (lab.folder / "sweep.yaml").write_text("name: tickets\nranking: {weight: 0.7}\n")
    return lab


@pytest.fixture(scope="module")
def page_html(tmp_path_factory) -> str:
    lab = sweep(tmp_path_factory.mktemp("report"))
    return report(lab.results(), command="energyaware report results -o report.html", requests=5_000)


def test_the_answer_stands_first_and_the_sections_follow_in_the_order_in_which_people_ask(read, page_html, tmp_path):
    reader = read(page_html)
    outline = reader.outline()
    assert outline[0] == (1, answer(sweep(tmp_path / "again").results(), requests=5_000).sentence)
    assert [text for level, text in outline if level == 2] == SECTIONS
    assert reader.page.title()
    assert "16 of 17 stages" not in reader.says("header")


def test_the_page_asks_no_network_for_anything_complains_of_nothing_and_draws_its_figures(read, page_html):
    reader = read(page_html).drawn()
    assert [url for url in reader.requests if not url.startswith(("file:", "data:"))] == []
    assert reader.complaints == []
    boxes = reader.page.locator(".chart")
    assert set(FIGURES) <= {boxes.nth(index).get_attribute("data-figure") for index in range(boxes.count())}
    for index in range(boxes.count()):
        box = boxes.nth(index)
        assert box.get_attribute("data-drawn") == "light", box.inner_text()
        size = box.locator("svg").bounding_box()
        assert min(size["width"], size["height"]) > 100
        assert box.locator("svg .mark-symbol path, svg .mark-rect path, svg .mark-line path").count() > 0
        assert box.get_attribute("role") == "img"
        assert box.get_attribute("aria-label")


def test_the_policy_of_the_page_lets_nothing_in_that_it_was_not_made_with(read, page_html):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page_html)[1]
    assert "default-src &#39;none&#39;" in policy
    assert "unsafe" not in policy
    reader = read(page_html)
    reader.page.evaluate(
        """() => {
            document.head.append(Object.assign(document.createElement("script"), { textContent: "window.evil = 1" }));
            document.body.append(Object.assign(new Image(), { src: "https://example.org/x.png" }));
        }"""
    )
    reader.page.wait_for_timeout(200)
    assert reader.page.evaluate("window.evil") is None
    assert len(reader.complaints) == 2
    assert all("Content Security Policy" in complaint for complaint in reader.complaints)


def test_the_ranking_sorts_by_click_and_says_so(read, page_html):
    reader = read(page_html)
    assert reader.column("ranking", "#") == [str(rank) for rank in range(1, 9)]
    heading = reader.page.locator(
        "#table-ranking th", has=reader.page.get_by_role("button", name="quality", exact=True)
    )
    heading.get_by_role("button").click()
    ascending = [float(value) for value in reader.column("ranking", "quality")]
    assert ascending == sorted(ascending)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").click()
    assert [float(value) for value in reader.column("ranking", "quality")] == ascending[::-1]
    assert heading.get_attribute("aria-sort") == "descending"
    assert reader.page.locator("#table-ranking [aria-sort]").count() == 1
    assert "quality" in reader.says("[data-table=table-ranking] [role=status]")


def test_the_ranking_sorts_by_keyboard_alone(read, page_html):
    reader = read(page_html)
    reader.page.locator("[aria-labelledby=caption-ranking]").focus()
    for _ in range(2):
        reader.page.keyboard.press("Tab")
    assert reader.page.evaluate("document.activeElement.textContent") == "configuration"
    reader.page.keyboard.press("Enter")
    names = reader.column("ranking", "configuration")
    assert names == sorted(names)
    reader.page.keyboard.press("Space")
    assert reader.column("ranking", "configuration") == names[::-1]


@pytest.mark.parametrize(("table", "heading"), [("ranking", "R within"), ("intervals", "R")])
def test_intervals_sort_by_their_lower_ends(read, page_html, table, heading):
    reader = read(page_html)
    cells = f"document.querySelectorAll('#table-{table} td.range')"
    reader.page.evaluate(
        f"{cells}.forEach((cell, at) => {{ cell.dataset.sort = [0.4, -0.4, 0.383, -3, 10][at % 5]; }})"
    )
    button = reader.page.locator(f"#table-{table}").get_by_role("button", name=heading, exact=True)
    for descending in (False, True):
        button.click()
        ends = [float(value) for value in reader.column(table, heading)]
        assert len(set(ends)) > 3
        assert ends == sorted(ends, reverse=descending)


def test_what_is_unknown_stays_last_however_a_table_is_sorted(read, tmp_path):
    lab = sweep(tmp_path / "results")
    lab.inference("x", energy=9.0, precision="x", needs=None, carbon_g_per_kwh=None)
    reader = read(report(lab.results()))
    for _ in range(2):
        reader.page.locator("#table-ranking").get_by_role("button", name="g CO2e per request").click()
        assert reader.column("ranking", "g CO2e per request")[-1] == "?"


def test_a_long_table_is_filtered_by_words_and_tells_how_many_rows_are_left(read, tmp_path):
    reader = read(report(sweep(tmp_path / "results", seeds=1).results()))
    assert reader.page.get_by_label("Filter").count() >= 1
    reader.page.get_by_label("Filter").first.fill("NEURONS bf16")
    assert reader.column("ranking", "configuration") == ["bf16 + neurons-25%"]
    assert reader.says("[data-table=table-ranking] [role=status]") == "1 of 8 rows"
    reader.page.get_by_label("Filter").first.fill("")
    assert len(reader.column("ranking", "configuration")) == 8


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


def hostile(folder: Path) -> Lab:
    """Every text that a row can hold is one that would like to be markup."""
    lab = Lab(folder)
    text = {"model_revision": HOSTILE, "finetune_method": HOSTILE, "finetune_precision": HOSTILE}
    text |= {"device": HOSTILE, "carbon_source": HOSTILE, "currency": HOSTILE, "price_per_kwh": 1.0, "pue": 1.0}
    text |= {"nodes": [HOSTILE], "marks": [f"decode: {HOSTILE}"], "storage": HOSTILE, "sweep": HOSTILE}
    for number in range(3):
        own = text | {"model": f"{number}{HOSTILE}", "precision": f"{number}{HOSTILE}", "pruning": f"{number}{HOSTILE}"}
        own |= {"gpu_kind": f"{number}{HOSTILE}", "device_name": f"{number}{HOSTILE}"}
        own |= {"versions": json.dumps({HOSTILE: HOSTILE, "torch": HOSTILE})}
        tuned = lab.finetune(f"ft{number}", **own)
        rows = [{"stage_id": tuned, "attempt": 1, "epoch": 1, "loss": 1.0, "validation_loss": 1.0, "energy_j": 9.0}]
        write(lab.folder / "epochs" / f"{tuned}.parquet", "epochs", *rows)
        quality = {HOSTILE: {HOSTILE: 0.5 + number / 10}}
        stage = lab.inference(f"i{number}", energy=1.0 + number, needs=tuned, quality=quality, **own)
        metered = {"window": "decode", "component": HOSTILE, "source": HOSTILE, "node": HOSTILE, "duration_s": 1.0}
        lab.energy(stage, metered | {"marks": [HOSTILE], "requests": 10, "reason": HOSTILE, "kept": True})
    lab.inference("bad", run=False, needs=None, **text)
    lab.infeasible("bad", HOSTILE)
    lab.attempt("i0", "failed", attempt=0, reason=HOSTILE, traceback=HOSTILE)
    lab.node(
        HOSTILE.replace("/", ""), HOSTILE.replace("/", "")[:40], 9.0, 5.0, 3.0, 1.0, source=HOSTILE, reason=HOSTILE
    )
    (lab.folder / "energy" / "<img src=x onerror=alert(5)>.parquet").write_bytes(b"")
    (lab.folder / "sweep.yaml").write_text(f"name: '{HOSTILE}'\n")
    return lab


def test_hostile_names_come_out_as_text(read, tmp_path, page_html):
    html = report(hostile(tmp_path / "results").results(), command=HOSTILE, allow_mixed=True)
    reader = read(html).drawn()
    assert reader.complaints == []
    assert [url for url in reader.requests if not url.startswith(("file:", "data:"))] == []
    assert reader.page.locator("img, iframe, object, embed, b, form:not(.vega-bindings)").count() == 0
    assert reader.page.locator("script").count() == page_html.count("<script")
    attributes = "[...document.querySelectorAll('*')].flatMap((element) => [...element.attributes])"
    assert reader.page.evaluate(f"{attributes}.filter((each) => each.name.startsWith('on')).length") == 0
    links = reader.page.evaluate("[...document.querySelectorAll('[href]')].map((each) => each.getAttribute('href'))")
    assert {link[0] for link in links if link != "data:,"} == {"#"}
    assert "<img src=x onerror=" in reader.column("ranking", "configuration")[0]
    assert "{{7*7}}" in reader.says("#table-ranking")
    assert not set("\x1b\u202e\u2028") & set(reader.page.evaluate("document.body.textContent"))
    assert set(reader.page.evaluate("[...document.querySelectorAll('.chart')].map((box) => box.dataset.drawn)")) == {
        "light"
    }
    reader.page.locator(".chart svg").first.hover()
    assert reader.complaints == []


def test_while_the_sweep_runs_the_page_says_at_its_top_how_far_it_is(read, tmp_path):
    lab = sweep(tmp_path / "results")
    lab.inference("later", precision="tf32", needs=None, run=False)
    lab.lease()
    reader = read(report(lab.results()))
    assert "The sweep is running: 24 of 26 stages are finished" in reader.says(".progress")
    assert "the best" in reader.says("h1")


def test_with_nothing_ranked_yet_the_page_says_why_and_shows_the_rest(read, tmp_path):
    lab = Lab(tmp_path / "results")
    lab.finetune("ft", run=False)
    lab.inference("a", needs="ft", run=False)
    lab.attempt("ft", "oom", reason="CUDA out of memory: 80 GiB are not enough")
    reader = read(report(lab.results()))
    assert "Nothing can be ranked yet" in reader.says("h1")
    assert "CUDA out of memory: 80 GiB are not enough" in reader.says("#table-left-out")
    assert reader.page.locator("#table-ranking").count() == 0
    assert reader.complaints == []


def test_unlike_energies_are_not_ranked_and_the_page_says_what_to_do(read, tmp_path):
    lab = Lab(tmp_path / "results")
    lab.inference("a", needs=None, precision="bf16")
    lab.inference("b", needs=None, precision="nf4", measured=False)
    reader = read(report(lab.results()))
    assert "--allow-mixed" in reader.says("main")
    assert reader.page.locator("#table-ranking").count() == 0
    assert read(report(lab.results(), allow_mixed=True)).page.locator("#table-ranking tbody tr").count() == 2


def test_of_many_that_tie_with_the_best_some_are_named_and_the_others_counted(read, tmp_path):
    lab = Lab(tmp_path / "results")
    for number, seed in product(range(9), range(4)):
        lab.inference(
            f"i-{number}-{seed}",
            needs=None,
            pruning=f"magnitude-{number + 1}0%",
            pruning_applied="after",
            seed=seed,
            energy=1.0 + 5 * ((number + 3 * seed) % 4) + number / 100,
            quality={"root_cause": {"accuracy": 0.5 + 0.1 * ((number + seed) % 4)}},
        )
    said = read(report(lab.results())).drawn().says("section:has(#sure)")
    assert re.search(r"Cannot be told apart from the best: ([^,]+, ){4}[^,]+ and \d more\.", said), said


def test_a_thousand_configurations_stay_below_five_mebibytes_and_within_reach(read, tmp_path):
    lab = Lab(tmp_path / "results")
    rows = [thousandth(lab, number) for number in range(1_000)]
    quality = [
        {"stage_id": row["stage_id"], "attempt": 1, "task": "root_cause", "metric": "accuracy"}
        | {"value": 0.4 + (row["energy_j"] * 7919 % 500) / 1000, "examples": 200}
        for row in rows
    ]
    write(lab.folder / "stages" / "inference" / "all.parquet", "stages", *rows)
    write(lab.folder / "quality" / "all.parquet", "quality", *quality)
    html = report(lab.results())
    assert len(html.encode()) < 5 * 2**20
    reader = read(html).drawn()
    assert reader.complaints == []
    assert len(reader.column("ranking", "#")) == 1_000
    reader.page.get_by_label("Filter").first.fill("sparsegpt-77%")
    assert len(reader.column("ranking", "#")) == 10
    box = reader.page.locator("[aria-labelledby=caption-ranking]").bounding_box()
    assert box["height"] < 900
    cut = "[...document.querySelectorAll('.chart')].filter(box => box.scrollWidth > box.clientWidth).length"
    assert reader.page.evaluate(cut) == 0, "figures with long names are as wide as their column"


def thousandth(lab: Lab, number: int) -> dict:
    precision, pruning = f"p{number % 10}", f"sparsegpt-{number // 10}%"
    served = {"precision": precision, "pruning": pruning, "pruning_applied": "after", "needs": None}
    lab.inference(f"s{number}", run=False, **served)
    planned = lab.plan[-1]
    more = {"energy_j": 10.0 + number, "energy_j_per_request": 1.0 + number / 10, "attempt": 1, "measured": True}
    return {**planned, **more, "state": "finished", "energy_kind": "measured", "realisation": "physical"}


def energyaware(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweep", *words],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_the_file_and_tells_its_path_and_size(read, tmp_path):
    lab = sweep(tmp_path / "results")
    lab.results()
    page = tmp_path / "page.html"
    done = energyaware("report", str(lab.folder), "-o", str(page), "--requests", "5000")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(page))}: \d\.\d MiB\n", done.stdout)
    reader = read(page.read_text(encoding="utf-8"))
    assert "w = 0.7" in reader.says("h1")  # of the sweep file
    command = shlex.split(reader.page.locator("pre").first.inner_text())
    assert command[:5] == ["energyaware", "report", str(lab.folder), "-o", str(page)]
    assert energyaware(*command[1:]).returncode == 0


def test_several_folders_make_one_page(read, tmp_path):
    for name in ("one", "other"):
        lab = Lab(tmp_path / name)
        lab.inference(f"of-{name}", needs=None, precision=name)
        lab.results()
        (lab.folder / "sweep.yaml").write_text(f"name: {name}\n")
    page = tmp_path / "page.html"
    done = energyaware("report", str(tmp_path / "one"), str(tmp_path / "other"), "-o", str(page))
    assert (done.returncode, done.stderr) == (0, "")
    reader = read(page.read_text(encoding="utf-8"))
    assert sorted(reader.column("ranking", "configuration")) == ["bf16→one", "bf16→other"]
    assert "one, other" in reader.page.title()
    assert reader.page.locator("#reproduce ~ pre").count() == 3


def test_the_command_refuses_in_one_line_what_it_cannot_do(tmp_path):
    lab = sweep(tmp_path / "results", seeds=1)
    lab.results()
    away = energyaware("report", str(lab.folder), "-o", str(tmp_path / "away" / "x.html"))
    assert (away.returncode, away.stderr.count("\n")) == (2, 1)
    assert "No such file or directory" in away.stderr
    nothing = energyaware("report", str(tmp_path), "-o", str(tmp_path / "x.html"))
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("place", ["report.html", "stages/inference/report.html"])
def test_a_page_is_not_written_into_the_results(tmp_path, place):
    lab = sweep(tmp_path / "results", seeds=1)
    lab.results()
    held = sorted(lab.folder.rglob("*"))
    done = energyaware("report", str(lab.folder), "-o", str(lab.folder / place))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{place}: lies in the results folder {lab.folder}" in done.stderr
    assert sorted(lab.folder.rglob("*")) == held


WITHOUT = """
import sys
sys.modules["{missing}"] = None  # as if it were not installed
from analysis import load
from analysis.report import report
from energyaware.errors import InputError
try:
    report(load(sys.argv[1]))
except InputError as problem:
    print(problem)
"""


@pytest.mark.parametrize("missing", ["jinja2", "markupsafe", "altair", "vl_convert", "statsmodels"])
def test_a_library_that_is_not_installed_is_named_with_what_to_install(tmp_path, missing):
    lab = Lab(tmp_path / "results")
    lab.inference("a", needs=None)
    lab.results()
    code = WITHOUT.format(missing=missing)
    found = subprocess.run(
        [sys.executable, "-c", code, str(lab.folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f": needs {missing}: pip install 'energyaware[report]'" in found.stdout


def test_a_report_loads_neither_ray_nor_torch(tmp_path):
    lab = Lab(tmp_path / "results")
    lab.inference("a", needs=None)
    lab.results()
    code = (
        "import sys, sweep.cli_report; from analysis import load; from analysis.report import report; "
        "report(load(sys.argv[1]))"
    )
    loaded = loaded_by(code, lab.folder)
    assert "altair" in loaded
    assert not {"ray", "torch", "transformers"} & loaded
