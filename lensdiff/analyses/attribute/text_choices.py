"""What both models of a pair would say at each token of one text, as a run keeps it for the target "choice".

See `choices`: the target of a control, which has the base's vocabulary, is the same contrast in the base's ids.
"""

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Int
from torch import Tensor

from lensdiff.analyses.attribute.choices import Choices, choices_of, name_of
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView
from lensdiff.models.aligned_text import AlignedText
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.results import Result


@dataclass(frozen=True, eq=False)
class TextChoices(Result):
    """The tuned model's choice and the base's at each response token, in the ids of either.

    Attributes:
        prompt_id: of the prompt.
        response: the text that both read.
        tokenizers: digests of the base's and of the tuned model's.
        base_ids, tuned_ids: the response's tokens.
        base, tuned: in the ids of that model, the tuned model's choice and the base's.
    """

    prompt_id: str
    response: str
    tokenizers: tuple[str, str]
    base_ids: Int[Tensor, " out_pos"]
    tuned_ids: Int[Tensor, " out_pos"]
    base: Int[Tensor, "2 out_pos"]
    tuned: Int[Tensor, "2 out_pos"]

    @classmethod
    def of(cls, pair: ModelPair, text: AlignedText) -> "TextChoices":
        """Return the choices of a pair on a text.

        Raises:
            InputError: a logit is not finite.
        """
        found = choices_of(pair, text)
        return cls(
            pair.provenance("attribution_choices", {}),
            text.prompt.id,
            text.response.text,
            pair.digests,
            text.said["base"],
            text.said["tuned"],
            found["base"],
            found["tuned"],
        )

    def target(self, view: ModelView, prompt: Prompt, side: str) -> Choices:
        """Return the target for a model that has the vocabulary of a side, "base" or "tuned".

        Args:
            view: of the model that reads the text.
            prompt: that the text follows.
            side: whose vocabulary it has, "base" or "tuned".
        """
        key = view.info.id, name_of(prompt)
        ids, digest = (self.base_ids, self.tokenizers[0]) if side == "base" else (self.tuned_ids, self.tokenizers[1])
        said = Response(self.response, tuple(ids.tolist()), view.info.id, digest)
        return Choices({key: self.base if side == "base" else self.tuned}, {key: said})

    def told(self) -> list[str]:
        """Return at how many tokens the models choose differently."""
        chosen = self.tuned[0] != self.tuned[1]
        return [f"the models choose differently at {int(chosen.sum())} of {len(chosen)} response tokens"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per response token: prompt_id, out_pos, token, tuned, base, all in the tuned model's ids."""
        tuned, base = self.tuned.tolist()
        frame = pd.DataFrame({"token": self.tuned_ids.tolist(), "tuned": tuned, "base": base})
        frame.insert(0, "out_pos", range(len(frame)))
        frame.insert(0, "prompt_id", self.prompt_id)
        return frame

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the first k tokens at which the models choose differently."""
        return self.to_df().query("tuned != base").head(k)
