"use strict";
// What a response loses where attention to its instruction is cut. Colours are the roles': base, tuned, control.

// Each model's response, a token above two bars: what it loses (hollow: gains), and beside it, grey, how unlikely it was anyway.
LensDiff.views.knock_out_tokens = (root, data) => {
  const { make, number, visible } = LensDiff;
  let response = data.responses[0], way = 0, token = 0;
  const body = make("div", {}), status = make("p", { class: "ld-note ld-status ld-long", "aria-live": "polite" });
  const ways = LensDiff.options("attention to the instruction", data.ways, (i) => { way = i; draw(); });
  if (data.ways.length < 2) ways.element.hidden = true;
  if (data.responses.length > 1) {
    const select = make("select", { onchange: (event) => { response = data.responses[Number(event.target.value)]; token = first(); draw(); } },
      data.responses.map((r, i) => make("option", { value: i }, visible(r.label))));
    root.append(make("label", {}, "Response: ", select));
  }
  root.append(ways.element, make("p", { class: "ld-note ld-legend" },
    make("span", {}, make("span", { class: "ld-knock-key" }), "what the token loses (hollow: gains)"),
    make("span", {}, make("span", { class: "ld-knock-key ld-unlikely" }), "−log p: how unlikely it was anyway")), body, status);

  // the token that loses most in the last model
  function first() {
    const drops = response.models[response.models.length - 1].drop[way];
    return Math.max(0, drops.indexOf(Math.max(...drops.filter((v) => v !== null))));
  }

  function describe() {
    const said = response.models.map((m) => {
      const other = m.random[way][token];
      return `${m.name}: loses ${number(m.drop[way][token])} nats, log p ${number(m.log_prob[token])}` + (other === null ? "" : `, with other tokens cut ${number(other)}`);
    });
    status.textContent = response.tokens.length ? `Token ${token} “${visible(response.tokens[token])}”; ${said.join("; ")}.` : "The response is empty.";
  }

  function draw() {
    const known = response.models.flatMap((m) => [...m.drop[way], ...m.log_prob]).filter((v) => v !== null);
    const most = Math.max(1e-9, ...known.map(Math.abs)), tall = (v) => `height:${Math.max(1, Math.round(44 * Math.abs(v ?? 0) / most))}px`;
    const rows = [];
    const choose = (i) => {
      token = i;
      rows.forEach((row) => [...row.children].forEach((b, k) => { b.setAttribute("aria-pressed", String(k === i)); b.tabIndex = k === i ? 0 : -1; }));
      describe();
    };
    body.replaceChildren(make("p", { class: "ld-note ld-long" }, response.facts), ...response.models.map((m) => {
      const row = LensDiff.choices(response.tokens.map((text, i) => [
        make("span", { class: "ld-knock-bars" },
          make("span", { class: "ld-knock-bar" + (m.drop[way][i] < 0 ? " ld-gain" : ""), style: tall(m.drop[way][i]) }),
          make("span", { class: "ld-knock-bar ld-unlikely", style: tall(m.log_prob[i]) })),
        make("span", {}, visible(text) || " ")]), choose, `response in ${m.name}`);
      row.classList.add("ld-knock");
      rows.push(row);
      return make("section", { class: "ld-side " + m.role }, make("h4", { class: "ld-long" }, m.name), row);
    }));
    if (response.tokens.length) choose(token); else describe();
  }
  if (!data.responses.length) { root.replaceChildren(make("p", {}, "No response could be read.")); return; }
  token = first();
  ways.choose(0);
};

// Both models over windows of layers, before as many other tokens cut, and over the response, before controls.
LensDiff.views.knock_out = (root, data) => {
  const { make, number } = LensDiff;
  let text = 0, way = 0;
  const body = make("div", {});
  const texts = LensDiff.options("text", data.texts, (i) => { text = i; draw(); });
  const ways = LensDiff.options("attention to the instruction", data.ways, (i) => { way = i; draw(); });
  if (data.texts.length < 2) texts.element.hidden = true;
  root.append(texts.element, ways.element, body, ...data.facts.map((fact) => make("p", { class: "ld-note ld-long" }, fact)));

  function chart(found, axis, label) {
    const range = (line, i) => (line.low[i] === null ? "" : ` (${number(line.low[i])} to ${number(line.high[i])})`);
    const said = (line, i) => `${line.name} ${line.values.length ? number(line.values[i]) : ""}${range(line, i)}`;
    const limits = (line) => (line.low.every((v) => v === null) ? { ...line, low: null, high: null } : line);
    const bands = found.bands.filter((b) => b.low.some((v) => v !== null)).map((b) => ({ ...b, outline: b.role === "tuned" }));
    return make("section", {}, make("h4", {}, label), LensDiff.lines({
      columns: found.columns, axis, unit: "nats per token", label, bands, series: found.series.map(limits),
      dots: found.dots.length ? [{ name: "controls", values: found.dots }] : [],
      describe: (i) => `${axis} ${found.columns[i]}: ` + [...found.series, ...bands].map((line) => said(line, i).trim()).join(", "),
    }));
  }

  function draw() {
    const found = data.found[text][way];
    body.replaceChildren(...found.facts.map((fact) => make("p", { class: "ld-note ld-long" }, fact)), make("div", { class: "ld-sides" },
      chart(found.profile, "part of the response, %", "Loss over the response, all layers cut"),
      chart(found.windows, "layers cut", "Loss by the layers that are cut")));
  }
  texts.choose(0);
  ways.choose(0);
};
