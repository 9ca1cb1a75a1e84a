"use strict";
// Choose layer, vectors and component: its words at both poles, the base's beside those of the tuned component it is matched with.
LensDiff.views.concepts = (root, data) => {
  const { make, number } = LensDiff;
  const state = { layer: 0, side: 0, component: 0 };
  const list = make("div", {}), panel = make("div", { "aria-live": "polite" });
  const layers = make("select", { onchange: (event) => { state.layer = Number(event.target.value); components(); } },
    data.layers.map((layer, i) => make("option", { value: i }, "layer " + layer)));
  const sides = LensDiff.options("vectors", data.sides, (i) => { state.side = i; components(); });
  root.append(...data.facts.map((text) => make("p", { class: "ld-note" }, text)),
    make("p", {}, make("label", {}, "Layer: ", layers)), sides.element, list, panel);
  if (data.sides.length < 2) sides.element.hidden = true;
  sides.choose(0);

  function found() {
    return data.components[state.layer][state.side];
  }

  function components() {
    const labels = found().map((c, i) => {
      const first = c.models[0];
      const words = first.poles[0].slice(0, 5).map(([word]) => data.words[word]).join(", ");
      const turned = c.angle === null ? "" : ` · turned ${number(c.angle)}°`;
      return `${i} · ${number(100 * first.variance)} %${turned} · ${words}`;
    });
    const row = LensDiff.choices(labels, (i) => { state.component = i; show(); }, "components, most variance first");
    row.classList.add("ld-concept-list");
    list.replaceChildren(row);
    row.choose(Math.min(state.component, labels.length - 1));
  }

  function show() {
    const component = found()[state.component];
    const seen = component.models.map((m) => new Set(m.poles.flat().map(([word]) => word)));
    panel.replaceChildren(make("div", { class: "ld-sides" }, component.models.map((m, i) => {
      const other = component.models.length > 1 ? seen[1 - i] : null;
      const angle = i === 1 ? ` · ${number(component.angle)}° from the base's` : "";
      return make("section", { class: "ld-side " + data.roles[i] },
        make("h3", {}, data.names[i]),
        make("p", { class: "ld-note" }, `component ${m.number} · ${number(100 * m.variance)} % of the variance${angle}`),
        make("div", { class: "ld-poles" }, m.poles.map((pole, p) => make("div", {},
          make("p", { class: "ld-note" }, ["positive pole", "negative pole"][p]),
          make("ol", {}, pole.map(([word, score]) => make("li", { class: other && !other.has(word) ? "ld-only" : "" },
            make("span", {}, LensDiff.visible(data.words[word])), make("span", {}, (score / 100).toFixed(2)))))))));
    })));
  }
};
