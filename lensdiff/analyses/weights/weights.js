"use strict";
// Layers down, matrices (or the heads of one) across; the colour is the chosen measure.
LensDiff.views.weights = (root, data) => {
  const { make, number } = LensDiff;
  const state = { part: 0, measure: 0, view: 0 };
  const parts = [...data.groups.map((g) => g.name), ...data.headed.map((name) => "heads of " + name)];
  const area = make("div", {});
  const values = new Map(data.rows.map(([layer, matrix, head, raw, folded]) => [`${layer} ${matrix} ${head}`, [raw, folded]]));
  const choose = (key) => (index) => { state[key] = index; draw(); };
  const controls = [
    LensDiff.options("show", parts, choose("part")),
    LensDiff.options("measure", data.measures.map((m) => m.label), choose("measure")),
    LensDiff.options("weights", ["as they are", "with the norm's gain"], choose("view")),
  ];
  root.append(make("p", { class: "ld-note ld-long" }, data.facts), ...controls.map((c) => c.element), area,
    LensDiff.table("The weights and heads that moved most, as they are", ["layer", "matrix", "head", ...data.measures.map((m) => m.label)], data.top));
  controls.forEach((c) => c.choose(0));

  function draw() {
    const matrix = data.headed[state.part - data.groups.length], measure = data.measures[state.measure];
    const heads = data.heads[matrix];
    const columns = matrix ? [...Array(heads).keys()].map(String) : data.groups[state.part].matrices;
    const value = (row, column) => {
      const found = values.get(matrix ? `${data.layers[row]} ${matrix} ${column}` : `${data.layers[row]} ${columns[column]} -1`);
      return found ? found[state.view][state.measure] : undefined;
    };
    // the colour of a cosine is its distance from 1; an infinite relative norm is off every scale
    const amount = (v) => (v === null ? Infinity : measure.name === "cosine" ? 1 - v : v);
    const known = data.layers.flatMap((_, r) => columns.map((_, c) => value(r, c))).filter((v) => v !== undefined).map(amount);
    const top = Math.max(...known.filter(Number.isFinite), 0);
    const shown = (v) => (v === null ? "∞" : number(v));
    area.replaceChildren(
      LensDiff.map({
        rows: data.layers.map((layer) => "layer " + layer), columns, corner: matrix ? "head" : "", label: `${measure.label} of ${parts[state.part]}`,
        hint: "Point at a cell, or move with the arrow keys, to read its value.",
        cell: (r, c) => {
          const v = value(r, c);
          if (v === undefined) return null;
          const where = matrix ? `${matrix}, head ${c}` : columns[c];
          return { value: amount(v) === Infinity ? 1 : top > 0 ? amount(v) / top : 0, number: shown(v), text: `layer ${data.layers[r]}, ${where}: ${measure.label} ${shown(v)}` };
        },
      }),
      make("p", { class: "ld-note" }, measure.name === "cosine" ? "1" : "0", make("span", { class: "ld-ramp" }), number(measure.name === "cosine" ? 1 - top : top), "; ", measure.how));
  }
};
