"""A reader of the report: a page in Chromium, and what goes on in it that should not."""

from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Page

_COLUMN = """([name, heading]) => {
    const table = document.getElementById(`table-${name}`);
    const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === heading);
    const text = (cell) => cell.dataset.sort ?? cell.textContent;
    return [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => text(row.cells[at]));
}"""

_OUTLINE = """() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map(
    (heading) => [Number(heading.tagName[1]), heading.textContent.trim()])"""

_FAINT = """() => {
    const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", {
        willReadFrequently: true,
    });
    const rgba = (colour) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return context.getImageData(0, 0, 1, 1).data;
    };
    const luminance = (colour) => {
        const [r, g, b] = [...rgba(colour)].slice(0, 3).map((value) => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (rgba(colour)[3] > 0) return colour;
        }
        return "white";
    };
    const faint = new Set();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        const box = element.getBoundingClientRect();
        if (!texts.currentNode.data.trim() || box.width < 2 || box.height < 2) continue;
        const style = getComputedStyle(element);
        const drawn = element instanceof SVGElement;
        const [one, other] = [luminance(drawn ? style.fill : style.color), luminance(ground(element))];
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        const large = parseFloat(style.fontSize) >= 24;
        if (contrast < (large ? 3 : 4.5)) {
            faint.add(`${contrast.toFixed(2)} ${element.tagName} ${texts.currentNode.data.trim().slice(0, 40)}`);
        }
    }
    return [...faint];
}"""


@dataclass
class Reader:
    """A page that is open."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._dismiss)

    def _listen(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _dismiss(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def drawn(self) -> "Reader":
        """The page, once all its figures are there."""
        self.page.wait_for_selector("html[data-figures=drawn]", timeout=120_000)
        return self

    def column(self, table: str, heading: str) -> list[str]:
        """What a column's visible cells are sorted by, in their order."""
        return self.page.evaluate(_COLUMN, [table, heading])

    def outline(self) -> list[tuple[int, str]]:
        """Levels and texts of all headings."""
        return [tuple(heading) for heading in self.page.evaluate(_OUTLINE)]

    def faint(self) -> list[str]:
        """Texts with less contrast than WCAG 2.2 wants at level AA."""
        return self.page.evaluate(_FAINT)

    def runs_over(self) -> bool:
        """Whether the page as a whole scrolls sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")

    def says(self, selector: str) -> str:
        """The text of an element."""
        return self.page.locator(selector).inner_text()
