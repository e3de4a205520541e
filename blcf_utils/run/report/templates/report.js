// Makes the heads of tables buttons that sort. Without this script every page is complete.
const nothing = /^(|[-–—*]|nan|none|not (run|testable|measured|compar).*)$/i;
const startsAsNumber = /^[+-]?\.?\d/;

// A column sorts as numbers when everything in it begins with one; what says nothing stays last.
function sort(head, at) {
  const table = head.closest("table");
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  for (const body of table.tBodies) sortBody(body, at, up);
}

// Within a group: its name stays above its rows.
function sortBody(body, at, up) {
  const rows = [...body.rows].filter((row) => row.cells.length > 1).map((row) => ({
    row, text: row.cells[at]?.textContent.trim() ?? "",
  }));
  const told = rows.filter((one) => !nothing.test(one.text));
  const order = told.every((one) => startsAsNumber.test(one.text))
    ? (a, b) => parseFloat(a.text) - parseFloat(b.text)
    : (a, b) => a.text.localeCompare(b.text, "en", {numeric: true});
  told.sort((a, b) => (up ? 1 : -1) * order(a, b));
  const silent = rows.filter((one) => nothing.test(one.text));
  body.append(...[...told, ...silent].map((one) => one.row));
}

for (const table of document.querySelectorAll("main table")) {
  if (!table.tHead || !table.querySelector("tbody tr + tr")) continue;
  // A head over several columns sorts nothing; what pandas writes with such heads stays as it is.
  if (!table.matches(".shown") && table.querySelector("[colspan], [rowspan]")) continue;
  for (const head of table.tHead.rows[table.tHead.rows.length - 1].querySelectorAll("th")) {
    if (!head.textContent.trim()) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head, head.cellIndex));
  }
}
