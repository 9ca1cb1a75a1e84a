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
      claim.picture ? picture(claim.picture) : null,
      claim.evidence ? evidence(claim.evidence) : null,
      claim.cause ? make("p", { class: "ld-cause" }, make("strong", {}, "Cause: "), claim.cause + ".") : null,
      claim.facts.length || claim.also.length || claim.replication.length
        ? make("details", {}, make("summary", {}, "How this was tested"),
            make("ul", {}, claim.facts.map((fact) => make("li", {}, fact))),
            claim.also.length ? make("p", { class: "ld-note" }, "Other tests of the same question, without a verdict:") : null,
            claim.also.length ? make("ul", {}, claim.also.map((test) => make("li", {}, test))) : null,
            claim.replication.length ? make("p", { class: "ld-note" }, "The paper's own score, repeated on this pair, without a verdict:") : null,
            claim.replication.length ? make("ul", {}, claim.replication.map((line) => make("li", {}, line))) : null)
        : null))));

  // what carries the number: a row per prompt, verb or layer
  function evidence(e) {
    const { svg, number } = LensDiff;
    const all = [0, ...e.rows.flatMap(([, values, band]) => [...(e.how === "bars" ? [-values[0], values[1]] : values), ...(band || [])])];
    const low = Math.min(...all), span = Math.max(...all) - low || 1, line = 18, top = 4;
    const percent = (v) => 34 + (62 * (v - low)) / span, x = (v) => percent(v) + "%";
    const height = top + line * e.rows.length;
    const short = (name) => { const all = [...LensDiff.visible(name)]; return all.length > 14 ? all.slice(0, 13).join("") + "…" : all.join(""); };
    const bar = (y, from, to, role, thick) => svg("rect", { x: x(from), y: y - thick / 2, width: percent(to) - percent(from) + "%", height: thick, rx: 2, class: role, opacity: role === "control" ? 0.35 : 1 });
    const dot = (y, v, role) => svg("circle", { cx: x(v), cy: y, r: 4, class: role });
    const said = e.rows.map(([name, values, band]) => `${name} ${values.map((v) => number(v)).join(" and ")}` + (band ? `, one more control ${number(band[0])} to ${number(band[1])}` : ""));
    return make("figure", { class: "ld-evidence" }, make("figcaption", { class: "ld-note" }, e.title),
      svg("svg", { class: "ld-picture", height: height + 18, role: "img", "aria-label": `${e.title}: ${said.join("; ")}` },
        svg("line", { x1: x(0), x2: x(0), y1: 0, y2: height, class: "ld-zero" }),
        svg("text", { x: x(0), y: height + 13, class: "ld-label", "text-anchor": "middle" }, "0"),
        svg("text", { x: x(low + span), y: height + 13, class: "ld-label", "text-anchor": "end" }, low + span > 0 ? number(low + span) : ""),
        e.rows.flatMap(([name, values, band], i) => {
          const y = top + line * (i + 0.5);
          const label = svg("text", { x: 0, y: y + 4, class: "ld-label" }, short(name));
          if (e.how === "bars") return [label, bar(y, -values[0], 0, "base", 9), bar(y, 0, values[1], "tuned", 9)];
          const grey = band ? bar(y, band[0], band[1], "control", 10) : null;
          if (e.how === "share") return [label, grey, dot(y, values[0], "tuned")];
          return [label, grey, svg("line", { class: "ld-grid ld-between", x1: x(values[0]), x2: x(values[1]), y1: y, y2: y }), dot(y, values[0], "base"), dot(y, values[1], "tuned")];
        })),
      e.note ? make("p", { class: "ld-note" }, e.note) : null);
  }

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
