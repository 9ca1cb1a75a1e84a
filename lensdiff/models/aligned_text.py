"""One prompt and response as both models of a pair read them, position for position, and what each position is.

    groups   "instruction" and "context" as the prompt marks them, "template" for what a chat template wrote, "prompt"
             for its other tokens, "response"; a token of both spans is in both groups, special tokens that are put in
             front, or written there, are in none

What is at a position of one model can then be put at the same position of the other. Position p predicts the token at
p + 1; the last response token is only predicted, so that it is read by none.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from lensdiff.inputs.prompts import PARTS, Prompt
from lensdiff.models.forced_text import Forced, force_base, force_tuned
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.text import Encoded, generate, pieces_of, token_strings
from lensdiff.models.view import ModelView, view_of
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES

GROUPS = ("instruction", "context", "template", "prompt", "response")


@dataclass(frozen=True, eq=False)
class AlignedText:
    """See the module.

    Attributes:
        prompt: as it was given.
        response: what is forced, with the tuned model's ids.
        ids: of the text that is read, by the model ("base", "tuned"); the last response token is not among them.
        said: the response's tokens, by the model.
        tokens: the response's tokens as text.
        first: the position that predicts the first response token.
        groups: the positions that are read, by what they are.
    """

    prompt: Prompt
    response: Response
    ids: Mapping[str, Int[Tensor, " pos"]]
    said: Mapping[str, Int[Tensor, " out_pos"]]
    tokens: tuple[str, ...]
    first: int
    groups: Mapping[str, tuple[int, ...]]

    @property
    def n_out(self) -> int:
        return len(self.tokens)

    @property
    def n_read(self) -> int:
        return len(self.ids["base"])


def align_text(
    pair: ModelPair,
    prompt: Prompt,
    response: str | Response | None,
    *,
    max_new_tokens: int,
    prepend_bos: bool | None,
) -> AlignedText:
    """Return a text as both models read it; without a response the tuned model's own greedy one.

    Raises:
        InputError: the models read the text as different tokens, put other special tokens in front of it, or it cannot
            be tokenised; or there is no response token.
    """
    tuned = view_of(pair.tuned)
    if response is None:
        response = generate(tuned, prompt, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos)
    text = force_tuned(pair, tuned, prompt, response, prepend_bos=prepend_bos)
    base = force_base(pair, view_of(pair.base), text, prepend_bos=prepend_bos)
    return aligned(pair, tuned, text, base)


def aligned(pair: ModelPair, view: ModelView, text: Forced, base: Encoded) -> AlignedText:
    """Return what `force_tuned` and `force_base` gave, position for position; `view` is the tuned model's.

    Raises:
        InputError: the models put other special tokens in front of the text, or the response is empty.
    """
    tuned, name = text.tuned, repr(text.prompt.id or text.prompt.stripped[:40])
    check_positions(text, base)
    if not tuned.n_response:
        raise InputError(f"the response to prompt {name} is empty: nothing is predicted")
    first = tuned.n_special + tuned.n_prompt - 1
    both = dict(zip(SIDES, (base, tuned), strict=True))
    said = Response(text.response, tuned.response_ids, pair.ids[1], pair.digests[1], tuned.end)
    return AlignedText(
        text.prompt,
        said,
        {side: torch.tensor(encoded.ids[:-1]) for side, encoded in both.items()},
        {side: torch.tensor(encoded.response_ids) for side, encoded in both.items()},
        token_strings(view, tuned.response_ids),
        first,
        position_groups(view, text.prompt, tuned),
    )


def check_positions(text: Forced, base: Encoded) -> None:
    """Refuse a text in which positions of one model are not those of the other.

    Raises:
        InputError: the models put other special tokens in front of it.
    """
    if base.n_added != text.tuned.n_added:
        raise InputError(
            f"the base puts {base.n_added} and the tuned model {text.tuned.n_added} special tokens in front of prompt "
            f"{text.prompt.id or text.prompt.stripped[:40]!r}: positions of the one are not those of the other; "
            "give prepend_bos"
        )


def position_groups(view: ModelView, prompt: Prompt, encoded: Encoded) -> dict[str, tuple[int, ...]]:
    """Return which of the positions that are read belong to what, special tokens in front counted in the positions."""
    pieces = pieces_of(view.tokenizer, encoded.prompt_ids)
    marked = {part: prompt.mask(part, encoded.offsets, pieces=pieces) for part in PARTS}
    masks = {**marked, "prompt": ~torch.stack(list(marked.values())).any(dim=0)}
    found = {name: tuple((mask.nonzero()[:, 0] + encoded.n_special).tolist()) for name, mask in masks.items()}
    start = encoded.n_special + encoded.n_prompt
    return {**found, "response": tuple(range(start, len(encoded.ids) - 1))}
