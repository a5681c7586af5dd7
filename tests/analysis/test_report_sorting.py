"""Tables of the report are sorted and filtered in the browser."""

import pytest

from analysis.report import report
from tests.analysis.report_sweep import sweep

pytest_plugins = "tests.analysis.report_page"


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
