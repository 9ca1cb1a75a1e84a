"use strict";
// Directions by layer: lines before the controls' band or their dots and the band of permuted labels; effects below.
LensDiff.views.directions = (root, data) => {
  const { make, number } = LensDiff;
  const area = make("div", {});
  const draw = (index) => {
    const picture = data.pictures[index];
    const dots = picture.controls.length ? [{ name: `controls (${data.n_controls})`, values: picture.controls }] : [];
    const describe = (i) => {
      const where = data.layers[i] === "out" ? "Behind the last layer" : `Layer ${data.layers[i]}`;
      const said = picture.lines.map((line) => `${line.name} ${number(line.values[i])}`);
      for (const band of picture.bands) said.push(`${band.name} ${number(band.low[i])} to ${number(band.high[i])}`);
      if (dots.length) said.push(`controls ${number(Math.min(...picture.controls[i]))} to ${number(Math.max(...picture.controls[i]))}`);
      return `${where}: ${said.join(", ")}.`;
    };
    area.replaceChildren(make("p", { class: "ld-note" }, picture.how),
      LensDiff.lines({ columns: data.layers, axis: "layer", unit: picture.unit, label: `${picture.label}, by layer`, describe, dots,
        bands: picture.bands, series: picture.lines }));
  };
  const chooser = LensDiff.options("picture", data.pictures.map((p) => p.label), draw);
  root.append(...data.facts.map((text) => make("p", { class: "ld-note ld-long" }, text)), chooser.element, area,
    ...(data.table ? [LensDiff.table(data.table.caption, data.table.columns, data.table.rows)] : []));
  chooser.choose(0);
};
