"use strict";
// The forced response, coloured by how far the two models' next-token distributions are apart; a chosen token shows both.
LensDiff.views.outputs = (root, data) => {
  const { make, number, visible } = LensDiff;
  const end = make("span", {});
  const body = make("div", {});
  const draw = (index) => body.replaceChildren(one(data.prompts[index]));
  if (data.prompts.length > 1) {
    const select = make("select", { onchange: (event) => draw(Number(event.target.value)) },
      data.prompts.map((prompt, i) => make("option", { value: i }, prompt.label)));
    root.append(make("label", {}, "Prompt: ", select));
  }
  root.append(make("p", { class: "ld-legend ld-note" },
    make("span", {}, "the models differ by 0", make("span", { class: "ld-ramp" }), end),
    make("span", {}, make("span", { class: "ld-key", style: "color:var(--tuned);border-bottom-style:dashed" }), "marginal: the tuned model's choice is second or third for the base"),
    make("span", {}, make("span", { class: "ld-key", style: "color:var(--tuned)" }), "shifted: beyond the third")), body);
  if (data.prompts.length) draw(0);

  function one(prompt) {
    const panel = make("div", { "aria-live": "polite" });
    const tokens = LensDiff.choices(prompt.tokens.map((t) => visible(t) || " "), (i) => panel.replaceChildren(...detail(prompt, i)), "response tokens");
    tokens.classList.add("ld-tokens");
    const colour = (measure) => {
      const values = prompt[measure], top = Math.max(...values.map((v) => v ?? 0), 0);
      end.textContent = number(top) + (measure === "kl" ? " nats" : "");
      [...tokens.children].forEach((button, i) => {
        const share = values[i] === null ? 100 : top > 0 ? Math.round(100 * values[i] / top) : 0;
        button.style.setProperty("--share", share);
        button.className = "ld-choice " + prompt.kinds[i] + (share > 55 ? " ld-strong" : "");
        button.title = `${prompt.kinds[i]}; ${measure === "kl" ? "KL" : "JS distance"} ${values[i] === null ? "∞" : number(values[i])}`;
      });
    };
    const measures = LensDiff.options("colour", ["KL(tuned ‖ base), nats", "Jensen-Shannon distance"], (i) => colour(i ? "js" : "kl"));
    measures.choose(0);
    if (prompt.tokens.length) tokens.choose(prompt.first);
    return make("div", {}, make("p", { class: "ld-long" }, prompt.label), make("p", { class: "ld-note" }, prompt.facts), measures.element,
      make("h4", {}, prompt.tokens.length ? "Response, the same for both models" : "Response: empty"), tokens, LensDiff.ending(prompt.end), panel,
      make("details", {}, make("summary", {}, "Vocabulary entries whose mean probability over the response changed most"),
        LensDiff.table("tuned − base", ["token", "base", "tuned", "difference"], prompt.changed)));
  }

  function detail(prompt, i) {
    const name = `Token ${i} “${visible(prompt.tokens[i])}”`;
    return [
      make("p", { class: "ld-long" }, `${name}: ${prompt.kinds[i]}; KL ${prompt.kl[i] === null ? "∞" : number(prompt.kl[i])} nats, JS distance ${number(prompt.js[i])}; the tuned model's choice has rank ${prompt.choice_rank[i]} in the base.`),
      make("div", { class: "ld-sides" }, ["base", "tuned"].map((role, m) =>
        make("section", { class: "ld-side " + role },
          make("h4", { class: "ld-long" }, prompt.names[m]),
          make("p", { class: "ld-note" }, `this token: rank ${prompt.ranks[m][i]}, probability ${number(prompt.probabilities[m][i])}`),
          make("div", { class: "ld-bars" }, prompt.likely[m][i].flatMap(([word, p]) => [
            make("span", { class: "ld-word" + (prompt.words[word] === prompt.tokens[i] ? " ld-this" : "") }, visible(prompt.words[word])),
            make("span", {}, make("div", { class: "ld-bar", style: `width:${100 * p}%` })),
            make("span", { class: "ld-note" }, number(p)),
          ]))))),
    ];
  }
};
