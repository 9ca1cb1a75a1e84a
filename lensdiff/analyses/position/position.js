"use strict";
// Importance over relative prompt position: both models' means over prompts with their intervals.
LensDiff.views.position = (root, data) => {
  const { make, number, lines } = LensDiff;
  const said = (name, s, i) => `${name} ${number(s.values[i])} (${number(s.low[i])} to ${number(s.high[i])})`;
  root.append(
    lines({
      columns: data.parts, axis: "part of the prompt, %", unit: "importance density", label: "importance density by part of the prompt",
      series: [{ role: "base", name: "base", ...data.base }, { role: "tuned", name: "tuned", ...data.tuned }],
      describe: (i) => `${data.parts[i]} % of the prompt: ${said("base", data.base, i)}, ${said("tuned", data.tuned, i)}; tuned - base ${data.differences[i]}`,
    }),
    ...[...data.facts, ...data.limits].map((text) => make("p", { class: "ld-note" }, text)));
};
