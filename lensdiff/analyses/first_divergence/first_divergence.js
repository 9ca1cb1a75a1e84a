"use strict";
// The four cells over the layers at which one model's stream enters another, the effects at the chosen layer, and the texts with both
// choices. Blue and orange: whose late layers run; broken: on the other model's stream. Grey: controls in the tuned model's place.
LensDiff.views.first_divergence = (root, data) => {
  const { make, svg, number, visible } = LensDiff;
  const names = ["base throughout", "tuned late layers on the base's stream", "base late layers on the tuned stream", "tuned throughout"];
  const roles = ["base", "tuned ld-crossed", "base ld-crossed", "tuned"];
  const effects = ["portable", "matched", "interaction"];
  const body = make("div", {});
  root.append(...data.facts.map((text) => make("p", { class: "ld-note ld-long" }, text)));
  if (data.items.length > 1) {
    const select = make("select", { onchange: (event) => draw(data.items[Number(event.target.value)]) },
      data.items.map((item, i) => make("option", { value: i }, visible(item.label))));
    root.append(make("label", {}, "Shown: ", select));
  }
  root.append(body, ...data.limits.map((text) => make("p", { class: "ld-note ld-long" }, text)));

  // what both choose, then the two choices
  const parting = (text, whole) => make("p", { class: "ld-parting" },
    whole ? make("span", { class: "ld-quiet" }, text.prompt + " ") : make("span", { class: "ld-quiet" }, visible(text.id) + " "),
    make("span", {}, whole ? text.common : visible(text.common)), " ",
    make("span", { class: "ld-part base" }, make("small", {}, "base"), visible(text.base)), " ",
    make("span", { class: "ld-part tuned" }, make("small", {}, "tuned"), visible(text.tuned)));

  function draw(item) {
    const known = item.cell_low.map((low) => low !== null), single = known.filter(Boolean).length === 1;
    const grey = "where cells of one more control lie, in the tuned model's place";
    const middle = item.cell_low.map((low, i) => (low === null ? null : (low + item.cell_high[i]) / 2));
    const beside = make("div", {});
    const chart = LensDiff.lines({
      columns: data.layers, axis: "layer at which the stream enters", unit: "logits for tuned's token", start: data.start,
      label: "logit of the tuned model's token less the base's, by layer",
      series: [...(single ? [{ role: "control ld-beam", name: grey, values: middle, low: item.cell_low, high: item.cell_high }] : []),
        ...names.map((name, c) => ({ role: roles[c], name, values: item.cells[c] }))],
      bands: !single && known.some(Boolean) ? [{ name: grey, low: item.cell_low, high: item.cell_high }] : [],
      describe: (i) => `Layer ${data.layers[i]}: ` + names.map((name, c) => `${name} ${number(item.cells[c][i])}`).join(", ") +
        (known[i] ? `; controls ${number(item.cell_low[i])} to ${number(item.cell_high[i])}` : "") + ".",
      onchoose: (i) => beside.replaceChildren(...rows(item, i)),
    });
    body.replaceChildren(chart, beside,
      make("div", { class: "ld-beside" }, LensDiff.table(`At layer ${data.layers[data.start]}, logits`, data.columns, item.rows)),
      make("h4", {}, "Where the models part"),
      item.text ? parting(item.text, true) : make("div", { class: "ld-partings" }, data.texts.map((text) => parting(text, false))));
  }

  // a row per effect: dot, interval over prompts, band of controls
  function rows(item, i) {
    const width = Math.round(Math.max(260, Math.min(820, (body.clientWidth || 640)))), height = 26, left = 92, right = 70;
    const all = effects.flatMap((_, e) => [item.effects[e][i], ...(item.low.length ? [item.low[e][i], item.high[e][i]] : []),
      item.effect_low[e][i], item.effect_high[e][i]]).filter((v) => v !== null);
    const low = Math.min(0, ...all), high = Math.max(0, ...all) > low ? Math.max(0, ...all) : low + 1;
    const x = (v) => left + ((v - low) / (high - low)) * (width - left - right);
    const ticks = LensDiff.ticks(low, high), every = Math.ceil(ticks.length / Math.max(2, Math.floor((width - left - right) / 44)));
    const bottom = height * effects.length;
    const words = effects.map((name, e) => `${name} ${number(item.effects[e][i])}` +
      (item.low.length ? ` (${number(item.low[e][i])} to ${number(item.high[e][i])} over prompts)` : "") +
      (item.effect_low[e][i] === null ? "" : `, controls ${number(item.effect_low[e][i])} to ${number(item.effect_high[e][i])}`));
    return [
      make("h4", {}, `What the tuned late layers do, from layer ${data.layers[i]} on`),
      svg("svg", { viewBox: `0 0 ${width} ${bottom + 20}`, width, height: bottom + 20, class: "ld-effects", role: "img", "aria-label": words.join("; ") },
        ticks.map((t, n) => [svg("line", { class: t === 0 ? "ld-zero" : "ld-grid", x1: x(t), x2: x(t), y1: 0, y2: bottom }),
          n % every ? null : svg("text", { class: "ld-label", x: x(t), y: bottom + 15, "text-anchor": "middle" }, number(t))]),
        effects.map((name, e) => {
          const y = height * (e + 0.5), value = item.effects[e][i];
          return [
            svg("text", { class: "ld-label", x: left - 10, y: y + 4, "text-anchor": "end" }, name),
            item.effect_low[e][i] === null ? null : svg("rect", { class: "ld-band", x: x(item.effect_low[e][i]), y: y - 7,
              width: Math.max(1, x(item.effect_high[e][i]) - x(item.effect_low[e][i])), height: 14, rx: 3 }),
            item.low.length ? svg("line", { class: "ld-error tuned", x1: x(item.low[e][i]), x2: x(item.high[e][i]), y1: y, y2: y }) : null,
            svg("circle", { class: "tuned", cx: x(value), cy: y, r: 5 }),
            svg("text", { class: "ld-label", x: width - right + 10, y: y + 4 }, number(value)),
          ];
        })),
      make("p", { class: "ld-note" }, words.join("; ") + "."),
    ];
  }

  if (data.items.length) draw(data.items[0]);
  else body.append(make("p", {}, "The models part after no prompt."));
};
