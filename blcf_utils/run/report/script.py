"""The report's only script: it makes the heads of tables buttons that sort.

Without it every page is complete: no text, table or picture comes from a script.
"""

# A column sorts as numbers when everything in it begins with one; what says nothing stays last.
SCRIPT = """
(() => {
  const nothing = /^(|[-\\u2013\\u2014]|nan|none|not (run|testable|measured|compar).*)$/i;
  const number = /^[+\\u2212-]?\\.?\\d/;
  const keyOf = (row, at) =>
    (row.cells[at]?.dataset.key ?? row.cells[at]?.textContent ?? "").trim();
  const valueOf = (key) => parseFloat(key.replace("\\u2212", "-").replace(/,(?=\\d{3})/g, ""));

  function sort(head, at) {
    const table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => ({row, key: keyOf(row, at)}));
    const told = rows.filter((one) => !nothing.test(one.key));
    const silent = rows.filter((one) => nothing.test(one.key));
    const numeric = told.every((one) => number.test(one.key));
    const order = numeric
      ? (a, b) => valueOf(a.key) - valueOf(b.key)
      : (a, b) => a.key.localeCompare(b.key, "en", {numeric: true});
    told.sort((a, b) => (up ? 1 : -1) * order(a, b));
    body.append(...[...told, ...silent].map((one) => one.row));
  }

  for (const table of document.querySelectorAll("main table")) {
    const heads = table.tHead && [...table.tHead.rows];
    if (!heads || !table.tBodies.length || table.tBodies[0].rows.length < 2) continue;
    if (table.querySelector("[colspan], [rowspan]")) continue;
    for (const head of heads.flatMap((row) => [...row.cells])) {
      if (!head.textContent.trim()) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(head, head.cellIndex));
    }
  }
})();
"""
