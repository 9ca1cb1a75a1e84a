"use strict";
// Maps of effects, layers down; both directions beside each other on one scale of colours for each kind of column.
LensDiff.views.patch = (root, data) => {
  const { make, number } = LensDiff;
  const body = make("div", {});
  const choice = LensDiff.options("prompt", data.prompts.map(LensDiff.visible), draw);
  root.append(...data.facts.map((fact) => make("p", { class: "ld-note ld-long" }, fact)));
  if (data.prompts.length > 1) root.append(choice.element);
  root.append(body, make("p", {}, make("strong", {}, data.note)),
    make("details", {}, make("summary", {}, data.top.caption), LensDiff.table(data.top.caption, data.top.columns, data.top.rows)));
  choice.choose(0);

  function draw(prompt) {
    body.replaceChildren(...data.grids.map((grid) => {
      const ends = {};
      for (const side of grid.directions) for (const row of side.cells[prompt]) row.forEach((cell, c) => {
        if (cell) ends[grid.scales[c]] = Math.max(ends[grid.scales[c]] || 0, Math.abs(cell[0]));
      });
      return make("section", { class: "ld-patch" }, make("h4", {}, grid.title),
        make("p", { class: "ld-note ld-long" }, "Colours: ", Object.entries(ends).map(([name, end]) => make("span", { class: "ld-patch-scale" },
          `${name} `, number(-end), make("span", { class: "ld-ramp signed" }), number(end))),
          "orange: the response becomes likelier; a filled corner: beyond the band of the controls."),
        make("div", { class: "ld-patch-sides" }, grid.directions.map((side) => one(grid, side, prompt, ends))));
    }));
  }

  function one(grid, side, prompt, ends) {
    const total = side.totals[prompt], cells = side.cells[prompt];
    const outside = ([value, , low, high, estimate]) => !estimate && low !== null && (value < low || value > high);
    const column = (c) => (grid.scales[c] === "heads" ? "head " + grid.columns[c] : grid.columns[c]);
    const text = (r, c) => {
      const [value, share, low, high, estimate] = cells[r][c];
      const parts = [`${grid.layers[r]}, ${column(c)}: ${estimate ? "estimate " : ""}${signed(value)}${data.unit ? " " + data.unit : ""}`];
      if (share !== null) parts.push(`${number(100 * share)} % of the total`);
      if (low !== null) parts.push(`controls ${number(low)} to ${number(high)}${outside(cells[r][c]) ? ", beyond them" : ""}`);
      return parts.join("; ");
    };
    const map = LensDiff.map({
      rows: grid.layers, columns: grid.columns, corner: grid.scales.includes("heads") ? "head" : "", label: `${grid.title}. ${side.name}`,
      hint: "Point at a cell, or move with the arrow keys.",
      cell: (r, c) => {
        const cell = cells[r][c], end = ends[grid.scales[c]];
        return cell && { value: end > 0 ? cell[0] / end : 0, signed: true, marked: outside(cell), number: number(cell[0], 2), text: text(r, c) };
      },
    });
    map.querySelectorAll("tbody tr").forEach((row, r) => row.querySelectorAll("td").forEach((td, c) => {
      if (cells[r][c] && cells[r][c][4]) td.classList.add("ld-estimate");
    }));
    return make("div", { class: "ld-patch-side" }, make("p", { class: "ld-long" }, side.name,
      make("span", { class: "ld-note" }, total === null ? "" : ` Everything exchanged: ${signed(total)}.`)), map);
  }

  function signed(value) { return (value > 0 ? "+" : "") + number(value); }
};

// A set of heads: its effect, and below it dots of random sets and of controls, on one axis for both directions.
LensDiff.views.patch_set = (root, data) => {
  const { make, svg, number } = LensDiff;
  const area = make("div", {});
  root.append(...data.facts.map((fact) => make("p", { class: "ld-note ld-long" }, fact)), area);
  const all = data.directions.flatMap((d) => [0, d.effect, ...d.lanes.flatMap((lane) => lane.values)]);
  if (!data.directions.length) return;
  const low = Math.min(...all), high = Math.max(...all) > low ? Math.max(...all) : low + 1;
  const line = 24, axis = 22, right = 14;
  let width = 0;

  function picture(side) {
    const lanes = [{ name: "these heads", values: [side.effect], own: true }, ...side.lanes];
    const left = Math.round(Math.min(190, width * 0.36)), height = axis + line * lanes.length;
    const x = (v) => left + 8 + ((v - low) / (high - low)) * (width - left - 8 - right);
    const ticks = LensDiff.ticks(low, high), step = Math.ceil(ticks.length / Math.max(2, Math.floor((width - left) / 60)));
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "ld-rows", role: "img",
      "aria-label": `${side.name} these heads ${number(side.effect)}; ${side.told}` },
      ticks.map((t, i) => [svg("line", { class: t === 0 ? "ld-zero" : "ld-grid", x1: x(t), x2: x(t), y1: axis, y2: height }),
        i % step ? null : svg("text", { class: "ld-label", x: x(t), y: axis - 6, "text-anchor": "middle" }, number(t))]),
      lanes.flatMap((lane, i) => {
        const y = axis + line * (i + 0.5);
        return [svg("text", { class: "ld-label" + (lane.own ? " ld-strong-label" : ""), x: left, y: y + 4, "text-anchor": "end" }, lane.name),
          ...lane.values.map((v) => svg("circle", { class: lane.own ? "tuned" : "control", cx: x(v), cy: y, r: lane.own ? 6 : 3.5, opacity: lane.own ? 1 : 0.6 }))];
      }));
  }

  const fit = () => {
    const next = Math.round(Math.max(260, Math.min(820, area.clientWidth || 640)));
    if (next === width) return;
    width = next;
    area.replaceChildren(...data.directions.map((side) => make("section", {}, make("p", { class: "ld-long" }, side.name,
      make("span", { class: "ld-note" }, side.total === null ? "" : ` Everything exchanged: ${number(side.total)}.`)),
      picture(side), make("p", { class: "ld-note ld-long" }, "Effect " + side.told))));
  };
  new ResizeObserver(fit).observe(area);
  queueMicrotask(fit);
};
