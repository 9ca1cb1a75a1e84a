"use strict";
// One point per prompt: instruction score in the base and in the tuned model. Above the diagonal it rose. A point shows its prompt.
LensDiff.views.scores = (root, data) => {
  const { svg } = LensDiff;
  const size = 320, pad = 34;
  const top = Math.max(...data.points.flatMap((p) => [p.base, p.tuned])) || 1;
  const at = (value) => pad + (value / top) * (size - 2 * pad);
  const up = data.points.filter((p) => p.tuned > p.base).length, down = data.points.filter((p) => p.tuned < p.base).length;
  const choose = (id) => document.dispatchEvent(new CustomEvent("ld-prompt", { detail: id }));
  root.append(
    LensDiff.make("p", {}, `The score rose in ${up} of ${LensDiff.count(data.points.length, "prompt")} and fell in ${down}.`),
    svg("svg", { viewBox: `0 0 ${size} ${size}`, class: "ld-scatter", role: "group", "aria-label": "instruction scores of every prompt" },
      svg("line", { x1: at(0), y1: size - at(0), x2: at(top), y2: size - at(top), "stroke-dasharray": "4 4" }),
      svg("line", { x1: at(0), y1: size - at(0), x2: at(top), y2: size - at(0) }),
      svg("line", { x1: at(0), y1: size - at(0), x2: at(0), y2: size - at(top) }),
      svg("text", { x: size / 2, y: size - 6, class: "ld-label", "text-anchor": "middle" }, "score in the base"),
      svg("text", { x: 12, y: size / 2, class: "ld-label", "text-anchor": "middle", transform: `rotate(-90 12 ${size / 2})` }, "score in the tuned model"),
      [0, top].map((tick) => svg("text", { x: at(tick), y: size - pad + 14, class: "ld-label", "text-anchor": "middle" }, LensDiff.number(tick, 2))),
      svg("text", { x: pad - 4, y: size - at(top) + 4, class: "ld-label", "text-anchor": "end" }, LensDiff.number(top, 2)),
      data.points.map((p) =>
        svg("circle", { cx: at(p.base), cy: size - at(p.tuned), r: 5, tabindex: 0, role: "button",
            "aria-label": `${p.id}: base ${LensDiff.number(p.base)}, tuned ${LensDiff.number(p.tuned)}`,
            onclick: () => choose(p.id), onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(p.id); } } },
          svg("title", {}, `${p.id}: base ${LensDiff.number(p.base)}, tuned ${LensDiff.number(p.tuned)}`)))));
};
