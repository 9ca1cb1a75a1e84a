"""Which prompt words drive the response: exact gradient x input, one number per prompt token and response token.

    I[n,m] = < d f(y_m | x, y_1..y_{m-1}) / d E[x_n],  E[x_n] >

f is the target (in the paper the probability of the token), E[x_n] the input embedding. Positive: the token supports
the response token. It is the first-order form of what removing the token would change; `DeletionCheck` says how far
that holds for a map. Along a path from a baseline it is integrated gradients (see `paths`), whose sum over the prompt
is what the target changes, up to `completeness`. `attribute` computes it. Reference: Wu et al., NAACL 2024, section 4;
doi 10.18653/v1/2024.naacl-long.130.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensdiff.analyses.attribute import density as importance
from lensdiff.analyses.attribute.deletion import DeletionCheck
from lensdiff.results import Result
from lensdiff.results.tidy import tidy


@dataclass(frozen=True, eq=False)
class Attribution(Result):
    """The importance of every prompt token for every response token.

    Attributes:
        prompt_id, prompt, response: the prompt's id and text, and the response's text.
        in_tokens, out_tokens: the prompt's and the response's tokens, as text.
        scores: I[n,m] in units of the target, signed.
        targets: the target of each response token; probabilities: its probability.
        in_offsets: characters (start, end) of each prompt token in the stripped prompt.
        instruction, context: which prompt tokens the prompt's spans cover; template: which ones a chat template wrote,
            None of a raw prompt.
        response_kind: "generated" (the ids as generated) or "text" (tokenised together with the prompt).
        merged: the tokenizer merged prompt and response at their boundary.
        method: "forward" or "reverse", as it was computed.
        deletion: the map's trust number, or None where it was not asked for or there is nothing to delete.
        completeness: of a map along a path: the largest error over response tokens, as a share of the largest change;
            None of one at a point.
        end: the end token that was said after the response; "" where it was cut off, None where nobody knows.
    """

    calls = ("shares()", "words()", "top()", "to_df()", "show()")

    prompt_id: str
    prompt: str
    response: str
    in_tokens: tuple[str, ...]
    out_tokens: tuple[str, ...]
    in_offsets: tuple[tuple[int, int], ...]
    response_kind: str
    merged: bool
    method: str
    deletion: DeletionCheck | None
    scores: Float[Tensor, "in_pos out_pos"]
    targets: Float[Tensor, " out_pos"]
    probabilities: Float[Tensor, " out_pos"]
    instruction: Bool[Tensor, " in_pos"]
    context: Bool[Tensor, " in_pos"]
    completeness: float | None = None
    template: Bool[Tensor, " in_pos"] | None = None
    end: str | None = None

    @property
    def parts(self) -> dict[str, Bool[Tensor, " in_pos"]]:
        """Which prompt tokens are of which segment: instruction, context, template (of a rendered prompt), other."""
        marked = {"instruction": self.instruction, "context": self.context}
        marked |= {} if self.template is None else {"template": self.template}
        return {**marked, "other": ~torch.stack(list(marked.values())).any(dim=0)}

    def shares(self) -> pd.DataFrame:
        """Return what falls on each segment of the prompt: segment, n_in, share, score.

        The share is of the density of all prompt tokens, in [0, 1], 0 where there is none; a token of instruction and
        context counts in both. The score is the paper's, of the segment in the instruction's place; NaN where there is
        no such token.
        """
        found, rows = self.density(), []
        for name, mask in self.parts.items():
            n, total = int(mask.sum()), float(found.sum())
            score = importance.instruction_score(found, mask) if n else float("nan")
            rows.append((name, n, float(found[mask].sum()) / total if total else 0.0, score))
        return pd.DataFrame(rows, columns=["segment", "n_in", "share", "score"])

    def levels(
        self, *, levels: int = importance.LEVELS, b: int = 0, eps: float = importance.EPS
    ) -> Int[Tensor, "in_pos out_pos"]:
        """Return each response token's scores as levels 0..L, those of at most b as 0 (b: pictures 0, numbers 7).

        Args:
            levels: the highest level, L.
            b: levels of at most b are set to 0.
            eps: what is added to a denominator.
        """
        return importance.sparsify(importance.importance_levels(self.scores, levels=levels, eps=eps), b=b)

    def density(
        self,
        *,
        levels: int = importance.LEVELS,
        b: int = importance.SPARSITY,
        p: float = importance.NORM,
        eps: float = importance.EPS,
    ) -> Float[Tensor, " in_pos"]:
        """Return the importance density a[n] of each prompt token, not normalised over the prompt.

        Args:
            levels: the highest level, L.
            b: levels of at most b do not count.
            p: of the norm in the denominator.
            eps: what is added to a denominator.
        """
        found = importance.importance_levels(self.scores, levels=levels, eps=eps)
        return importance.importance_density(found, b=b, p=p, eps=eps)

    def instruction_score(
        self,
        *,
        levels: int = importance.LEVELS,
        b: int = importance.SPARSITY,
        p: float = importance.NORM,
        eps: float = importance.EPS,
        normalise: bool = True,
    ) -> float:
        """Return the paper's score of the instruction: summed normalised density / log2(2 + instruction tokens).

        NaN where the prompt marks no instruction.

        Args:
            levels: the highest level, L.
            b: levels of at most b do not count.
            p: of the norm in the denominator.
            eps: what is added to a denominator.
            normalise: divide by the prompt's largest density; without, longer responses score higher.
        """
        if not bool(self.instruction.any()):
            return float("nan")
        found = self.density(levels=levels, b=b, p=p, eps=eps)
        return importance.instruction_score(found, self.instruction, eps=eps, normalise=normalise)

    def vanished_columns(self, *, b: int = importance.SPARSITY, eps: float = importance.EPS) -> int:
        """Return how many response tokens have importance but no level above b (largest score below about 2e-7).

        Args:
            b: levels of at most b do not count.
            eps: what is added to a denominator.
        """
        return importance.vanished_columns(self.scores, b=b, eps=eps)

    def words(self) -> "Attribution":
        """Return the map with the prompt's sub-tokens merged to words (runs without white space), their scores added.

        The sum is again exact: the derivative along all of the word's embeddings together.
        """
        groups = _word_groups(self.prompt, self.in_offsets, None if self.template is None else self.template.tolist())
        index = torch.tensor(groups, dtype=torch.int64)
        n_words = int(index.max()) + 1 if len(groups) else 0
        spans: list[tuple[int, int]] = []
        for word in range(n_words):
            inside = [o for o, g in zip(self.in_offsets, groups, strict=True) if g == word]
            spans.append((inside[0][0], inside[-1][1]))
        scores = self.scores.new_zeros(n_words, self.scores.shape[1]).index_add_(0, index, self.scores)

        def any_of(mask: Tensor) -> Tensor:
            return torch.zeros(n_words, dtype=torch.int64).index_add_(0, index, mask.long()) > 0

        return replace(
            self,
            scores=scores,
            in_tokens=tuple(self.prompt[a:b].strip() for a, b in spans),
            in_offsets=tuple(spans),
            instruction=any_of(self.instruction),
            context=any_of(self.context),
            template=None if self.template is None else any_of(self.template),
        )

    def told(self) -> list[str]:
        """Return the prompt tokens of most importance, the instruction's score, and the map's trust number."""
        rows: Any = self.top(4).itertuples()
        most = ", ".join(f"{row.in_token!r} {row.density:.3g}" for row in rows)
        lines = [f"prompt tokens of most importance (density): {most}"]
        score = self.instruction_score()
        lines += [f"score of the instruction: {score:.3g}"] if score == score else []
        if self.deletion is not None:
            lines.append(f"deleting the first {self.deletion.k} beats {self.deletion.beaten:.0%} of random deletions")
        return lines

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt and response token: prompt_id, in_pos, in_token, out_pos, out_token, score, level."""
        n, m = self.scores.shape
        frame = tidy({"in_pos": range(n), "out_pos": range(m)}, {"score": self.scores, "level": self.levels()})
        frame.insert(0, "prompt_id", self.prompt_id)
        frame.insert(2, "in_token", [self.in_tokens[i] for i in frame["in_pos"]])
        frame.insert(4, "out_token", [self.out_tokens[i] for i in frame["out_pos"]])
        return frame

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k prompt tokens with the highest density: in_pos, in_token, density, instruction."""
        found = self.density()
        order = found.argsort(descending=True, stable=True)[:k]
        return pd.DataFrame(
            {
                "in_pos": order.numpy(),
                "in_token": [self.in_tokens[i] for i in order],
                "density": found[order].numpy(),
                "instruction": self.instruction[order].numpy(),
            }
        )


def _word_groups(text: str, offsets: Sequence[tuple[int, int]], template: Sequence[bool] | None = None) -> list[int]:
    # a token begins a new word if white space stands between its first visible character and the one before, or where
    # the template's text ends or begins
    groups: list[int] = []
    end = 0
    for i, (start, stop) in enumerate(offsets):
        visible = start + len(text[start:stop]) - len(text[start:stop].lstrip())
        new = not groups or (bool(text[end:visible].strip() == "") and visible > end) or text[start:stop].strip() == ""
        new = new or (template is not None and template[i] != template[i - 1])
        groups.append((groups[-1] + 1 if groups else 0) if new else groups[-1])
        end = max(end, stop)
    return groups
