"use strict";
// What the views share. Text always goes in as text nodes, never as HTML.
const LensDiff = {
  views: {},

  // make("p", {class: "note"}, "text", child): an element with attributes, text and children
  make(tag, attributes, ...children) {
    return LensDiff.fill(document.createElement(tag), attributes, children);
  },

  // the same for a drawing
  svg(tag, attributes, ...children) {
    return LensDiff.fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  },

  fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
    }
    for (const child of children.flat(2)) if (child !== null && child !== undefined) element.append(child);
    return element;
  },

  // a colour of the page as it is now, "rgb(...)"
  colour(name) {
    const probe = LensDiff.make("span", { style: `color: var(${name}); display: none` });
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  },

  // within a notebook: the page takes the theme that its frame is told, and tells how tall it is
  framed() {
    if (parent === window) return;
    let told = 0;
    const tell = () => {
      const height = Math.ceil(document.body.getBoundingClientRect().height) + 4;
      if (Math.abs(height - told) > 1) parent.postMessage({ lensdiff: (told = height) }, "*");
    };
    addEventListener("message", (event) => {
      const theme = event.source === parent && event.data ? event.data.lensdiff : null;
      if (theme !== "light" && theme !== "dark") return;
      document.documentElement.dataset.theme = theme;
      told = 0;
      tell();
    });
    new ResizeObserver(tell).observe(document.body);
  },

  // a token as it is shown: line breaks and tabs made visible
  visible(token) {
    return token.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍");
  },

  // "1 prompt", "2 prompts"
  count(n, noun) {
    return `${n} ${noun}${n === 1 ? "" : "s"}`;
  },

  // significant digits for people
  number(value, digits = 3) {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e5 ? Number(value.toPrecision(digits)).toString() : value.toExponential(digits - 1);
  },

  // a row of buttons of which one is pressed; arrow keys, Home, End, PageUp and PageDown (ten at a time) move, onchoose(index) is called
  choices(labels, onchoose, label) {
    const buttons = labels.map((text, index) =>
      LensDiff.make("button", { type: "button", class: "ld-choice", "aria-pressed": "false", tabindex: -1, onclick: () => choose(index) }, text)
    );
    let chosen = -1;
    const choose = (index, focus) => {
      for (const i of [chosen, index]) {
        if (i < 0) continue;
        buttons[i].setAttribute("aria-pressed", String(i === index));
        buttons[i].tabIndex = i === index ? 0 : -1;
      }
      chosen = index;
      if (focus) buttons[index].focus();
      onchoose(index);
    };
    const row = LensDiff.make("div", { class: "ld-choices", role: "group", "aria-label": label }, buttons);
    row.addEventListener("keydown", (event) => {
      const at = buttons.indexOf(document.activeElement), n = buttons.length;
      const to = { ArrowRight: (at + 1) % n, ArrowDown: (at + 1) % n, ArrowLeft: (at - 1 + n) % n, ArrowUp: (at - 1 + n) % n,
        Home: 0, End: n - 1, PageDown: Math.min(at + 10, n - 1), PageUp: Math.max(at - 10, 0) }[event.key];
      if (to === undefined || at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      choose(to, true);
    });
    row.choose = choose;
    return row;
  },

  // circuitsvis draws into an element of its own, new each time (it keeps a root per element)
  circuitsvis(parent, component, props) {
    const id = "cv-" + LensDiff.made++;
    parent.append(LensDiff.make("span", { id, class: "ld-cv" }));
    // it looks its element up in the document, which the caller may not have entered yet
    queueMicrotask(() => { if (document.getElementById(id)) CircuitsVis.render(id, CircuitsVis[component], LensDiff.inert(props)); });
  },

  // circuitsvis writes tokens as HTML (ColoredTokens, the attention patterns). A word joiner after "<" and "&" is invisible and
  // keeps either from beginning a tag or a character reference, in HTML and in its tooltips, which are text
  inert(value) {
    if (typeof value === "string") return value.replace(/[<&]/g, "$&\u2060");
    if (Array.isArray(value)) return value.map(LensDiff.inert);
    if (value === null || value === undefined || Object.getPrototypeOf(value) !== Object.prototype) return value;
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, LensDiff.inert(inner)]));
  },
  made: 1,

  // numbers from -1 to 1, packed by `packed` of the widget's module
  unpack(text) {
    return Float32Array.from(atob(text), (character) => ((character.charCodeAt(0) << 24) >> 24) / 127);
  },

  // a table of the page, gzipped, becomes a file
  async download(button) {
    const bytes = Uint8Array.from(atob(button.dataset.csv), (character) => character.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const url = URL.createObjectURL(new Blob([await new Response(unpacked).blob()], { type: "text/csv" }));
    LensDiff.make("a", { href: url, download: button.dataset.name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  },

  start() {
    for (const button of document.querySelectorAll(".ld-download")) button.addEventListener("click", () => LensDiff.download(button));
    for (const element of document.querySelectorAll(".ld-widget:not([data-ready])")) {
      element.setAttribute("data-ready", "");
      const data = JSON.parse(element.querySelector("script[type='application/json']").textContent);
      LensDiff.views[element.dataset.view](element, data);
    }
  },
};
document.addEventListener("DOMContentLoaded", LensDiff.start);
document.addEventListener("DOMContentLoaded", LensDiff.framed);
// paper cannot be unfolded
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details:not(.ld-keep-folded, .ld-table details)")) part.open = true; });
