// Tables that sort by their headings and filter by text. Without this script they stand in their first order.
(() => {
  const UNKNOWN = new Set(["?", "–"]);

  // A number where there is one to sort by, whatever the column: intervals are text, and have their lower end.
  const key = (cell, numeric) => {
    const { sort } = cell.dataset;
    const text = sort ?? cell.textContent.trim();
    if (UNKNOWN.has(text)) return null;
    const number = Number(text);
    return (numeric || sort !== undefined) && Number.isFinite(number) ? number : text;
  };

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(b, "en", { numeric: true });

  // What is unknown stays at the end in either direction; equal rows keep their order.
  const sortBy = (table, column, numeric, direction) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: key(row.cells[column], numeric) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return direction * compare(a.key, b.key);
    });
    body.append(...rows.map(({ row }) => row));
  };

  const makeSortable = (table, status) => {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      const numeric = heading.classList.contains("n");
      button.addEventListener("click", () => {
        const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
        sortBy(table, column, numeric, direction);
        status.textContent = `Sorted by ${button.textContent.trim()}, ${direction > 0 ? "ascending" : "descending"}.`;
      });
    });
  };

  const wordsOf = (row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();

  const makeFilterable = (table, input, status) => {
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, text: wordsOf(row) }));
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const { row, text } of rows) {
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      status.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
    });
  };

  for (const tools of document.querySelectorAll(".tools")) {
    const table = document.getElementById(tools.dataset.table);
    const status = tools.querySelector("[role=status]");
    const input = tools.querySelector("input");
    makeSortable(table, status);
    if (input) makeFilterable(table, input, status);
    tools.hidden = false;
  }
})();
