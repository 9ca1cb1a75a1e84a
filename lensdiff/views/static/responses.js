"use strict";
// A token that ends a response, as a response's last mark; one that was cut off says so. Nothing where nobody knows.
LensDiff.ending = (end) => (end ? LensDiff.make("span", { class: "ld-end", title: "the model ended its response here" }, LensDiff.visible(end))
  : end === "" ? LensDiff.make("span", { class: "ld-cut", title: "the response was longer" }, "… cut off here") : null);

// Both models' responses to a chosen prompt as plain text; what follows the place where they part is underlined.
LensDiff.views.responses = (root, data) => {
  const { make, visible } = LensDiff;
  const body = make("div", { "aria-live": "polite" });
  if (data.prompts.length > 1) {
    root.append(make("label", { class: "ld-note" }, "Responses to ", make("select", { onchange: (event) => draw(Number(event.target.value)) },
      data.prompts.map((prompt, i) => make("option", { value: i, selected: i === data.first }, visible(prompt.label))))));
  }
  root.append(body);
  if (data.prompts.length) draw(data.first);

  function draw(index) {
    const prompt = data.prompts[index];
    body.replaceChildren(prompt.prompt ? make("p", { class: "ld-asked" }, prompt.prompt) : "", make("div", { class: "ld-sides" }, prompt.sides.map((side) => one(prompt, side))));
  }

  function one(prompt, side) {
    const at = prompt.parting === null ? side.pieces.length : Math.min(prompt.parting, side.pieces.length);
    const same = side.pieces.slice(0, at).join(""), other = side.pieces.slice(at).join("");
    const empty = !(same + other).trim();
    return make("section", { class: "ld-side " + side.role },
      make("h3", { class: "ld-long" }, `${side.role}: `, make("span", { class: "ld-note" }, side.name)),
      empty
        ? make("p", { class: "ld-response ld-empty" }, "Empty: the model says nothing", side.end ? [" and ends at once with ", LensDiff.ending(side.end)] : ".")
        : make("p", { class: "ld-response" }, same, other ? make("span", { class: "ld-parts" }, other) : null, LensDiff.ending(side.end)));
  }
};
