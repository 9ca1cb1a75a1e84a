"use strict";
// The share of each layer's change that is a rotation, before the bands of controls, or their dots where they are few.
LensDiff.views.value_rotation = (root, data) => {
  const { make, number } = LensDiff;
  const bands = data.bands.map((band, i) => ({ ...band, outline: i > 0, dotted: i > 1 }));
  const describe = (i) => {
    const beside = [...bands.map((b) => `${b.name} ${number(b.low[i])} to ${number(b.high[i])}`),
      ...data.dots.map((d) => `${d.name} ${number(Math.min(...d.values[i]))} to ${number(Math.max(...d.values[i]))}, too few for a band`)];
    return `Layer ${data.layers[i]}: share ${number(data.shares[i])}` + (beside.length ? "; " + beside.join("; ") : "") +
      `. The values changed by ${number(data.change[i])} of their norm; ${LensDiff.count(data.moved[i], "neuron")} moved.`;
  };
  root.append(...data.facts.map((text) => make("p", { class: "ld-note ld-long" }, text)),
    LensDiff.lines({
      columns: data.layers, axis: "layer", unit: "share that is a rotation", label: "share of the change that is a rotation, by layer",
      bands, dots: data.dots, describe, series: [{ role: "tuned", name: "tuned against base", values: data.shares }],
    }),
    ...data.limits.map((text) => make("p", { class: "ld-note" }, text)));
};
