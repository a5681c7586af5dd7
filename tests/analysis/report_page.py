"""The report of a sweep, and pages in Chromium, as fixtures."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from analysis.report import report
from tests.analysis.report_reader import Reader
from tests.analysis.report_sweep import sweep


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


@pytest.fixture(scope="session")
def page_html(tmp_path_factory) -> str:
    lab = sweep(tmp_path_factory.mktemp("report"))
    return report(lab.results(), command="energyaware report results -o report.html", requests=5_000)
