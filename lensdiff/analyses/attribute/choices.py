"""The target "choice": the tuned model's choice against the base's, at every response token of one forced text.

    t_m = z[tuned's most probable token at m] - z[base's most probable token at m]      0 where they choose alike

Both choices are among the tokens that both vocabularies have. The two models read the same text: the one that is given,
or the tuned model's own response. So `pair.compare(attribute, prompt, target="choice")` says, for each model, which
prompt words pull it from the base's next token to the tuned model's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lensdiff.analyses.attribute.targets import Target
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView, view_of
from lensdiff.models.aligned_text import AlignedText, align_text
from lensdiff.models.asked import Asked, Given
from lensdiff.models.choosing import choices_among
from lensdiff.models.forced_text import as_base_reads
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.text import MAX_NEW_TOKENS
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES


@dataclass(frozen=True)
class Choices:
    """What both models of a pair would say at each response token.

    Attributes:
        by_model: by a model's name and the prompt (its id, or its text where it has none), the tuned model's and the
            base's choice in that model's ids, [2, out_pos].
        responses: by the same, the text that was read.
    """

    by_model: Mapping[tuple[str, str], Int[Tensor, "2 out_pos"]]
    responses: Mapping[tuple[str, str], Response]

    @property
    def __name__(self) -> str:
        return "choice"

    def of(self, view: ModelView, prompt: Prompt) -> Target:
        """Return the target for a prompt's response.

        Raises:
            InputError: the choices are of other models or prompts.
        """
        tuned, base = self.by_model[self._key(view, prompt)].to(view.device)

        def choice(logits: Tensor, ids: Tensor) -> Tensor:
            places = torch.arange(len(logits), device=logits.device)
            return logits[places, tuned] - logits[places, base]

        return choice

    def response(self, view: ModelView, prompt: Prompt) -> Response:
        """Return the text that was read, in a model's ids.

        Raises:
            InputError: as `of`.
        """
        return self.responses[self._key(view, prompt)]

    def _key(self, view: ModelView, prompt: Prompt) -> tuple[str, str]:
        key = view.info.id, name_of(prompt)
        if key not in self.by_model:
            raise InputError(f"the choices are not those of {view.info.id} after prompt {name_of(prompt)[:40]!r}")
        return key


def name_of(prompt: Prompt) -> str:
    """Return what a prompt is known by."""
    return prompt.id or prompt.stripped


def choices_of(pair: ModelPair, text: AlignedText) -> dict[str, Int[Tensor, "2 out_pos"]]:
    """Return the tuned model's and the base's choice at each response token, in the ids of each side.

    Raises:
        InputError: a logit is not finite.
    """
    shared = dict(zip(SIDES, pair.shared_tokens, strict=True))
    chosen = {
        side: choices_among(view_of(getattr(pair, side)).widened(), text.ids[side], shared[side], first=text.first)
        for side in reversed(SIDES)
    }
    places = torch.stack([chosen["tuned"], chosen["base"]])
    return {side: ids[places] for side, ids in shared.items()}


def choices_in_pair(
    pair: ModelPair, prompt: Any, response: Any = None, **options: Any
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """Return the arguments of `attribute` with what "choice" means for a pair, and the texts that both models read.

    Raises:
        InputError: of one prompt, or of all in a list: the models do not read the text as the same tokens, or a logit
            is not finite.
    """
    if options.get("target") != "choice":
        return (prompt, response), options
    asked = Asked.of(prompt, response, template=options.get("template", RAW), model=pair)
    habits: Any = {"max_new_tokens": options.get("max_new_tokens", MAX_NEW_TOKENS)}
    habits["prepend_bos"] = options.get("prepend_bos")
    if options.get("retokenise"):
        raise InputError("target 'choice' forces one text on both models: retokenise is for each model's own response")

    def one(item: Prompt, given: Given) -> AlignedText:
        return align_text(pair, item, given, **habits)

    texts = asked.each(one, "reading both models", options.get("progress"))
    chosen, said = {}, {}
    for item in asked.going():
        keys = {side: (pair.ids[i], name_of(item)) for i, side in enumerate(SIDES)}
        with asked.guard(item):
            own = texts[item.id].response
            said |= {keys["tuned"]: own, keys["base"]: as_base_reads(pair, item, own)}
            chosen |= {keys[side]: ids for side, ids in choices_of(pair, texts[item.id]).items()}
    asked.settle()
    prompts = asked.going()
    return (prompts[0] if asked.single else prompts, None), options | {"target": Choices(chosen, said)}
