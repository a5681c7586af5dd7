"""The report, as a browser shows it."""

import json
import re
from itertools import product
from pathlib import Path

from analysis import answer
from analysis.report import report
from tests.analysis.builders import Lab, write
from tests.analysis.report_sweep import SECTIONS, sweep

pytest_plugins = "tests.analysis.report_page"

HOSTILE = (
    "<img src=x onerror=\"alert('a')\"></script><script>alert('b')</script><!--<script>'; alert(`c`) // "
    "javascript:alert(4) \u2028\u2029\x1b[2J\u202e{{7*7}}${7*7}&lt;b&gt;"
)
FIGURES = ["ranking", "pareto", "weights", "energy_loss", "components", "lost"]


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
