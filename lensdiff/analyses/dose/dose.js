"use strict";
// The gain of each group at amount 1, that of W_out beside the W_out of every control; then curves over the amount of one group, and
// the amounts that do half of what a group does. Blue is about the base, orange about the tuned model, ink the copy alone.
LensDiff.views.dose = (root, data) => {
  const { make, svg, number } = LensDiff;
  const note = (text) => make("p", { class: "ld-note ld-long" }, text);
  const area = make("div", {}), charts = make("div", { class: "ld-doses" });
  const lines = data.rows.flatMap((row) => [{ name: row.name, ...row, values: [] }, ...row.kinds.map((kind) => ({ ...kind, gain: null, interval: null, kinds: null }))]);
  const spoken = data.rows.map((row) => `${row.name}: ${row.said}`).join(". ");

  function gains(width) {
    const known = [0, ...lines.flatMap((line) => [...line.values, ...(line.interval || []), ...(line.band || []), ...(line.gain === null ? [] : [line.gain])])];
    const low = Math.min(...known), high = Math.max(...known) > low ? Math.max(...known) : low + 1;
    const left = Math.round(Math.min(190, width * 0.36)), right = 12, step = 22, top = 8, bottom = top + step * lines.length;
    const x = (v) => left + 8 + ((v - low) / (high - low)) * (width - left - 8 - right);
    const ticks = LensDiff.ticks(low, high), every = Math.ceil(ticks.length / Math.max(2, Math.floor((width - left) / 48)));
    const bar = ([from, to], y, tone) => svg("rect", { class: tone, x: x(from), y: y - 4, width: Math.max(1, x(to) - x(from)), height: 8, rx: 4, opacity: 0.4 });
    return svg("svg", { viewBox: `0 0 ${width} ${bottom + 40}`, width, height: bottom + 40, class: "ld-gains", role: "img", "aria-label": spoken },
      ticks.map((t, i) => [svg("line", { class: t === 0 ? "ld-zero" : "ld-grid", x1: x(t), x2: x(t), y1: top, y2: bottom }),
        i % every ? null : svg("text", { class: "ld-label", x: x(t), y: bottom + 16, "text-anchor": "middle" }, number(t))]),
      svg("text", { class: "ld-label", x: width - right, y: bottom + 34, "text-anchor": "end" }, "gain of the tuned model's response, nats per token"),
      lines.map((line, i) => {
        const y = top + step * (i + 0.5), control = line.kinds === null;
        return [svg("text", { class: "ld-label", x: left, y: y + 4, "text-anchor": "end", ...(control ? {} : { style: "fill: var(--ink)" }) }, line.name),
          line.band ? bar(line.band, y, "control") : null, line.interval ? bar(line.interval, y, "tuned") : null,
          ...line.values.map((v) => svg("circle", { class: "control", cx: x(v), cy: y, r: 2.5, opacity: 0.6 })),
          line.gain === null ? null : svg("circle", { class: "tuned", cx: x(line.gain), cy: y, r: 5 })];
      }));
  }

  const choose = (group) => charts.replaceChildren(...group.charts.map((chart) => LensDiff.lines({
    columns: group.amounts, at: group.amounts, axis: `amount of the change: ${group.name}`, unit: chart.unit, label: `${chart.label}, by amount of ${group.name}`,
    series: chart.curves,
    describe: (i) => `Amount ${number(group.amounts[i])} of ${group.name}: ` + chart.curves.map((c) => `${c.name} ${number(c.values[i])}` +
      (c.low[i] === null ? "" : ` (${number(c.low[i])} to ${number(c.high[i])})`)).join(", "),
  })));
  const chooser = LensDiff.options("group", data.groups.map((group) => group.name), (i) => choose(data.groups[i]));
  chooser.element.hidden = data.groups.length < 2;
  const swatch = (role, text) => make("span", {}, make("span", { class: "ld-swatch " + role }), text);
  root.append(...data.facts.map(note),
    make("p", { class: "ld-note ld-legend" }, swatch("tuned", "the group's change"), lines.some((line) => line.kinds === null) ? swatch("control", "W_out of a control") : null),
    area,
    make("ul", { class: "ld-note" }, data.rows.map((row) => make("li", {}, `${row.name}: ${row.said}`))), chooser.element, charts,
    make("details", {}, make("summary", {}, "The amount that does half"), note(data.half_note),
      make("div", { class: "ld-turned ld-even" }, LensDiff.table(data.half.caption, data.half.columns, data.half.rows))),
    ...data.limits.map(note));
  let width = 0;
  const fit = () => {
    const next = Math.round(Math.max(260, Math.min(820, area.clientWidth || 640)));
    if (next !== width) area.replaceChildren(gains((width = next)));
  };
  new ResizeObserver(fit).observe(area);
  chooser.choose(0);
  queueMicrotask(fit);
};
