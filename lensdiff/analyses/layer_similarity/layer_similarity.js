"use strict";
// Similarity by layer: the tuned model, with the interval over prompts, before the band of controls or their dots.
LensDiff.views.layer_similarity = (root, data) => {
  const { make, number } = LensDiff;
  const area = make("div", {});
  let measure = 0, group = 0;
  const draw = () => {
    const [label, unit, how] = data.measures[measure], positions = data.groups[group], curve = positions.curves[measure];
    const band = curve.control_low.length > 0, intervals = curve.low.length > 0;
    const dots = curve.controls.length ? [{ name: `controls (${data.n_controls})`, values: curve.controls }] : [];
    const describe = (i) => {
      const where = data.layers[i] === "out" ? "Behind the last layer" : `Layer ${data.layers[i]}`;
      if (curve.values[i] === null) return `${where}: not defined, the stream does not vary here.`;
      const said = [`${label} ${number(curve.values[i])}`];
      if (intervals && curve.low[i] !== null) said.push(`interval over prompts ${number(curve.low[i])} to ${number(curve.high[i])}`);
      if (band && curve.control_low[i] !== null) said.push(`one more control would lie between ${number(curve.control_low[i])} and ${number(curve.control_high[i])}`);
      if (dots.length && curve.controls[i].length) said.push(`controls ${number(Math.min(...curve.controls[i]))} to ${number(Math.max(...curve.controls[i]))}`);
      return `${where}: ${said.join(", ")}.`;
    };
    // what is 1 where nothing changed is drawn from its smallest value
    const numbers = [curve.values, curve.control_low, ...curve.controls].flat().filter((v) => v !== null);
    const floor = data.ends_at_one[measure] && numbers.some((v) => v < 0.999) ? 1 : 0;
    area.replaceChildren(make("p", { class: "ld-note" }, `${how} ${positions.n} positions.` + (intervals ? " Bars: the interval over prompts." : "")),
      LensDiff.lines({
        columns: data.layers, axis: "layer", unit, label: `${label}, ${positions.label}, by layer`, describe, dots, floor,
        bands: band ? [{ name: `where one more control would lie (${data.n_controls} controls)`, low: curve.control_low, high: curve.control_high }] : [],
        series: [{ role: "tuned", name: "tuned against base", values: curve.values, ...(intervals ? { low: curve.low, high: curve.high } : {}) }],
      }));
  };
  const measures = LensDiff.options("measure", data.measures.map(([label]) => label), (i) => { measure = i; draw(); });
  const groups = LensDiff.options("positions", data.groups.map((g) => g.label), (i) => { group = i; draw(); });
  root.append(...data.facts.map((text) => make("p", { class: "ld-note ld-long" }, text)), measures.element,
    ...(data.groups.length > 1 ? [groups.element] : []), area);
  measures.choose(0);
  groups.choose(0);
};
