"use strict";
// A chart of lines over columns (layers): bands of controls, or their dots (a list per column), behind, series with intervals before. One column is chosen (`start` at first), by pointing or
// with the arrow keys; its values are said below. Colours are the roles': base, tuned, control.
LensDiff.lines = ({ columns, at = null, axis, unit, series, bands = [], dots = [], label, describe, floor = 0, start = 0, onchoose }) => {
  const { make, svg, number } = LensDiff;
  const status = make("p", { class: "ld-note ld-status", "aria-live": "polite" });
  const area = make("div", {});
  let chosen = start;
  const all = [...series.flatMap((s) => [...s.values, ...(s.low || []), ...(s.high || [])]), ...bands.flatMap((b) => [...b.low, ...b.high]), ...dots.flatMap((d) => d.values.flat())];
  const known = all.filter((v) => v !== null);
  const low = Math.min(floor, ...known), highest = Math.max(...known, low);
  const high = highest - low > 1e-9 ? highest : low + 1;  // a line of zeros is drawn at the bottom of a whole unit
  const height = 250, left = 52, right = 22, top = 12, bottom = 38;

  const draw = (width) => {
    const n = columns.length;
    const share = (i) => (n < 2 ? 0.5 : at ? (at[i] - at[0]) / (at[n - 1] - at[0]) : i / (n - 1));
    const x = (i) => left + share(i) * (width - left - right);
    const y = (v) => height - bottom - ((v - low) / (high - low)) * (height - top - bottom);
    const path = (points) => points.map(([px, py], i) => (i ? "L" : "M") + px.toFixed(1) + " " + py.toFixed(1)).join(" ");
    const drawn = (values) => values.map((v, i) => [i, v]).filter(([, v]) => v !== null).map(([i, v]) => [x(i), y(v)]);
    const step = Math.ceil(n / Math.max(2, Math.floor((width - left) / 34)));
    let last = -Infinity;  // where the last name of a column stands
    const named = (i) => {
      if (at ? x(i) - last < 30 : i % step) return false;
      last = x(i);
      return true;
    };
    const ticks = LensDiff.ticks(low, high);
    const cursor = svg("line", { class: "ld-cursor", y1: top, y2: height - bottom });
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "ld-lines", tabindex: 0, role: "slider",
      "aria-label": label, "aria-valuemin": 0, "aria-valuemax": n - 1 },
      ticks.map((t) => [svg("line", { class: "ld-grid", x1: left, x2: width - right, y1: y(t), y2: y(t) }),
        svg("text", { class: "ld-label", x: left - 6, y: y(t) + 4, "text-anchor": "end" }, number(t))]),
      columns.map((c, i) => (!named(i) ? null : svg("text", { class: "ld-label", x: x(i), y: height - bottom + 16, "text-anchor": "middle" }, String(c)))),
      svg("text", { class: "ld-label", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, axis),
      svg("text", { class: "ld-label", x: 12, y: (height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(height - bottom) / 2})` }, unit),
      bands.map((b) => svg("path", { class: "ld-band" + (b.outline ? " ld-outline" : "") + (b.dotted ? " ld-dotted" : ""),
        d: path([...drawn(b.low), ...drawn(b.high).reverse()]) + " Z" })),
      dots.flatMap((d) => d.values.flatMap((values, i) => values.map((v) => svg("circle", { class: "control", cx: x(i), cy: y(v), r: 2.5, opacity: 0.6 })))),
      series.map((s) => [
        ...(s.low || []).map((v, i) => (v === null ? null : svg("line", { class: "ld-error " + s.role, x1: x(i), x2: x(i), y1: y(v), y2: y(s.high[i]) }))),
        svg("path", { class: "ld-line " + s.role, d: path(drawn(s.values)) }),
        ...drawn(s.values).map(([cx, cy]) => svg("circle", { class: s.role, cx, cy, r: 3 })),
      ]),
      cursor);
    const choose = (i) => {
      chosen = Math.max(0, Math.min(n - 1, i));
      cursor.setAttribute("x1", x(chosen));
      cursor.setAttribute("x2", x(chosen));
      const text = describe(chosen);
      status.textContent = text;
      picture.setAttribute("aria-valuenow", chosen);
      picture.setAttribute("aria-valuetext", text);
      if (onchoose) onchoose(chosen);
    };
    const nearest = (event) => {
      const box = picture.getBoundingClientRect();
      const place = ((event.clientX - box.left) / box.width) * width;
      return columns.reduce((best, _, i) => (Math.abs(x(i) - place) < Math.abs(x(best) - place) ? i : best), 0);
    };
    picture.addEventListener("pointerdown", (event) => choose(nearest(event)));
    picture.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") choose(nearest(event)); });
    picture.addEventListener("keydown", (event) => {
      const to = { ArrowRight: chosen + 1, ArrowUp: chosen + 1, ArrowLeft: chosen - 1, ArrowDown: chosen - 1, Home: 0, End: n - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(to);
    });
    const focused = area.contains(document.activeElement);
    area.replaceChildren(picture);
    choose(chosen);
    if (focused) picture.focus();
  };

  let width = 0;
  const fit = () => {
    const next = Math.round(Math.max(260, Math.min(820, area.clientWidth || 640)));
    if (next !== width) draw((width = next));
  };
  new ResizeObserver(fit).observe(area);
  queueMicrotask(fit);
  const legend = make("p", { class: "ld-note ld-legend" },
    series.map((s) => make("span", {}, make("span", { class: "ld-swatch " + s.role }), s.name)),
    bands.map((b) => make("span", {}, make("span", { class: "ld-swatch ld-band-key" + (b.outline ? " ld-outline" : "") + (b.dotted ? " ld-dotted" : "") }), b.name)),
    dots.map((d) => make("span", {}, make("span", { class: "ld-swatch control" }), d.name)));
  return make("div", { class: "ld-chart" }, legend, area, status);
};

// a few round numbers from low to high
LensDiff.ticks = (low, high) => {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
};
