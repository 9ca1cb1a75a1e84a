"use strict";
// A map of layers and heads; the chosen head's sentence and words stand beside it.
LensDiff.views.heads = (root, data) => {
  const { make, number } = LensDiff;
  const n = data.heads.length, top = Math.max(...data.values, 0);
  const name = (i) => `Layer ${data.layers[Math.floor(i / n)]}, head ${data.heads[i % n]}`;
  const line = make("p", { class: "ld-head-line", "aria-live": "polite" });
  const panels = make("div", { class: "ld-sides" });
  const map = LensDiff.map({
    rows: data.layers.map((layer) => "layer " + layer), columns: data.heads, corner: "head", label: data.meaning, hint: "Choose a head.",
    cell: (r, c) => {
      const i = r * n + c;
      return { value: top > 0 ? data.values[i] / top : 0, signed: false, number: number(data.values[i], 2), text: `${name(i)}: ${number(data.values[i])}${data.marked[i] ? ", beyond the controls" : ""}`, marked: data.marked[i] };
    },
    onchoose: (r, c) => draw(r * n + c),
  });
  root.append(
    make("p", { class: "ld-note" }, "Colour: ", data.meaning, ", 0", make("span", { class: "ld-ramp" }), number(top, 2), data.marked.some(Boolean) ? "; a filled corner: beyond the controls" : ""),
    make("div", { class: "ld-head-map" }, map, make("div", { class: "ld-head-words" }, line, panels)),
    ...data.notes.map((note) => make("p", { class: "ld-note" }, note)));
  const most = data.values.reduce((best, value, i) => (value > data.values[best] ? i : best), 0);
  map.querySelectorAll("[role=gridcell]")[most].click();

  function draw(index) {
    line.replaceChildren(make("strong", {}, name(index)), ": ", data.lines[index], ".");
    panels.replaceChildren(...data.sides.map((side) => make("section", { class: "ld-side " + side.role }, make("h4", {}, side.name),
      side.heads[index].map(([title, lists]) => make("div", { class: "ld-head-block" }, make("p", { class: "ld-note" }, title),
        make("div", { class: "ld-head-lists" }, lists.map((items) => (items.length ? make("ul", { class: "ld-head-list" }, items.map(item)) : make("p", {}, "none")))))))));
  }

  function item([one, other, count]) {
    const word = (index) => make("bdi", {}, LensDiff.visible(data.words[index]));
    return make("li", {}, word(one), other === undefined ? null : [" → ", word(other)], count > 1 ? make("span", { class: "ld-note" }, ` ×${count}`) : null);
  }
};

// The verbs of a group of layers: in how many heads each one's count fell (left) and rose (right), and what the group shows.
LensDiff.views.verbs = (root, data) => {
  const { make, number } = LensDiff;
  const body = make("div", {});
  const choice = LensDiff.options("layers", data.groups.map((group) => group.name), draw);
  root.append(choice.element, body, ...data.notes.map((note) => make("p", { class: "ld-note" }, note)));
  choice.choose(data.groups.length - 1);

  function draw(index) {
    const group = data.groups[index], widest = Math.max(...group.verbs.map((row) => Math.max(row[1], row[2])), 1);
    const bar = (heads, role) => make("span", { class: "ld-verb-bar " + role, style: `--part: ${heads / widest}` });
    const count = (value) => make("td", { class: "number" }, value);
    const columns = ["verb", "fell", "", "", "rose", "share", "in the base"];
    body.replaceChildren(
      make("div", { class: "ld-scroll" }, make("table", { class: "ld-verb-facts" }, make("tbody", {},
        group.facts.map(([title, text]) => make("tr", {}, make("th", { scope: "row" }, title), make("td", {}, text)))))),
      group.verbs.length
        ? make("div", { class: "ld-scroll", tabindex: 0, role: "region", "aria-label": "instruction verbs" }, make("table", { class: "ld-verbs" },
            make("thead", {}, make("tr", {}, columns.map((title, i) => make(title ? "th" : "td", { scope: title && "col", class: i ? "number" : "" }, title)))),
            make("tbody", {}, group.verbs.map(([verb, up, down, share, base]) => make("tr", {},
              make("th", { scope: "row" }, make("bdi", {}, verb)), count(down), make("td", { class: "ld-verb-fell" }, bar(down, "base")),
              make("td", {}, bar(up, "tuned")), count(up), count(number(share)), count(base))))))
        : make("p", {}, "No instruction verb differs in any head."));
  }
};
