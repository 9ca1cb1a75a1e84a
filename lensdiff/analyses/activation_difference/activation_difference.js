"use strict";
// The share of the difference that every text has, by layer, before the band of controls or their dots; then the words that the mean
// difference of one place speaks for, beside the words of the tuned model's own mean and of controls.
LensDiff.views.activation_difference = (root, data) => {
  const { make, number, visible } = LensDiff;
  const note = (text) => make("p", { class: "ld-note ld-long" }, text);
  const area = make("div", {}), words = make("div", {}), where = make("h4", {});
  let layer = data.start, position = 0, shown = 0, drawn = 0, pointed = false;
  const place = (i) => (data.layers[i] === "out" ? "What leaves the last layer" : `Layer ${data.layers[i]}`);

  const draw = () => {
    const curve = data.curves[shown], own = ++drawn, band = curve.low.length > 0;
    const dots = curve.controls.length ? [{ name: `controls (${data.n_controls})`, values: curve.controls }] : [];
    const describe = (i) => {
      if (curve.values[i] === null) return `${place(i)}: nothing differs, so there is no share.`;
      const said = [`share ${number(curve.values[i])}`];
      if (band) said.push(`one more control would lie between ${number(curve.low[i])} and ${number(curve.high[i])}`);
      if (dots.length) said.push(`controls ${number(Math.min(...curve.controls[i]))} to ${number(Math.max(...curve.controls[i]))}`);
      return `${place(i)}: ${said.join(", ")}.`;
    };
    area.replaceChildren(LensDiff.lines({
      columns: data.layers, axis: "layer", unit: "share that is the same in every text", start: layer, onchoose: (i) => point(own, i),
      label: `constant share by layer, position ${curve.label}`, describe, dots,
      bands: band ? [{ name: `where one more control would lie (${data.n_controls} controls)`, low: curve.low, high: curve.high }] : [],
      series: [{ role: "tuned", name: "tuned against base", values: curve.values }],
    }));
  };
  // a chart that is no longer shown is told once more that its size changed
  const point = (chart, i) => {
    if (chart !== drawn || i === layer) return;
    pointed = true;
    layers.choose(i);
    pointed = false;
  };
  const list = (reading, sign) => make("p", { class: "ld-adl" }, make("strong", {}, sign ? "−" : "+"),
    reading.words[sign][layer][position].map((w, i) => make("span", { class: "ld-adl-word", title: `logit ${number(reading.logits[sign][layer][position][i])}` }, visible(data.words[w]) || " ")));
  const read = () => {
    where.textContent = `Words at ${place(layer).toLowerCase()}, position ${position}`;
    words.replaceChildren(...data.readings.map((reading) => make("section", { class: "ld-side " + reading.role },
      make("h4", { class: "ld-long" }, reading.label), list(reading, 0), list(reading, 1))));
  };
  words.className = "ld-sides";
  const curves = LensDiff.options("position", data.curves.map((c) => c.label), (i) => { shown = i; draw(); if (i) places.choose(i - 1); });
  const layers = LensDiff.options("layer", data.layers, (i) => { layer = i; if (!pointed) draw(); read(); });
  const places = LensDiff.options("position", [...Array(data.positions).keys()].map(String), (i) => { position = i; read(); });
  root.append(...data.facts.map(note), curves.element, area, where,
    note("What the direction speaks for (+) and against (−) under the final norm and the unembedding, best first."),
    layers.element, places.element, words, ...data.limits.map(note));
  layers.choose(data.start);
  curves.choose(0);
  places.choose(0);
};
