"use strict";
// A row per prompt: its instruction use in each model, before a band of controls, or their dots where they are few. The axis and the
// mean stay where they are while the rows scroll. One row is chosen, by pointing or with the arrow keys; its values are said below.
LensDiff.views.instruction_use = (root, data) => {
  const { make, svg, number } = LensDiff;
  const height = 20, right = 14, axis = 34;
  const area = make("div", {}), status = make("p", { class: "ld-note ld-status", "aria-live": "polite" });
  const said = make("div", {});
  let text = data.texts[0], chosen = 0, width = 0;
  const chooser = LensDiff.options("text", data.texts.map((t) => t.name), (i) => { text = data.texts[i]; chosen = 0; draw(); });
  const some = data.texts.flatMap((t) => t.rows);
  const grey = some.some((row) => row.band) ? "where one more control lies" : some.some((row) => row.controls.length) ? "controls" : null;
  root.append(...data.facts.map((fact) => make("p", { class: "ld-note ld-long" }, fact)), chooser.element, said,
    make("p", { class: "ld-note ld-legend" },
      data.models.map((m) => make("span", { class: "ld-long" }, make("span", { class: "ld-swatch " + m.role }), m.name)),
      grey ? make("span", {}, make("span", { class: "ld-swatch control" }), grey) : null),
    area, status);
  if (data.texts.length < 2) chooser.element.hidden = true;

  function describe(row) {
    const models = data.models.map((m, i) => `${m.name} ${number(row.values[i])}`);
    if (models.length > 1) models.push(`difference ${number(row.values[1] - row.values[0])}`);
    if (row.band) models.push(`one more control's own use ${number(row.band[0])} to ${number(row.band[1])}`);
    if (row.controls.length) models.push(`own use of ${LensDiff.count(row.controls.length, "control")} ${number(Math.min(...row.controls))} to ${number(Math.max(...row.controls))}`);
    return `${LensDiff.visible(row.id)}: ${models.join(", ")} nats per token`;
  }

  function draw() {
    if (!width) return;
    said.replaceChildren(...text.facts.map((fact) => make("p", { class: "ld-note ld-long" }, fact)));
    const rows = text.rows;
    if (!rows.length) { area.replaceChildren(make("p", {}, "No prompt has a use on this text.")); status.textContent = ""; return; }
    const known = [0, ...rows.flatMap((row) => [...row.values, ...(row.band || []), ...row.controls])];
    const low = Math.min(...known), high = Math.max(...known) > low ? Math.max(...known) : low + 1;
    const left = Math.round(Math.min(220, width * 0.32)), x = (v) => left + 8 + ((v - low) / (high - low)) * (width - left - 8 - right);
    const ticks = LensDiff.ticks(low, high), step = Math.ceil(ticks.length / Math.max(2, Math.floor((width - left) / 60)));
    const letters = Math.floor(left / 7);
    const short = (name) => { const all = [...LensDiff.visible(name)]; return all.length > letters ? all.slice(0, letters - 1).join("") + "…" : all.join(""); };
    const grid = (from, to) => ticks.map((t) => svg("line", { class: t === 0 ? "ld-zero" : "ld-grid", x1: x(t), x2: x(t), y1: from, y2: to }));
    const marks = (values, y, size) => [
      values.length > 1 ? svg("line", { class: "ld-grid ld-between", x1: x(values[0]), x2: x(values[1]), y1: y, y2: y }) : null,
      ...values.map((v, i) => svg("circle", { class: data.models[i].role, cx: x(v), cy: y, r: size })),
    ];
    const head = svg("svg", { viewBox: `0 0 ${width} ${axis + height}`, width, height: axis + height, class: "ld-rows", role: "img",
      "aria-label": "mean over prompts: " + data.models.map((m, i) => `${m.name} ${number(text.means[i])}`).join(", ") },
      svg("text", { class: "ld-label", x: width - right, y: 12, "text-anchor": "end" }, "instruction use, nats per token"),
      ticks.map((t, i) => (i % step ? null : svg("text", { class: "ld-label", x: x(t), y: axis - 6, "text-anchor": "middle" }, number(t)))),
      grid(axis, axis + height), marks(text.means, axis + height / 2, 6),
      svg("text", { class: "ld-label ld-strong-label", x: left, y: axis + height / 2 + 4, "text-anchor": "end" }, "mean"));
    const spot = svg("rect", { class: "ld-row-spot", x: 0, width, height });
    const body = svg("svg", { viewBox: `0 0 ${width} ${height * rows.length}`, width, height: height * rows.length, class: "ld-rows", tabindex: 0,
      role: "slider", "aria-orientation": "vertical", "aria-label": "instruction use by prompt", "aria-valuemin": 0, "aria-valuemax": rows.length - 1 },
      spot, grid(0, height * rows.length),
      rows.map((row, i) => {
        const y = height * (i + 0.5);
        return [svg("text", { class: "ld-label", x: left, y: y + 4, "text-anchor": "end" }, short(row.id)),
          row.band ? svg("rect", { class: "ld-band", x: x(row.band[0]), y: y - 6, width: Math.max(1, x(row.band[1]) - x(row.band[0])), height: 12, rx: 3 }) : null,
          ...row.controls.map((v) => svg("circle", { class: "control", cx: x(v), cy: y, r: 2.5, opacity: 0.6 })),
          ...marks(row.values, y, 4.5)];
      }));
    const choose = (i) => {
      chosen = Math.max(0, Math.min(rows.length - 1, i));
      spot.setAttribute("y", chosen * height);
      status.textContent = describe(rows[chosen]);
      body.setAttribute("aria-valuenow", chosen);
      body.setAttribute("aria-valuetext", status.textContent);
    };
    const nearest = (event) => { const box = body.getBoundingClientRect(); return Math.floor(((event.clientY - box.top) / box.height) * rows.length); };
    body.addEventListener("pointerdown", (event) => choose(nearest(event)));
    body.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") choose(nearest(event)); });
    const list = make("div", { class: "ld-rows-list", style: `max-width: ${width + 16}px` }, body);
    body.addEventListener("keydown", (event) => {
      const to = { ArrowDown: chosen + 1, ArrowRight: chosen + 1, ArrowUp: chosen - 1, ArrowLeft: chosen - 1, Home: 0, End: rows.length - 1,
        PageDown: chosen + 10, PageUp: chosen - 10 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(to);
      const top = chosen * height;
      if (top < list.scrollTop) list.scrollTop = top;
      if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
    });
    const focused = area.contains(document.activeElement);
    area.replaceChildren(head, list);
    choose(chosen);
    if (focused) body.focus();
  }

  const fit = () => {
    const next = Math.round(Math.max(260, Math.min(820, (area.clientWidth || 640) - 16)));
    if (next !== width) { width = next; draw(); }
  };
  new ResizeObserver(fit).observe(area);
  chooser.choose(0);
  queueMicrotask(fit);
};
