"use strict";
// The lens of a prompt: response tokens across, layers down, in each cell the word that the layer would say, base and tuned side by
// side. Choosing a cell, by a click or with the arrow keys and Enter, lists what both models find likely there.
LensDiff.views.lens = (root, data) => {
  const { make, number, visible } = LensDiff;
  const colours = [
    ["probability of the top word", (side, l, t) => side.chances[l][t][0]],
    ["probability of the response's token", (side, l, t) => side.prob[l][t]],
    ["KL to the output, nats", (side, l, t) => side.kl[l][t]],
  ];
  const body = make("div", {}), end = make("span", {});
  let colour = 0, prompt = data.prompts[0], repaint = () => {};
  const draw = (index) => { prompt = data.prompts[index]; body.replaceChildren(...one()); };
  if (data.prompts.length > 1) {
    root.append(make("label", {}, "Prompt: ", make("select", { onchange: (event) => draw(Number(event.target.value)) },
      data.prompts.map((p, i) => make("option", { value: i }, p.label)))));
  }
  const chooser = LensDiff.options("colour", colours.map((c) => c[0]), (i) => { colour = i; repaint(); });
  root.append(make("p", { class: "ld-note ld-long" }, data.how), chooser.element, make("p", { class: "ld-note ld-legend" },
    make("span", {}, "colour: 0 to ", end),
    make("span", {}, make("span", { class: "ld-lens-key ld-lens-this" }, "word"), " the response's token"),
    make("span", {}, make("span", { class: "ld-lens-key ld-lens-stays" }, "word"), " from here on the output's word")), body);
  chooser.choose(0);
  if (data.prompts.length) draw(0);

  function one() {
    const panel = make("div", { "aria-live": "polite" }, make("p", { class: "ld-note" }, "Choose a cell to see what is likely there."));
    const grids = prompt.sides.map((side) => grid(side, panel));
    const scrolls = grids.map((g) => g.scroll);
    // both maps show the same tokens
    for (const area of scrolls) area.addEventListener("scroll", () => {
      for (const other of scrolls) if (other !== area && other.scrollLeft !== area.scrollLeft) other.scrollLeft = area.scrollLeft;
    });
    for (const g of grids) g.others = grids;
    repaint = () => grids.forEach((g) => g.paint());
    repaint();
    return [make("p", { class: "ld-long" }, prompt.label), make("p", { class: "ld-note" }, prompt.note, prompt.end === null ? "" : "; after the last token: ", LensDiff.ending(prompt.end)),
      make("div", { class: "ld-sides" }, grids.map((g) => g.element)), panel];
  }

  function grid(side, panel) {
    const found = {};
    const last = prompt.layers.length - 1;
    const layerName = (l) => (l === last ? "out" : String(prompt.layers[l]));
    const word = (l, t) => visible(prompt.words[side.likely[l][t][0]]);
    const place = (l, t) => `${l === last ? "output" : "layer " + prompt.layers[l]}, token ${t} “${visible(prompt.tokens[t])}”`;
    const cells = prompt.layers.map((layer, l) => prompt.tokens.map((token, t) => make("td", {
      class: "ld-spot ld-lens-cell" + (prompt.words[side.likely[l][t][0]] === token ? " ld-lens-this" : "") + (layer === side.committed[t] ? " ld-lens-stays" : ""),
      role: "gridcell", tabindex: l + t ? -1 : 0,
      "aria-label": `${side.name}, ${place(l, t)}: ${word(l, t)}, probability ${number(side.chances[l][t][0])}; the token: rank ${side.rank[l][t]}, probability ${number(side.prob[l][t])}; KL ${number(side.kl[l][t])} nats`,
      onclick: () => choose(l, t),
    }, word(l, t) || " ")));
    const choose = (l, t) => {
      for (const g of found.others) g.cells.forEach((row, r) => row.forEach((td, c) => td.setAttribute("aria-selected", String(r === l && c === t))));
      panel.replaceChildren(make("h4", { class: "ld-long" }, place(l, t)[0].toUpperCase() + place(l, t).slice(1)),
        make("div", { class: "ld-sides" }, prompt.sides.map((other) => likely(other, l, t))));
    };
    const table = make("table", { class: "ld-map ld-lens", role: "grid", "aria-label": `logit lens of ${side.name}` },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "layer"), prompt.tokens.map((token) => make("th", { scope: "col", class: "ld-lens-token" }, visible(token) || " ")))),
      make("tbody", {}, cells.map((row, l) => make("tr", {}, make("th", { scope: "row" }, layerName(l)), row))));
    table.addEventListener("keydown", (event) => {
      const l = cells.findIndex((row) => row.includes(document.activeElement));
      if (l < 0) return;
      const t = cells[l].indexOf(document.activeElement);
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(l, t); return; }
      const step = { ArrowRight: [0, 1], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowUp: [-1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = (cells[l + step[0]] || [])[t + step[1]];
      if (!next) return;
      cells[l][t].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    const scroll = make("div", { class: "ld-scroll ld-lens-scroll" }, table);
    const paint = () => {
      const value = colours[colour][1];
      const top = Math.max(...prompt.sides.flatMap((other) => other.kl.flatMap((row, l) => row.map((_, t) => value(other, l, t)))), 0);
      end.textContent = number(top);
      cells.forEach((row, l) => row.forEach((td, t) => {
        const share = top > 0 ? Math.round((100 * value(side, l, t)) / top) : 0;
        td.classList.toggle("ld-strong", share > 55);
        td.style.background = `color-mix(in oklab, var(--${side.role}) ${share}%, var(--page))`;
      }));
    };
    const element = make("section", { class: "ld-side " + side.role }, make("h4", { class: "ld-long" }, prompt.sides.length > 1 ? `${side.role}: ${side.name}` : side.name), scroll);
    return Object.assign(found, { cells, element, scroll, paint, others: [found] });
  }

  function likely(side, l, t) {
    return make("section", { class: "ld-side " + side.role },
      make("h4", { class: "ld-long" }, prompt.sides.length > 1 ? `${side.role}: ${side.name}` : side.name),
      make("p", { class: "ld-note" }, `this token: rank ${side.rank[l][t]}, probability ${number(side.prob[l][t])}; KL to the output ${number(side.kl[l][t])} nats`),
      make("div", { class: "ld-bars" }, side.likely[l][t].flatMap((w, i) => [
        make("span", { class: "ld-word" + (prompt.words[w] === prompt.tokens[t] ? " ld-this" : "") }, visible(prompt.words[w]) || " "),
        make("span", {}, make("div", { class: "ld-bar", style: `width:${100 * side.chances[l][t][i]}%` })),
        make("span", { class: "ld-note" }, number(side.chances[l][t][i])),
      ])));
  }
};
