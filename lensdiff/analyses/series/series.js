"use strict";
// One number along a list of models: the line with its intervals, and the first model's number as a line of its own.
LensDiff.views.series = (root, data) => {
  const { make, number } = LensDiff;
  const note = (text) => make("p", { class: "ld-note ld-long" }, text);
  const known = data.low.some((v) => v !== null);
  const describe = (i) => `Step ${i}, ${data.models[i]}: ${number(data.values[i])}` +
    (data.low[i] === null ? "" : ` (${number(data.low[i])} to ${number(data.high[i])})`) +
    (i ? `; ${number(data.changes[i])} from the first` : "") + ".";
  root.append(...data.facts.map(note), LensDiff.lines({
    columns: data.models.map((_, i) => i), axis: "step", unit: data.unit, label: `${data.measure}, by step`, floor: data.floor, start: data.models.length - 1, describe,
    series: [{ role: "base", name: data.models[0], values: data.models.map(() => data.values[0]) },
      { role: "tuned", name: data.line, values: data.values, ...(known ? { low: data.low, high: data.high } : {}) }],
  }), make("details", {}, make("summary", {}, "The numbers"), LensDiff.table(data.table.caption, data.table.columns, data.table.rows)),
  ...data.limits.map(note));
};
