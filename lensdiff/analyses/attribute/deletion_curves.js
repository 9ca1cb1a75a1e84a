"use strict";
// Both models as the prompt's tokens go, the most important ones first, and their difference, before random orders. Colours are the roles'.
LensDiff.views.deletion_curves = (root, data) => {
  const { make, number } = LensDiff;
  let order = 0, way = 0;
  const body = make("div", {});
  const orders = LensDiff.options("most important by", data.orders, (i) => { order = i; draw(); });
  const ways = LensDiff.options("what is drawn", data.ways, (i) => { way = i; draw(); });
  if (data.orders.length < 2) orders.element.hidden = true;
  root.append(orders.element, ways.element, body, ...data.facts.map((fact) => make("p", { class: "ld-note ld-long" }, fact)));

  function chart(found) {
    const bands = found.bands.map((b) => ({ ...b, outline: b.role === "tuned" && found.bands.length > 1 }));
    const said = (i) => [...found.series.map((s) => `${s.name} ${number(s.values[i])}`), ...bands.map((b) => `${b.name} ${number(b.low[i])} to ${number(b.high[i])}`)];
    return make("section", {}, make("h4", {}, found.label), LensDiff.lines({
      columns: data.columns, axis: `${data.ways[way]}, %`, unit: "nats per token", label: found.label, series: found.series, bands,
      describe: (i) => `${data.columns[i]} % of the ${data.ways[way]}: ${said(i).join("; ")}.`,
    }));
  }

  function draw() {
    const found = data.found[order][way];
    body.replaceChildren(...found.facts.map((fact) => make("p", { class: "ld-note ld-long" }, fact)),
      make("div", { class: found.charts.length > 1 ? "ld-sides" : "" }, found.charts.map(chart)));
  }
  orders.choose(data.orders.length - 1);
  ways.choose(0);
};
