"use strict";
// How far the subspaces turned, layer by layer, with the bands of the controls; below, the components that turned furthest.
LensDiff.views.rotation = (root, data) => {
  const { make, number } = LensDiff;
  const state = { side: 0, rank: 0 };
  const area = make("div", {});
  const sides = LensDiff.options("vectors", data.sides, (i) => { state.side = i; draw(); });
  const ranks = LensDiff.options("rank", data.ranks, (i) => { state.rank = i; draw(); });
  root.append(...data.facts.map((text) => make("p", { class: "ld-note" }, text)), sides.element, ranks.element, area,
    make("div", { class: "ld-turned" }, data.top.rows.length ? LensDiff.table(data.top.caption, data.top.columns, data.top.rows) : `${data.top.caption}: none.`),
    ...data.limits.map((text) => make("p", { class: "ld-note" }, text)));
  if (data.sides.length < 2) sides.element.hidden = true;
  ranks.choose(data.ranks.length - 1);
  sides.choose(0);

  function draw() {
    const { side, rank } = state;
    const mean = data.mean[side][rank], largest = data.largest[side][rank];
    const bands = data.bands.map((b) => ({ name: b.name, outline: b.outline, low: b.low[side][rank], high: b.high[side][rank] }));
    const describe = (i) => {
      const beside = bands.map((b) => `${b.name} ${number(b.low[i])}° to ${number(b.high[i])}°`).join("; ");
      return `Layer ${data.layers[i]}, first ${data.ranks[rank]} component(s) of the ${data.sides[side]} vectors: mean angle ${number(mean[i])}°, ` +
        `largest ${number(largest[i])}°${beside ? "; " + beside : ""}`;
    };
    area.replaceChildren(LensDiff.lines({
      columns: data.layers, axis: "layer", unit: "mean principal angle, °", bands, describe,
      label: "mean principal angle by layer",
      series: [{ role: "tuned", name: "tuned against base", values: mean },
        { role: "base", name: "base against itself", values: data.layers.map(() => 0) }],
    }));
  }
};
