"use strict";
// Share of components more coherent than 95 % of random directions, layer by layer; without any meaning it is 5 %.
LensDiff.views.coherence = (root, data) => {
  const { make, number } = LensDiff;
  const state = { side: 0, measure: 0 };
  const area = make("div", {});
  const sides = LensDiff.options("vectors", data.sides, (i) => { state.side = i; draw(); });
  const measures = LensDiff.options("show", data.measures.map((m) => m.name), (i) => { state.measure = i; draw(); });
  root.append(...data.facts.map((text) => make("p", { class: "ld-note" }, text)), sides.element, measures.element, area,
    ...data.models.map((m) => make("div", { class: "ld-turned" }, LensDiff.table(m.top.caption, m.top.columns, m.top.rows))));
  if (data.sides.length < 2) sides.element.hidden = true;
  measures.choose(0);
  sides.choose(0);

  function draw() {
    const measure = data.measures[state.measure];
    const series = data.models.map((m) => ({ role: m.role, name: m.name, values: m.values[state.measure][state.side] }));
    const random = data.models.map((m) => ({ role: "control", name: m.null_name, values: data.layers.map(() => m.nulls[state.measure][state.side]) }));
    // the share that chance gives is one and the same for every model
    const lines = [...series, ...(state.measure === 0 ? [{ ...random[0], name: data.expected }] : random)];
    area.replaceChildren(LensDiff.lines({
      columns: data.layers, axis: "layer", unit: measure.unit, label: measure.name, series: lines,
      describe: (i) => `Layer ${data.layers[i]}, ${data.sides[state.side]} vectors, ${measure.unit}: ` +
        lines.map((s) => `${s.name} ${number(s.values[i])}`).join("; "),
    }));
  }
};
