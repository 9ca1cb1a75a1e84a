"use strict";
// One card per claim. The drawing repeats what the sentence says: effect and interval, and below them the controls.
LensDiff.views.claims = (root, data) => {
  const { make } = LensDiff;
  root.append(make("div", { class: "ld-cards" }, data.claims.map((claim) =>
    make("article", { class: "ld-card " + claim.verdict },
      make("h3", {}, claim.title),
      make("p", { class: "ld-paper" }, "The paper: " + claim.paper),
      make("p", { class: "ld-verdict" }, make("span", { class: "ld-sign", "aria-hidden": "true" }, claim.sign), claim.answer),
      make("p", { class: "ld-statement" }, claim.statement),
      claim.picture ? picture(claim.picture) : null,
      claim.facts.length || claim.also.length
        ? make("details", {}, make("summary", {}, "How this was tested"),
            make("ul", {}, [claim.test, ...claim.facts].filter(Boolean).map((fact) => make("li", {}, fact))),
            claim.also.length ? make("p", { class: "ld-note" }, "The same question asked in other ways:") : null,
            claim.also.length ? make("ul", {}, claim.also.map((test) => make("li", {}, test))) : null)
        : null))));

  function picture(p) {
    const { svg, number } = LensDiff;
    const known = [0, p.effect, p.control, ...(p.interval || []), ...(p.band || [])].filter((v) => v !== null);
    const low = Math.min(...known), span = Math.max(...known) - low || 1;
    const percent = (value) => 4 + (92 * (value - low)) / span, x = (value) => percent(value) + "%";
    const row = (y, name, value, limits, tone) => [
      svg("text", { x: 0, y: y - 10, class: "ld-label" }, name),
      svg("line", { x1: x(0), x2: x(0), y1: y - 7, y2: y + 8, class: "ld-zero" }),
      limits ? svg("rect", { x: x(limits[0]), y: y - 4, width: percent(limits[1]) - percent(limits[0]) + "%", height: 8, rx: 4, class: tone, opacity: 0.4 }) : null,
      svg("circle", { cx: x(value), cy: y, r: 5, class: tone }),
    ];
    const bottom = p.control === null ? 34 : 76;
    const tuned = `tuned − base: ${number(p.effect)}${p.unit}`;
    const controls = p.control === null ? "no controls" : `${p.n} controls (${p.kind}): ${number(p.control)}${p.unit}`;
    return svg("svg", { class: "ld-picture", height: bottom + 16, role: "img", "aria-label": tuned + "; " + controls },
      svg("text", { x: x(0), y: bottom + 13, class: "ld-label", "text-anchor": percent(0) > 90 ? "end" : percent(0) < 10 ? "start" : "middle" }, "0"),
      row(24, tuned, p.effect, p.interval, "tuned"),
      p.control === null ? [] : row(64, controls, p.control, p.band, "control"));
  }
};
