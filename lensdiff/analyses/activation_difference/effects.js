"use strict";
// What the difference does: curves over scales before the bands (or dots) of other directions, a row of dots per direction whose
// component was replaced, and the words that come out of a patchscope.
LensDiff.views.difference_effects = (root, data) => {
  const { make, svg, number } = LensDiff;
  const note = (text) => make("p", { class: "ld-note ld-long" }, text);
  const area = make("div", {}), lanes = make("div", {});
  const draw = (index) => {
    const picture = data.pictures[index];
    const between = (values) => (values.length ? `${number(Math.min(...values))} to ${number(Math.max(...values))}` : "none");
    const describe = (i) => `${picture.axis[0].toUpperCase()}${picture.axis.slice(1)} ${picture.columns[i]}: ` + [
      ...picture.lines.map((line) => `${line.name} ${number(line.values[i])}`),
      ...picture.bands.map((band) => `${band.name} ${number(band.low[i])} to ${number(band.high[i])}`),
      ...picture.dots.filter((dots) => dots.values[i].length).map((dots) => `${dots.name} ${between(dots.values[i])}`)].join("; ") + ".";
    area.replaceChildren(note(picture.how), LensDiff.lines({
      columns: picture.columns, axis: picture.axis, unit: picture.unit, label: picture.label, describe, dots: picture.dots, bands: picture.bands,
      series: picture.lines.map((line) => ({ ...line, role: line.role + (line.broken ? " ld-crossed" : "") })),
    }));
  };

  const line = 24, axis = 22, right = 14;
  let width = 0;
  const rows = (one) => {
    const all = one.rows.flatMap((row) => [0, ...row.values, ...(row.low === null ? [] : [row.low, row.high])]);
    const low = Math.min(...all), high = Math.max(...all) > low ? Math.max(...all) : low + 1;
    const left = Math.round(Math.min(190, width * 0.4)), height = axis + line * one.rows.length;
    const x = (v) => left + 8 + ((v - low) / (high - low)) * (width - left - 8 - right);
    const ticks = LensDiff.ticks(low, high), step = Math.ceil(ticks.length / Math.max(2, Math.floor((width - left) / 60)));
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "ld-rows", role: "img", "aria-label": `${one.title}. ${one.told}` },
      ticks.map((t, i) => [svg("line", { class: t === 0 ? "ld-zero" : "ld-grid", x1: x(t), x2: x(t), y1: axis, y2: height }),
        i % step ? null : svg("text", { class: "ld-label", x: x(t), y: axis - 6, "text-anchor": "middle" }, number(t))]),
      one.rows.map((row, i) => {
        const y = axis + line * (i + 0.5), single = row.role !== "control";
        return [svg("text", { class: "ld-label" + (i ? "" : " ld-strong-label"), x: left, y: y + 4, "text-anchor": "end" }, row.name),
          row.low === null ? null : svg("line", { class: "ld-error " + row.role, x1: x(row.low), x2: x(row.high), y1: y, y2: y }),
          ...row.values.map((v) => svg("circle", { class: row.role, cx: x(v), cy: y, r: single ? 6 : 3.5, opacity: single ? 1 : 0.6 }))];
      }));
  };
  const fit = () => {
    const next = Math.round(Math.max(260, Math.min(820, lanes.clientWidth || 640)));
    if (next === width) return;
    width = next;
    lanes.replaceChildren(...data.axes.map((one) => make("section", {}, make("p", { class: "ld-long" }, one.title), rows(one), note(one.told))));
  };
  new ResizeObserver(fit).observe(lanes);
  queueMicrotask(fit);

  const chooser = LensDiff.options("picture", data.pictures.map((p) => p.label), draw);
  root.append(make("h4", {}, data.title), ...data.facts.map(note), chooser.element, area,
    make("h4", {}, "Change of cross-entropy where the component is the other model's, nats per token"), lanes, ...data.limits.map(note),
    LensDiff.table(data.words.caption, data.words.columns, data.words.rows));
  chooser.choose(1);
};
