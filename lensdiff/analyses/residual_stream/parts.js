"use strict";
// What each part adds to a logit: layers down, heads and the MLP across; parts outside of the layers are said below.
LensDiff.views.logit_parts = (root, data) => {
  const { make, number } = LensDiff;
  const area = make("div", {});
  const state = { group: 0, measure: 0 };
  const columns = [...Array(data.n_heads).keys()].map(String).concat("MLP");
  if (data.groups.length > 1) {
    root.append(make("label", {}, "Prompt: ", make("select", { onchange: (event) => { state.group = Number(event.target.value); draw(); } },
      data.groups.map((group, i) => make("option", { value: i }, group.label)))));
  }
  const chooser = LensDiff.options("show", data.measures, (i) => { state.measure = i; draw(); });
  root.append(...data.facts.map((text) => make("p", { class: "ld-note ld-long" }, text)), chooser.element, area);
  if (data.measures.length < 2) chooser.element.hidden = true;
  if (data.table) root.append(LensDiff.table(data.table.caption, data.table.columns, data.table.rows));
  chooser.choose(0);

  function draw() {
    const group = data.groups[state.group];
    const places = new Map(group.rows.filter((row) => row.layer !== null).map((row) => [`${row.layer} ${row.head ?? "MLP"}`, row]));
    const end = (mlp) => Math.max(...[...places.values()].filter((row) => (row.head === null) === mlp).map((row) => Math.abs(row.values[state.measure] ?? 0)), 0);
    const ends = [end(false), end(true)]; // heads add less than MLPs: each has a scale of its own
    const named = (row) => (row.head !== null ? `layer ${row.layer}, head ${row.head}` : row.layer !== null ? `layer ${row.layer}, MLP` : row.part.replace("_", " "));
    const describe = (row) => {
      const said = [`${data.measures[state.measure]} ${number(row.values[state.measure])}`];
      data.measures.forEach((name, i) => { if (i !== state.measure) said.push(`${name} ${number(row.values[i])}`); });
      if (row.band.length && row.band[0] !== null) said.push(`controls' band ${number(row.band[0])} to ${number(row.band[1])}`);
      if (row.moved) said.push("moved beyond the controls and over prompts");
      return `${named(row)}: ${said.join(", ")}`;
    };
    const outside = group.rows.filter((row) => row.layer === null);
    area.replaceChildren(
      group.note ? make("p", { class: "ld-note ld-long" }, group.note) : "",
      LensDiff.map({
        rows: [...Array(data.n_layers).keys()].map((layer) => "layer " + layer), columns, corner: "head", label: `${data.measures[state.measure]} of each head and MLP, logits`,
        hint: "Point at a cell, or move with the arrow keys, to read its value.",
        cell: (r, c) => {
          const row = places.get(`${r} ${columns[c]}`);
          if (!row) return null;
          const value = row.values[state.measure] ?? 0;
          // the corner is about the difference
          const top = ends[row.head === null ? 1 : 0];
          return { value: top > 0 ? value / top : 0, signed: true, number: number(value), text: describe(row), marked: state.measure === 0 && row.marked };
        },
      }),
      make("p", { class: "ld-note" }, "Colours, logits: ", ["heads", "MLPs"].map((name, i) => [`${name} `, number(-ends[i]), make("span", { class: "ld-ramp signed" }), number(ends[i]), "; "]), "rows are layers, columns heads and the MLP",
        state.measure === 0 && group.rows.some((row) => row.marked !== null) ? "; a filled corner: beyond the controls' band" : ""),
      make("p", { class: "ld-note ld-long" }, "Outside of the layers: " + outside.map(describe).join("; ") + "."));
  }
};
