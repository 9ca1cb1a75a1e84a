"use strict";
// Two models in two renderings: the means of the four, and what model, template and both together change.
LensDiff.views.template_effects = (root, data) => {
  const { make } = LensDiff;
  const table = (found) => LensDiff.table(found.caption, found.columns, found.rows);
  root.append(...data.facts.map((text) => make("p", { class: "ld-note ld-long" }, text)), table(data.cells), table(data.effects),
    ...data.notes.map((text) => make("p", { class: "ld-note" }, text)));
};
