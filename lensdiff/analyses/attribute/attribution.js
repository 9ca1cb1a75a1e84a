"use strict";
// Choose a response token; the prompt's words take its colours. "whole response" shows the importance density.
LensDiff.views.attribution = (root, data) => {
  const { make } = LensDiff;
  const body = make("div", {});
  const draw = (index) => body.replaceChildren(...data.prompts[index].sides.length ? [sides(data.prompts[index])] : []);
  if (data.prompts.length > 1) {
    const select = make("select", { onchange: (event) => draw(Number(event.target.value)) },
      data.prompts.map((prompt, i) => make("option", { value: i }, prompt.label)));
    root.append(make("label", {}, "Prompt: ", select));
    document.addEventListener("ld-prompt", (event) => { // another view of the page asks for a prompt
      const index = data.prompts.findIndex((prompt) => prompt.id === event.detail);
      if (index < 0) return;
      select.value = index;
      draw(index);
      root.scrollIntoView({ block: "start" });
      select.focus({ preventScroll: true });
    });
  }
  root.append(
    make("p", { class: "ld-legend ld-note" },
      make("span", {}, make("span", { class: "ld-key", style: "color:#6f42c1" }), "instruction"),
      make("span", {}, make("span", { class: "ld-key", style: "color:#1a7f5a;border-bottom-style:dashed" }), "context"),
      ...(data.prompts.some((prompt) => prompt.sides.some((side) => side.parts.includes("template")))
        ? [make("span", {}, make("span", { class: "ld-key", style: "color:#8c959f;border-bottom-style:dotted" }), "chat template")] : []),
      make("span", {}, "coloured: supports the chosen response token; grey: speaks against it")),
    body);
  draw(0);

  function sides(prompt) {
    return make("div", { class: "ld-sides" }, prompt.sides.map((side) => one(side)));
  }

  function one(side) {
    const scores = LensDiff.unpack(side.scores), width = side.out_tokens.length; // each column relative to its largest
    const painted = make("div", { class: "ld-prompt", tabindex: 0, role: "region", "aria-label": "prompt of " + side.name });
    const caption = make("p", { class: "ld-note", "aria-live": "polite" });
    const choose = (index) => {
      const whole = index === 0;
      const top = whole ? Math.max(...side.density, 0) : side.tops[index - 1];
      paint(painted, side, side.in_tokens.map((_, n) =>
        whole ? (top > 0 ? Math.round(100 * side.density[n] / top) / 100 : 0) : Math.round(100 * scores[n * width + index - 1]) / 100));
      caption.textContent = whole
        ? "Importance density over the whole response; largest " + LensDiff.number(top)
        : "Response token " + (index - 1) + " “" + LensDiff.visible(side.out_tokens[index - 1]) + "”, probability " +
          LensDiff.number(side.probabilities[index - 1]) + "; largest score " + LensDiff.number(top);
    };
    const row = LensDiff.choices(["whole response", ...side.out_tokens.map(LensDiff.visible)], choose, "response tokens of " + side.name);
    const panel = make("section", { class: "ld-side " + side.role },
      make("h4", {}, side.name),
      make("p", { class: "ld-note" }, side.facts),
      painted, caption,
      make("h4", {}, side.out_tokens.length ? "Response" : "Response: empty"), row);
    row.choose(0);
    return panel;
  }

  function paint(area, side, values) {
    area.replaceChildren();
    const colour = LensDiff.colour(side.role === "base" ? "--base" : side.role === "tuned" ? "--tuned" : "--base");
    for (let start = 0; start < values.length; ) {
      let end = start + 1;
      while (end < values.length && side.parts[end] === side.parts[start]) end++;
      const part = make("span", { class: "ld-part " + side.parts[start] });
      area.append(part);
      LensDiff.circuitsvis(part, "ColoredTokens", {
        tokens: side.in_tokens.slice(start, end), values: values.slice(start, end),
        minValue: -1, maxValue: 1, negativeColor: "#8c959f", positiveColor: colour,
      });
      start = end;
    }
  }
};
