"""The same text in both models, position for position."""

import pytest
import torch

from lensdiff.inputs import Prompt
from lensdiff.models import load_pair
from lensdiff.models.aligned_text import GROUPS, align_text
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.results import InputError
from tests.checkpoints import hf_model, tokenizer_of
from tests.models.test_forced_text import OPTIONS, cycled, pair_of

PROMPT = Prompt("Write a poem about the moon", ["Write a poem"], ["the moon"], id="poem")
HABITS = {"max_new_tokens": 5, "prepend_bos": None}


def aligned(pair: ModelPair, response: str | Response | None = "said the moon", **options):
    return align_text(pair, PROMPT, response, **(HABITS | options))


def test_positions_spell_the_text_and_are_each_in_a_group() -> None:
    found = aligned(pair_of(tokenizer_of()))
    tokenizer = tokenizer_of()
    words = {
        name: "".join(tokenizer.convert_ids_to_tokens(found.ids["tuned"][list(where)].tolist()))
        for name, where in found.groups.items()
    }
    assert tuple(found.groups) == GROUPS
    assert "".join(words["instruction"].split("▁")).replace("Ġ", "") == "Writeapoem"
    assert words["context"].replace("Ġ", "").replace("▁", "") == "themoon"
    assert words["prompt"].replace("Ġ", "").replace("▁", "") == "about"
    placed = sorted(position for where in found.groups.values() for position in where)
    n_special = found.n_read - len(placed)
    assert placed == list(range(n_special, found.n_read)), "all positions but those of special tokens, each once"
    assert found.first + 1 == found.groups["response"][0]
    assert len(found.groups["response"]) == found.n_out - 1, "the last token is only predicted"
    both = torch.cat([found.ids["tuned"], found.said["tuned"][-1:]])
    assert torch.equal(both[found.first + 1 :], found.said["tuned"])


def test_each_model_has_its_own_ids_of_the_same_tokens() -> None:
    other = cycled()
    found = aligned(pair_of(other))
    spelled = [
        tokenizer.convert_ids_to_tokens(torch.cat([found.ids[side], found.said[side][-1:]]).tolist())
        for side, tokenizer in (("base", tokenizer_of()), ("tuned", other))
    ]
    assert spelled[0] == spelled[1]


def test_without_a_response_it_is_the_tuned_models_own() -> None:
    pair = pair_of(tokenizer_of())
    found = aligned(pair, None)
    assert found.response.model == pair.ids[1]
    assert found.n_out <= 5
    again = aligned(pair, found.response)
    assert torch.equal(again.ids["base"], found.ids["base"])


def test_what_cannot_be_aligned_is_refused() -> None:
    pair = pair_of(tokenizer_of())
    empty = Response("", (), pair.ids[1], pair.digests[1])
    with pytest.raises(InputError, match="response to prompt 'poem' is empty"):
        aligned(pair, empty)
    uneven = load_pair(
        hf_model("llama"),
        hf_model("llama", seed=1),
        base_options={"tokenizer": tokenizer_of()},
        tuned_options={"tokenizer": tokenizer_of(bos=True)},
        **OPTIONS,
    )
    with pytest.raises(InputError, match="positions of the one are not those of the other"):
        aligned(uneven)
    assert aligned(uneven, prepend_bos=True).n_read == aligned(pair, prepend_bos=True).n_read
