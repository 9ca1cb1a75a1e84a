"use strict";
// One card per claim. The drawing repeats what the sentence says: the effect, and below it every control, kind by kind.
LensDiff.views.claims = (root, data) => {
  const { make } = LensDiff;
  root.append(make("div", { class: "ld-cards" }, data.claims.map((claim) =>
    make("article", { class: "ld-card " + claim.verdict },
      make("h3", {}, claim.title),
      make("p", { class: "ld-paper" }, "The paper: " + claim.paper),
      make("p", { class: "ld-verdict" }, make("span", { class: "ld-sign", "aria-hidden": "true" }, claim.sign), claim.answer),
      make("p", { class: "ld-statement" }, claim.statement),
      claim.cause ? make("p", { class: "ld-cause" }, make("strong", {}, "Cause: "), claim.cause + ".") : null,
      claim.picture ? picture(claim.picture) : null,
      claim.facts.length || claim.also.length || claim.replication.length
        ? make("details", {}, make("summary", {}, "How this was tested"),
            make("ul", {}, claim.facts.map((fact) => make("li", {}, fact))),
            claim.also.length ? make("p", { class: "ld-note" }, "Other tests of the same question, without a verdict:") : null,
            claim.also.length ? make("ul", {}, claim.also.map((test) => make("li", {}, test))) : null,
            claim.replication.length ? make("p", { class: "ld-note" }, "The paper's own score, repeated on this pair, without a verdict:") : null,
            claim.replication.length ? make("ul", {}, claim.replication.map((line) => make("li", {}, line))) : null)
        : null))));

  function picture(p) {
    const { svg, number } = LensDiff;
    const known = [0, p.effect, ...(p.interval || []), ...p.kinds.flatMap((k) => [...k.values, ...(k.band || [])])];
    const low = Math.min(...known), span = Math.max(...known) - low || 1;
    const percent = (value) => 4 + (92 * (value - low)) / span, x = (value) => percent(value) + "%";
    const row = (y, name, marks) => [
      svg("text", { x: 0, y: y - 10, class: "ld-label" }, name),
      svg("line", { x1: x(0), x2: x(0), y1: y - 7, y2: y + 8, class: "ld-zero" }),
      ...marks,
    ];
    const bar = (y, [from, to], tone) => svg("rect", { x: x(from), y: y - 4, width: percent(to) - percent(from) + "%", height: 8, rx: 4, class: tone, opacity: 0.4 });
    const effect = `this pair: ${number(p.effect)}${p.unit}`;
    const beside = (k) => `${k.values.length} ${k.name}` + (k.band ? `: ${number(k.band[0])} to ${number(k.band[1])}` : ": too few for a band");
    const bottom = 34 + 40 * p.kinds.length;
    return svg("svg", { class: "ld-picture", height: bottom + 16, role: "img", "aria-label": [effect, ...p.kinds.map(beside)].join("; ") },
      svg("text", { x: x(0), y: bottom + 13, class: "ld-label", "text-anchor": percent(0) > 90 ? "end" : percent(0) < 10 ? "start" : "middle" }, "0"),
      row(24, effect, [p.interval ? bar(24, p.interval, "tuned") : null, svg("circle", { cx: x(p.effect), cy: 24, r: 5, class: "tuned" })]),
      ...p.kinds.flatMap((k, i) => {
        const y = 64 + 40 * i;
        const dots = k.values.map((value) => svg("circle", { cx: x(value), cy: y, r: 2.5, class: "control", opacity: 0.5 }));
        return row(y, beside(k), [k.band ? bar(y, k.band, "control") : null, ...dots]);
      }));
  }
};
