"use strict";
// Shares of a label by groups of layers in both models, and the table of all labels.
LensDiff.views.annotation_shift = (root, data) => {
  const { make, number } = LensDiff;
  const state = { side: 0, label: 0 };
  const area = make("div", {}), table = make("div", {});
  const percent = (v) => (v === null ? "–" : number(100 * v) + " %");
  const sides = LensDiff.options("vectors", data.sides, (i) => { state.side = i; draw(); });
  const labels = LensDiff.options("label", data.labels, (i) => { state.label = i; draw(); });
  root.append(...data.facts.map((text) => make("p", { class: "ld-note" }, text)), sides.element, labels.element, area, table);
  if (data.sides.length < 2) sides.element.hidden = true;
  labels.choose(data.first);
  sides.choose(0);

  function draw() {
    const column = (name) => data.groups.map((_, g) => data.by_group[state.side][g][state.label][data.group_statistics.indexOf(name)]);
    const series = ["base", "tuned"].map((role) => ({
      role, name: role, values: column(role + "_share"), low: column(role + "_low"), high: column(role + "_high"),
    })).map((s) => ({ ...s, values: s.values.map(scaled), low: s.low.map(scaled), high: s.high.map(scaled) }));
    area.replaceChildren(LensDiff.lines({
      columns: data.groups, axis: "layers", unit: "share, %", series, label: data.labels[state.label] + " by groups of layers",
      describe: (i) => `Layers ${data.groups[i]}, ${data.labels[state.label]}: ` + ["base", "tuned"].map((role) =>
        `${role} ${percent(column(role + "_share")[i])} [${percent(column(role + "_low")[i])}, ${percent(column(role + "_high")[i])}]`).join("; ") +
        `; difference ${percent(column("difference")[i])} [${percent(column("low")[i])}, ${percent(column("high")[i])}]`,
    }));
    table.replaceChildren(make("div", { class: "ld-turned ld-even" }, LensDiff.table(data.caption, data.columns, data.rows[state.side])));
  }

  function scaled(v) {
    return v === null ? null : 100 * v;
  }
};

// What an annotator said of the components of one layer.
LensDiff.views.annotations = (root, data) => {
  const { make } = LensDiff;
  const table = make("div", { class: "ld-turned" });
  const draw = (index) => table.replaceChildren(LensDiff.table(data.caption, data.columns, data.layers[index].rows));
  const select = make("select", { onchange: (event) => draw(Number(event.target.value)) },
    data.layers.map((layer, i) => make("option", { value: i }, layer.name)));
  root.append(...data.facts.map((text) => make("p", { class: "ld-note" }, text)),
    make("p", {}, make("label", {}, "Layer: ", select)), table);
  draw(0);
};
