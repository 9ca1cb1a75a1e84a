"use strict";
// A line per model and matrix.
LensDiff.views.embedding_norms = (root, data) => {
  for (const [model, part, norm] of data.rows) {
    root.append(LensDiff.make("p", {}, `${model}, ${part}: ${LensDiff.number(norm)}`));
  }
};
