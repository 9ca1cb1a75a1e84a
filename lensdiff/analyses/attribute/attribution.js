"use strict";
// Choose a response token; the prompt's words take its colours. "whole response" shows the importance density. What is drawn once stays: a
// chosen token changes colours and captions alone, so that 500 prompt and 300 response tokens answer at once.
LensDiff.views.attribution = (root, data) => {
  const { make } = LensDiff;
  const body = make("div", {});
  let panels = [];
  const search = LensDiff.tokenSearch(() => panels);
  const draw = (index) => {
    panels = data.prompts[index].sides.map(LensDiff.attributionSide);
    body.replaceChildren(...(panels.length ? [make("div", { class: "ld-sides" }, panels.map((panel) => panel.element))] : []));
    for (const panel of panels) panel.row.choose(0);
    search.again();
  };
  if (data.prompts.length > 1) {
    const select = make("select", { onchange: (event) => draw(Number(event.target.value)) },
      data.prompts.map((prompt, i) => make("option", { value: i }, prompt.label)));
    root.append(make("label", {}, "Prompt: ", select));
    document.addEventListener("ld-prompt", (event) => { // another view of the page asks for a prompt
      const index = data.prompts.findIndex((prompt) => prompt.id === event.detail);
      if (index < 0) return;
      select.value = index;
      draw(index);
      root.scrollIntoView({ block: "start" });
      select.focus({ preventScroll: true });
    });
  }
  root.append(
    make("p", { class: "ld-legend ld-note" },
      make("span", {}, make("span", { class: "ld-key", style: "color:#6f42c1" }), "instruction"),
      make("span", {}, make("span", { class: "ld-key", style: "color:#1a7f5a;border-bottom-style:dashed" }), "context"),
      ...(data.prompts.some((prompt) => prompt.sides.some((side) => side.parts.includes("template")))
        ? [make("span", {}, make("span", { class: "ld-key", style: "color:#8c959f;border-bottom-style:dotted" }), "chat template")] : []),
      make("span", {}, "coloured: supports the chosen response token; grey: speaks against it")),
    search.element, body);
  draw(0);
};

// One model's map: its element, the row of response tokens, the prompt's tokens and what shows one of them
LensDiff.attributionSide = (side) => {
  const { make, visible, number } = LensDiff;
  const NAMES = { instruction: "instruction", context: "context", template: "chat template", "": "unmarked text" };
  const scores = LensDiff.unpack(side.scores), width = side.out_tokens.length; // each column relative to its largest
  const ink = LensDiff.rgb(LensDiff.colour(side.role === "tuned" ? "--tuned" : "--base")), grey = LensDiff.rgb("#8c959f");
  const largest = Math.max(...side.density, 0);
  const tokens = side.in_tokens.map((text, n) =>
    make("span", { class: "ld-token" + (/[\n\r]/.test(text) ? " ld-break" : ""), "data-n": n }, text));
  const word = (n) => visible(side.in_tokens[n]).trim() || "␣"; // as a caption names it
  const value = (n, column) => (column ? scores[n * width + column - 1] : largest ? side.density[n] / largest : 0);
  let column = 0, shown = -1; // what is chosen, and which of its highest tokens was shown last

  const folds = side.segments.map((segment) => fold(segment));
  const painted = make("div", { class: "ld-prompt", tabindex: 0, role: "region", "aria-label": "prompt of " + side.name }, parts());
  painted.addEventListener("mouseover", (event) => {
    const n = event.target.dataset && event.target.dataset.n;
    if (n !== undefined) event.target.title = about(Number(n));
  });
  const caption = make("p", { class: "ld-note ld-caption", "aria-live": "polite" });
  const found = make("span", { class: "ld-note", "aria-live": "polite" });
  const next = make("button", { type: "button", class: "ld-highest", onclick: () => showHighest() }, "Show the highest");
  const row = LensDiff.choices(["whole response", ...side.out_tokens.map(visible)], choose, "response tokens of " + side.name);
  const element = make("section", { class: "ld-side " + side.role },
    make("h4", {}, side.name),
    make("p", { class: "ld-note ld-facts" }, side.facts),
    painted, caption, width ? make("p", { class: "ld-note" }, next, " ", found) : null,
    make("h4", {}, width ? "Response" : "Response: empty"), row);
  return { element, row, tokens, show, out_tokens: side.out_tokens, in_tokens: side.in_tokens, name: side.name };

  // consecutive tokens of one part; those of a long one can be folded
  function parts() {
    const made = [];
    for (let start = 0; start < tokens.length; ) {
      let end = start + 1;
      while (end < tokens.length && side.parts[end] === side.parts[start]) end++;
      const folded = folds.find((one) => one.segment.start === start);
      const words = make("span", { class: "ld-segment " + side.parts[start], id: folded ? folded.id : null }, tokens.slice(start, end));
      if (folded) made.push(folded.button);
      if (folded) folded.words = words;
      made.push(words);
      start = end;
    }
    return made;
  }

  function fold(segment) {
    const id = "ld-segment-" + LensDiff.made++;
    const one = { segment, id, open: true, button: make("button", { type: "button", class: "ld-fold", "aria-controls": id, onclick: () => turn(one, !one.open) }) };
    return one;
  }

  function turn(one, open) {
    one.open = open;
    one.words.hidden = !open;
    describe();
  }

  // what a segment holds of the chosen response token's support; the sums are those of exact scores
  function label(one) {
    const { part, start, end, support, against } = one.segment, count = end - start;
    const percent = (share) => (100 * share).toFixed(1) + " %";
    const holds = column ? percent(support[column]) + " of what supports the token" + (against[column] ? ", " + percent(against[column]) + " of what speaks against it" : "")
      : percent(support[0]) + " of the importance density";
    const best = side.highest[column].filter((n) => n >= start && n < end)[0];
    const top = best === undefined ? "" : "; holds “" + word(best) + "”, the " + LensDiff.place(side.highest[column].indexOf(best)) + "highest";
    return (one.open ? "▾ " : "▸ ") + NAMES[part] + ", " + LensDiff.count(count, "token") + ": " + holds + (one.open ? "" : top);
  }

  function choose(index) {
    column = index;
    shown = -1;
    tokens.forEach((token, n) => {
      const strength = value(n, index), colour = LensDiff.mixed(strength < 0 ? grey : ink, Math.abs(strength));
      if (token.style.backgroundColor !== colour) token.style.backgroundColor = colour;
    });
    found.textContent = "";
    next.textContent = "Show the highest";
    next.disabled = !side.highest[index].length;
    describe();
  }

  function describe() {
    const first = side.highest[column][0], inside = folds.find((one) => !one.open && first >= one.segment.start && first < one.segment.end);
    const where = first === undefined ? "" : " at “" + word(first) + "”" + (inside ? ", in the " + NAMES[inside.segment.part] + " that is folded" : "");
    caption.textContent = column === 0
      ? "Importance density over the whole response; largest " + number(largest) + where
      : "Response token " + (column - 1) + " “" + visible(side.out_tokens[column - 1]) + "”, probability " + number(side.probabilities[column - 1]) +
        (first === undefined ? "; no prompt token supports it" : "; largest score " + number(side.largest[column - 1]) + where);
    for (const one of folds) {
      one.button.textContent = label(one);
      one.button.setAttribute("aria-expanded", String(one.open));
    }
  }

  function about(n) {
    const strength = Math.round(100 * Math.abs(value(n, column))); // packed in 127 steps: right within a point
    const of = column ? (value(n, column) < 0 ? " of the largest, against" : " of the largest") : " of the largest density";
    return "“" + word(n) + "”, token " + n + ": about " + strength + " %" + of;
  }

  // a token of the prompt, unfolded if need be, in sight
  function show(n) {
    const one = folds.find((other) => n >= other.segment.start && n < other.segment.end);
    if (one && !one.open) turn(one, true);
    tokens[n].scrollIntoView({ block: "nearest" });
  }

  function showHighest() {
    const highest = side.highest[column];
    shown = (shown + 1) % highest.length;
    const n = highest[shown];
    for (const token of painted.querySelectorAll(".ld-shown")) token.classList.remove("ld-shown");
    tokens[n].classList.add("ld-shown");
    show(n);
    found.textContent = LensDiff.ordinal(shown) + ": " + about(n);
    next.textContent = shown + 1 < highest.length ? "Show the next highest" : "Show the highest";
  }
};

// A field that finds text in the tokens of every panel, prompts and responses: Enter the next one, Shift+Enter the one before.
LensDiff.tokenSearch = (panels) => {
  const { make } = LensDiff;
  let hits = [], at = -1;
  const said = make("span", { class: "ld-note", role: "status" });
  const field = make("input", { type: "search", class: "ld-search", autocomplete: "off", spellcheck: "false", oninput: () => look() });
  const element = make("div", { role: "search", class: "ld-searching" }, make("label", {}, "Find a word: ", field), " ", said);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") field.value = "";
    if (event.key === "Escape") look();
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (hits.length) go((at + (event.shiftKey ? (at < 0 ? 0 : -1) : 1) + hits.length) % hits.length);
  });
  return { element, again: look };

  function look() {
    unmark();
    at = -1;
    const wanted = field.value.toLowerCase();
    hits = wanted.trim() ? panels().flatMap((panel) => [["prompt", panel.in_tokens], ["response", panel.out_tokens]]
      .flatMap(([where, tokens]) => LensDiff.spansOf(wanted, tokens).map((span) => ({ panel, where, span })))) : [];
    for (const hit of hits) for (const token of marked(hit)) token.classList.add("ld-found");
    said.textContent = !wanted.trim() ? "" : hits.length ? hits.length + " found: Enter for the next, Shift+Enter for the one before" : "“" + field.value + "” not found";
  }

  function go(index) {
    at = index;
    for (const token of document.querySelectorAll(".ld-now")) token.classList.remove("ld-now");
    const hit = hits[at], [first] = hit.span;
    if (hit.where === "prompt") hit.panel.show(first);
    else hit.panel.row.choose(first + 1);
    const tokens = marked(hit);
    for (const token of tokens) token.classList.add("ld-now");
    tokens[0].scrollIntoView({ block: "nearest" });
    said.textContent = at + 1 + " of " + hits.length + ": " + hit.where + " of " + hit.panel.name + ", token " + first;
  }

  function marked({ panel, where, span: [first, last] }) {
    return where === "prompt" ? panel.tokens.slice(first, last + 1) : [...panel.row.children].slice(first + 1, last + 2);
  }

  function unmark() {
    for (const panel of panels()) for (const token of panel.element.querySelectorAll(".ld-found")) token.classList.remove("ld-found", "ld-now");
  }
};

// the first and last token of every place where a text stands, across tokens; capitals count as small letters
LensDiff.spansOf = (wanted, tokens) => {
  const small = tokens.map((token) => token.toLowerCase()), starts = [];
  let text = "";
  for (const token of small) { starts.push(text.length); text += token; }
  const holding = (place) => { // the last token that begins there or before
    let low = 0, high = starts.length - 1;
    while (low < high) { const middle = (low + high + 1) >> 1; if (starts[middle] <= place) low = middle; else high = middle - 1; }
    return low;
  };
  const found = [];
  for (let place = text.indexOf(wanted); place >= 0; place = text.indexOf(wanted, place + wanted.length)) found.push([holding(place), holding(place + wanted.length - 1)]);
  return found;
};

// "", "2nd ", "3rd ": of places counted from 0
LensDiff.place = (index) => (index ? index + 1 + ([, "nd", "rd"][index] || "th") + " " : "");
LensDiff.ordinal = (index) => (index ? LensDiff.place(index) + "highest" : "Highest");
LensDiff.rgb = (colour) => (colour.startsWith("#") ? [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)) : colour.match(/\d+/g).slice(0, 3).map(Number));
// a colour on white, never so strong that the text on it is hard to read
LensDiff.mixed = (rgb, strength) => "rgb(" + rgb.map((part) => Math.round(255 + (part - 255) * 0.7 * strength)).join(", ") + ")";
