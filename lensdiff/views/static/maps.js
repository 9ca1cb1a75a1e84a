"use strict";
// A map: a table whose cells are coloured by a number from -1 to 1. Pointing at a cell or moving to it with the arrow keys says its
// value; choosing it calls onchoose(row, column). Magnitudes have one hue; signed values the model's that has more.
LensDiff.map = ({ rows, columns, corner, label, cell, onchoose, hint }) => {
  const { make } = LensDiff;
  const status = make("p", { class: "ld-note ld-status", "aria-live": "polite" }, hint);
  const cells = rows.map((row, r) => columns.map((column, c) => {
    const found = cell(r, c);
    if (!found) return make("td", { class: "ld-spot ld-none" });
    const tone = found.signed ? (found.value < 0 ? "--base" : "--tuned") : "--change";
    const share = Math.round(100 * Math.min(1, Math.abs(found.value)));
    return make("td", {
      class: "ld-spot" + (share > 55 ? " ld-strong" : "") + (found.marked ? " ld-marked" : ""), role: "gridcell", tabindex: -1,
      style: `background: color-mix(in oklab, var(${tone}) ${share}%, var(--page))`, "aria-label": found.text,
      onmouseenter: () => { status.textContent = found.text; },
      onfocus: () => { status.textContent = found.text; },
      onclick: () => choose(r, c),
    }, make("span", {}, found.number));
  }));
  const choose = (r, c) => {
    if (!onchoose) return;
    for (const other of cells.flat()) other.setAttribute("aria-selected", String(other === cells[r][c]));
    onchoose(r, c);
  };
  const first = cells.flat().find((td) => td.tabIndex === -1 && td.getAttribute("role"));
  if (first) first.tabIndex = 0;
  const table = make("table", { class: "ld-map", role: "grid", "aria-label": label },
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, corner), columns.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, rows.map((name, r) => make("tr", {}, make("th", { scope: "row" }, name), cells[r]))));
  table.addEventListener("keydown", (event) => {
    const r = cells.findIndex((row) => row.includes(document.activeElement));
    if (r < 0) return;
    const c = cells[r].indexOf(document.activeElement);
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(r, c); return; }
    const step = { ArrowRight: [0, 1], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    let [y, x] = [r + step[0], c + step[1]];
    while (cells[y] && cells[y][x] && !cells[y][x].getAttribute("role")) { y += step[0]; x += step[1]; }
    if (!cells[y] || !cells[y][x]) return;
    cells[r][c].tabIndex = -1;
    cells[y][x].tabIndex = 0;
    cells[y][x].focus();
  });
  const numbers = make("input", { type: "checkbox", onchange: () => table.classList.toggle("ld-numbers", numbers.checked) });
  return make("div", {}, status, make("div", { class: "ld-scroll" }, table), make("label", { class: "ld-note" }, numbers, " show the numbers"));
};

// a plain table of a view: columns of names, rows of texts and numbers
LensDiff.table = (caption, columns, rows) => {
  const { make } = LensDiff;
  const shown = (value) => (typeof value === "number" ? LensDiff.number(value) : value === null || value === undefined ? "–" : LensDiff.visible(String(value)));
  const tone = (value) => ({ class: typeof value === "number" ? "number" : String(value).length > 40 ? "ld-words" : "" });
  return make("div", { class: "ld-scroll" }, make("table", { class: "ld-small" }, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, columns.map((name, i) => make("th", { scope: "col", ...(rows.length ? tone(rows[0][i]) : {}) }, name)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map((value) => make("td", tone(value), shown(value))))))));
};

// what has no view of its own: the first rows of its table
LensDiff.views.rows = (element, data) => element.append(LensDiff.table(data.caption, data.columns, data.rows));

// one of several options, with the name of the choice before them
LensDiff.options = (name, labels, onchoose) => {
  const row = LensDiff.choices(labels, onchoose, name);
  return { element: LensDiff.make("div", { class: "ld-options" }, LensDiff.make("span", { class: "ld-note" }, name), row), choose: row.choose };
};
