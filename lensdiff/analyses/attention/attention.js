"use strict";
// Attention of chosen heads, drawn by circuitsvis; base and tuned side by side, the head that changed most first.
LensDiff.views.attention = (root, data) => {
  const { make } = LensDiff;
  const COLOURS = { base: "#0072b2", tuned: "#d55e00", model: "#0072b2" }; // on white in dark pages too: circuitsvis draws on white
  const body = make("div", {});
  const draw = (index) => { body.replaceChildren(); one(data.prompts[index]); };
  if (data.prompts.length > 1) {
    const select = make("select", { onchange: (event) => draw(Number(event.target.value)) },
      data.prompts.map((prompt, i) => make("option", { value: i }, prompt.label)));
    root.append(make("label", {}, "Prompt: ", select));
  }
  root.append(body);
  if (data.prompts.length) draw(0);

  function one(prompt) {
    body.append(make("p", { class: "ld-note" }, prompt.facts));
    if (!prompt.heads.length) return;
    const sides = make("div", { class: "ld-sides" });
    const heads = LensDiff.options("head", prompt.heads.map((head) => head.name), (index) => {
      sides.replaceChildren();
      for (const [s, side] of prompt.sides.entries()) {
        const area = make("div", { class: "ld-heads", tabindex: 0, role: "region", "aria-label": "attention of " + side.name });
        sides.append(make("section", { class: "ld-side " + side.role }, make("h4", { class: "ld-long" }, side.name), make("p", { class: "ld-note" }, prompt.heads[index].facts[s]), area));
        // circuitsvis's own head selector cannot be reached by keyboard and knows one model: the choice above drives both
        LensDiff.circuitsvis(area, "AttentionPattern", {
          attention: square(prompt.heads[index].patterns[s], side.tokens.length), tokens: side.tokens.map(LensDiff.visible),
          minValue: 0, maxValue: 1, positiveColor: COLOURS[side.role], maskUpperTri: true, showAxisLabels: true,
        });
      }
    });
    body.append(heads.element, sides);
    heads.choose(0);
  }

  function square(text, size) {
    const flat = LensDiff.unpack(text);
    return [...Array(size).keys()].map((row) => [...flat.subarray(row * size, (row + 1) * size)]);
  }
};

// How far attention moved, layers down and heads across; a cell outside the band of the controls has a corner.
LensDiff.views.attention_shift = (root, data) => {
  const { make, number } = LensDiff;
  const area = make("div", {}), panel = make("div", { "aria-live": "polite" });
  const measures = LensDiff.options("measure", data.measures.map((m) => m.label), (index) => draw(data.measures[index]));
  root.append(data.claim ? make("p", {}, data.claim) : "", make("p", { class: "ld-note" }, data.facts), measures.element, area, panel,
    make("details", {}, make("summary", {}, "The heads whose attention moved most"), LensDiff.table(data.caption, data.columns, data.top)));
  measures.choose(0);

  function draw(measure) {
    const known = measure.values.flat().filter((v) => v !== null);
    const top = Math.max(...known.map(Math.abs), 0);
    const outside = (r, c) => measure.low && measure.low[r][c] !== null && (measure.values[r][c] < measure.low[r][c] || measure.values[r][c] > measure.high[r][c]);
    const band = (r, c) => (measure.low && measure.low[r][c] !== null ? `; controls ${number(measure.low[r][c])} to ${number(measure.high[r][c])}` : "; no controls");
    area.replaceChildren(
      LensDiff.map({
        rows: data.layers.map((layer) => "layer " + layer), columns: data.heads, corner: "head", label: `${measure.label}, layers down, heads across`,
        hint: "Point at a head, or move with the arrow keys; choose one for all its numbers.",
        cell: (r, c) => {
          const v = measure.values[r][c];
          return v === null ? null : { value: top > 0 ? v / top : 0, signed: measure.signed, marked: outside(r, c), number: number(v), text: `layer ${data.layers[r]}, head ${c}: ${measure.label} ${number(v)}${band(r, c)}${outside(r, c) ? ", outside" : ""}` };
        },
        onchoose: (r, c) => panel.replaceChildren(LensDiff.table(`Layer ${data.layers[r]}, head ${c}: ${data.note}`, data.columns_of_head, data.of_head[r][c])),
      }),
      make("p", { class: "ld-note" }, measure.signed ? number(-top) : "0", make("span", { class: "ld-ramp" + (measure.signed ? " signed" : "") }), number(top), "; a filled corner: outside the band of the controls. ", measure.how));
  }
};
