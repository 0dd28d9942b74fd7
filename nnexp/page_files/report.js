// Sorts and filters the tables, and shows one setting in detail at a time. Without it the page shows everything.
"use strict";

function readCell(body, column) {
  return body.rows[0].cells[column].dataset.value;
}

function compareCells(first, second, kind) {
  const numbers = [Number(first), Number(second)];
  const missing = (text) => text === "" || text === "nan" || text === "none";
  if (missing(first) || missing(second)) {
    return null; // left at the end, whatever the direction
  }
  if (kind !== "text" && numbers.every(Number.isFinite)) {
    return numbers[0] - numbers[1];
  }
  return first.localeCompare(second, "en", { numeric: true });
}

function sortTable(button) {
  const heading = button.closest("th");
  const table = heading.closest("table");
  const direction = heading.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
  for (const other of heading.parentNode.cells) {
    other.setAttribute("aria-sort", other === heading ? direction : "none");
  }
  const sign = direction === "ascending" ? 1 : -1;
  const bodies = [...table.tBodies].map((body) => [readCell(body, heading.cellIndex), body]);
  const isMissing = (text) => text === "" || text === "nan" || text === "none";
  bodies.sort(([first], [second]) => {
    const order = compareCells(first, second, button.dataset.sort);
    return order === null ? isMissing(first) - isMissing(second) : sign * order;
  });
  table.append(...bodies.map(([, body]) => body));
}

function filterTable(section) {
  const words = section.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdict = section.querySelector(".filters select").value;
  const bodies = [...section.querySelectorAll("table.sortable > tbody")];
  for (const body of bodies) {
    const text = body.dataset.words.toLowerCase();
    body.hidden = !(words.every((word) => text.includes(word)) && (!verdict || body.dataset.verdict === verdict));
  }
  const shown = bodies.filter((body) => !body.hidden).length;
  section.querySelector(".shown").textContent = `${shown} of ${bodies.length} settings`;
}

function showDetail(chooser) {
  for (const detail of chooser.closest("section").querySelectorAll(".detail")) {
    detail.hidden = detail.dataset.detail !== chooser.value;
  }
}

for (const button of document.querySelectorAll("button[data-sort]")) {
  button.addEventListener("click", () => sortTable(button));
}
for (const input of document.querySelectorAll(".filters input, .filters select:not(.chooser)")) {
  input.addEventListener("input", () => filterTable(input.closest("section")));
}
for (const chooser of document.querySelectorAll(".chooser")) {
  chooser.addEventListener("input", () => showDetail(chooser));
  showDetail(chooser);
}
