"use strict";
// What all pages do: light and dark, and tables that a click sorts.
(() => {
  const root = document.documentElement;

  // ---- tables of class "sortable": by the column that is clicked, empty cells last ------------------------------
  const valueOf = (cell) => {
    if (cell === undefined) return "";
    if (cell.dataset.v === undefined) return cell.textContent.trim().toLowerCase();
    return cell.dataset.v === "" ? "" : Number(cell.dataset.v);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  document.addEventListener("click", (event) => {
    const head = event.target.closest("table.sortable thead th");
    if (!head || !event.target.closest("button")) return;
    const table = head.closest("table"), heads = [...table.tHead.rows[0].cells], column = heads.indexOf(head);
    const falling = head.getAttribute("aria-sort") === "descending" ? false
      : head.getAttribute("aria-sort") === "ascending" ? true : head.classList.contains("n");
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : falling ? compare(b, a) : compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  });

  // ---- light and dark: the reader's system first, then the button -------------------------------------------------
  // A page that draws with colours of its own listens to "theme" on the document.
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const paint = (theme) => {
    root.dataset.theme = theme;
    document.dispatchEvent(new Event("theme"));
  };
  document.getElementById("theme").addEventListener("click", () => paint(root.dataset.theme === "dark" ? "light" : "dark"));
  preferred.addEventListener("change", () => paint(preferred.matches ? "dark" : "light"));
  paint(preferred.matches ? "dark" : "light");
})();
