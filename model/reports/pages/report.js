// What every page of the report does: tables are sorted by their headers, and copied as LaTeX or Markdown.
"use strict";

const say = (text) => { document.getElementById("said").textContent = text; };

// Figures before words, and both before nothing; a second press turns the order round.
function compare(one, other) {
  const [a, b] = [Number(one), Number(other)];
  if (one === "" || other === "") return (one === "") - (other === "");
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b) || one.localeCompare(other, "en");
  return a - b;
}

function sort(table, header, column) {
  const falling = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const key = (row) => row.cells[column].dataset.order;
  const rows = [...table.tBodies[0].rows];
  // What has no figure stays last in both orders.
  rows.sort((a, b) => (falling && key(a) !== "" && key(b) !== "" ? -1 : 1) * compare(key(a), key(b)));
  table.tBodies[0].append(...rows);
  say(`Sorted by ${header.textContent}, ${falling ? "descending" : "ascending"}.`);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(table, header, column));
  });
}

// Where the browser keeps pages from its clipboard, the text is shown and selected instead.
async function copy(section, form) {
  const area = section.querySelector(`textarea[data-form=${form}]`);
  try {
    await navigator.clipboard.writeText(area.value);
    say("Copied.");
  } catch {
    area.hidden = false;
    area.focus();
    area.select();
    say("Press Ctrl+C to copy the selected text.");
  }
}

for (const buttons of document.querySelectorAll(".copy")) {
  buttons.hidden = false;
  for (const button of buttons.querySelectorAll("button")) {
    button.addEventListener("click", () => copy(buttons.parentElement, button.dataset.form));
  }
}
