"""Texts forced on both models of a pair: tokens keep their strings where the vocabularies differ."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, load_pair
from lensdiff.models.forced_text import as_base_reads
from lensdiff.models.text import Response, generate
from lensdiff.results import InputError
from tests.checkpoints import hf_model, tokenizer_of
from tests.models.test_pair import with_more_tokens

OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False}
PROMPT = Prompt("Write a poem about the moon", ["Write a poem"], id="poem")
SAID = (20, 31, 20, 40)


def cycled() -> PreTrainedTokenizerFast:
    """The test tokenizer with three tokens' ids moved on: 20 is now 31, 31 is 40, and 40 is 20."""
    whole = json.loads(tokenizer_of().backend_tokenizer.to_str())
    names, vocabulary = {i: t for t, i in whole["model"]["vocab"].items()}, whole["model"]["vocab"]
    for old, new in ((20, 31), (31, 40), (40, 20)):
        vocabulary[names[old]] = new
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def pair_of(tokenizer: Any, **options: Any) -> ModelPair:
    sides = {"tokenizer": tokenizer_of()}, {"tokenizer": tokenizer}
    models = hf_model("llama"), hf_model("llama", seed=1, **options)
    return load_pair(*models, base_options=sides[0], tuned_options=sides[1], **OPTIONS)


def test_a_tuned_models_response_keeps_its_tokens_strings() -> None:
    tokenizer = cycled()
    pair = pair_of(tokenizer)
    response = Response("said", SAID, pair.ids[1], pair.digests[1])
    found = as_base_reads(pair, PROMPT, response)
    assert found.token_ids == (40, 20, 40, 31)
    strings = tokenizer_of().convert_ids_to_tokens(list(found.token_ids))
    assert strings == tokenizer.convert_ids_to_tokens(list(SAID))
    assert (found.text, found.model, found.tokenizer) == ("said", pair.ids[1], pair.digests[0])
    assert as_base_reads(pair, PROMPT, found) is found, "it has the base's ids now"
    generated = generate(pair.tuned, PROMPT, max_new_tokens=12)
    again = as_base_reads(pair, PROMPT, generated)
    assert generated.tokenizer == pair.digests[1] != pair.digests[0]
    assert tokenizer_of().decode(list(again.token_ids)) == tokenizer.decode(list(generated.token_ids))


def test_what_the_base_said_and_equal_vocabularies_stay_as_they_are() -> None:
    pair = pair_of(cycled())
    for response in (
        Response("", SAID, "whoever", pair.digests[0]),
        Response("", SAID, pair.ids[0]),
        generate(pair.base, PROMPT, max_new_tokens=4),
    ):
        assert as_base_reads(pair, PROMPT, response) is response
    same = pair_of(tokenizer_of())
    generated = generate(same.tuned, PROMPT, max_new_tokens=4)
    assert as_base_reads(same, PROMPT, generated) is generated


def test_ids_of_nobody_knows_whom_are_the_tuned_models() -> None:
    pair = pair_of(cycled())
    assert as_base_reads(pair, PROMPT, Response("", (20,))).token_ids == (40,)
    tuned = Response("", (20,), pair.ids[1])
    assert as_base_reads(pair, PROMPT, tuned) == replace(tuned, token_ids=(40,), tokenizer=pair.digests[0])


def test_a_token_that_the_base_lacks_is_refused() -> None:
    pair = pair_of(with_more_tokens("<|user|>", "<|reply|>"), vocab_size=402)
    assert torch.equal(*pair.shared_tokens)
    said = Response("x", (20, 401), pair.ids[1], pair.digests[1])
    with pytest.raises(InputError, match="token 401 of the response to prompt 'poem' is not in both vocabularies"):
        as_base_reads(pair, PROMPT, said)
    assert as_base_reads(pair, PROMPT, replace(said, token_ids=SAID)).token_ids == SAID
