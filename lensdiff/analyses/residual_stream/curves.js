"use strict";
// The lens by layer: base against tuned, with the interval of their difference, before the band of controls or their dots.
LensDiff.views.lens_curves = (root, data) => {
  const { make, number } = LensDiff;
  const area = make("div", {});
  const draw = (index) => {
    const curve = data.curves[index], band = curve.control_low.length > 0;
    const dots = !band && data.n_controls ? [{ name: `controls (${data.n_controls})`, values: curve.controls }] : [];
    const describe = (i) => {
      const where = i === data.layers.length - 1 ? "The models' own output" : `Layer ${data.layers[i]}`;
      const said = [`base ${number(curve.base[i])}`, `tuned ${number(curve.tuned[i])}`, `difference ${number(curve.tuned[i] - curve.base[i])}`];
      if (curve.low[i] !== null) said.push(`interval over prompts ${number(curve.low[i] - curve.base[i])} to ${number(curve.high[i] - curve.base[i])}`);
      if (band) said.push(`one more control would lie between ${number(curve.control_low[i])} and ${number(curve.control_high[i])}`);
      if (dots.length) said.push(`controls ${number(Math.min(...curve.controls[i]))} to ${number(Math.max(...curve.controls[i]))}`);
      return `${where}: ${said.join(", ")}.`;
    };
    area.replaceChildren(make("p", { class: "ld-note" }, curve.how + " Bars: the interval of the difference over prompts, set upon the base."),
      LensDiff.lines({
        columns: data.layers, axis: "layer", unit: curve.unit, label: `${curve.label}, by layer`, describe, dots,
        bands: band ? [{ name: `where one more control would lie (${data.n_controls} controls)`, low: curve.control_low, high: curve.control_high }] : [],
        series: [{ role: "base", name: "base", values: curve.base },
          { role: "tuned", name: "tuned", values: curve.tuned, low: curve.low, high: curve.high }],
      }));
  };
  const chooser = LensDiff.options("measure", data.curves.map((c) => c.label), draw);
  root.append(...data.facts.map((text) => make("p", { class: "ld-note ld-long" }, text)), chooser.element, area);
  chooser.choose(0);
};
