"""A text as token ids: whose the BOS is, where its characters are, and what cannot be read."""

from functools import partial
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lensdiff.analyses.attention.patterns import attention
from lensdiff.analyses.attention.shift import attention_shift
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.outputs.output_shift import output_shift
from lensdiff.inputs import Prompt
from lensdiff.models import load_model, load_pair, view_of
from lensdiff.models.text import Response, encode, generate
from lensdiff.results import InputError
from tests.checkpoints import VOCABULARY, hf_model, tokenizer_of

TEXT = "Translate to French: Good morning"
BOS = 1
load = partial(load_model, device="cpu", verify=False)


def tokenizer_with(post: str = "$A", *, bos: str | None = "<s>", added: tuple[str, ...] = ()) -> Any:
    """The tiny tokenizer with another habit ("<s> $A </s>"), another BOS, or more special tokens."""
    plain = tokenizer_of()
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(token, special=True) for token in added])
    known = [(token, backend.token_to_id(token)) for token in post.split() if token != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=post, special_tokens=known)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token="</s>", pad_token="<pad>")


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(tokenizer_of()(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def plain() -> Any:
    return load(hf_model("llama"), tokenizer=tokenizer_of())


@pytest.fixture(scope="module")
def habitual() -> Any:
    return load(hf_model("llama"), tokenizer=tokenizer_of(bos=True))


# one BOS


@pytest.mark.parametrize("prepend_bos", [None, True, False])
@pytest.mark.parametrize("habit", [False, True])
def test_a_bos_in_the_text_is_the_only_one_whatever_is_asked_for(plain, habitual, habit, prepend_bos):
    found = encode(view_of(habitual if habit else plain), Prompt("<s>" + TEXT), prepend_bos=prepend_bos)
    assert found.ids == (BOS, *ids_of(TEXT))
    assert (found.n_special, found.n_added, found.n_prompt) == (1, 0, len(ids_of(TEXT)))
    assert found.bos == "in the text"
    assert found.prompt_ids == ids_of(TEXT)


@pytest.mark.parametrize(
    ("habit", "prepend_bos", "bos"),
    [(True, None, "added"), (True, False, "none"), (False, None, "none"), (False, True, "added")],
)
def test_a_text_without_bos_has_the_one_that_is_added_or_none(plain, habitual, habit, prepend_bos, bos):
    found = encode(view_of(habitual if habit else plain), Prompt(TEXT), prepend_bos=prepend_bos)
    assert found.bos == bos
    assert found.ids == (*[BOS] * (bos == "added"), *ids_of(TEXT))
    assert found.n_special == found.n_added == (bos == "added")


def test_offsets_count_the_written_bos_and_spans_stay_on_their_words(habitual):
    prompt = Prompt(f" <s>{TEXT}", instruction=["Translate to French"], context=[(1, 13), "Good"])
    found = encode(view_of(habitual), prompt)
    assert [prompt.stripped[a:b] for a, b in found.offsets] == [tokenizer_of().decode([i]) for i in found.prompt_ids]
    assert found.offsets[0][0] == len("<s>")
    for part, words in (("instruction", "Translate to French"), ("context", "Translate Good")):
        mask = prompt.mask(part, found.offsets)
        marked = "".join(prompt.stripped[a:b] for (a, b), m in zip(found.offsets, mask.tolist(), strict=True) if m)
        assert marked == words


def test_a_second_bos_is_text(habitual):
    found = encode(view_of(habitual), Prompt("<s><s>a"))
    assert found.ids == (BOS, BOS, *ids_of("a"))
    assert (found.n_special, found.prompt_ids) == (1, (BOS, *ids_of("a")))
    later = encode(view_of(habitual), Prompt("a<s>"))
    assert (later.bos, later.ids) == ("added", (BOS, *ids_of("a"), BOS))


def test_a_bos_that_the_tokenizer_reads_as_characters_is_text():
    tokenizer = tokenizer_with("[B] $A", bos="[B]", added=("[B]",))
    tokenizer.split_special_tokens = True
    found = encode(view_of(load(hf_model("llama", vocab_size=401), tokenizer=tokenizer)), Prompt("[B]a"))
    assert found.ids == (400, *ids_of("[B]a"))
    assert (found.bos, found.n_special) == ("added", 1)


def test_an_unknown_word_that_is_read_as_the_bos_is_text():
    backend = Tokenizer(models.WordLevel({"<s>": 0, "sea": 1}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<s>")
    found = encode(view_of(load(hf_model("llama"), tokenizer=tokenizer)), Prompt("moon sea"))
    assert (found.bos, found.prompt_ids) == ("none", (0, 1))


def test_an_eos_that_the_tokenizer_appends_is_not_part_of_a_prompt():
    view = view_of(load(hf_model("llama"), tokenizer=tokenizer_with("<s> $A </s>")))
    for text in (TEXT, "<s>" + TEXT):
        found = encode(view, Prompt(text), "and so on")
        assert found.ids == (BOS, *ids_of(TEXT + " and so on"))
        assert found.n_special == 1
    only_end = view_of(load(hf_model("llama"), tokenizer=tokenizer_with("$A </s>")))
    assert encode(only_end, Prompt(TEXT)).ids == ids_of(TEXT)


def test_of_several_special_tokens_what_is_not_written_is_added():
    tokenizer = tokenizer_with("[g] <s> $A", added=("[g]",))
    view = view_of(load(hf_model("llama", vocab_size=401), tokenizer=tokenizer))
    for written, n_added in (("", 2), ("<s>", 1), ("[g]<s>", 0)):
        found = encode(view, Prompt(written + TEXT))
        assert found.ids == (400, BOS, *ids_of(TEXT))
        assert (found.n_special, found.n_added) == (2, n_added)
    assert encode(view, Prompt("<s>" + TEXT)).bos == "in the text"


@pytest.mark.parametrize("text", ["<s>", " <s>\n"])
def test_nothing_but_a_bos_is_no_prompt(habitual, text):
    with pytest.raises(InputError, match="prompt '<s>' is read as the BOS alone, expected a text to answer"):
        encode(view_of(habitual), Prompt(text))


def test_a_text_without_any_token_is_no_prompt():
    backend = Tokenizer(models.BPE({"s": 1, "e": 2}, []))  # what it does not know it drops
    view = view_of(load(hf_model("llama"), tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend)))
    with pytest.raises(InputError, match=r"prompt 'moon' is read as no token, expected a text to answer"):
        encode(view, Prompt("moon"), prepend_bos=False)
    with pytest.raises(InputError, match="changes a text when it adds special tokens: give prepend_bos"):
        encode(view, Prompt("see"))  # its habit is read off "a", which it does not know


# every analysis follows


def test_a_written_bos_gives_what_an_added_one_gives(habitual):
    written = Prompt("<s>" + TEXT, instruction=["Translate"])
    bare = Prompt(TEXT, instruction=["Translate"])
    assert (
        generate(habitual, written, max_new_tokens=5).token_ids == generate(habitual, bare, max_new_tokens=5).token_ids
    )
    a, b = (attribute(habitual, prompt, "bonjour") for prompt in (written, bare))
    torch.testing.assert_close(a.scores, b.scores)
    assert (a.in_tokens, a.deletion) == (b.in_tokens, b.deletion)
    assert a.instruction_score() == b.instruction_score()
    assert a.words().in_tokens == b.words().in_tokens
    assert [r.provenance.options["bos"] for r in (a, b)] == ["in the text", "added"]
    a, b = (attention(habitual, prompt, "bonjour") for prompt in (written, bare))
    assert torch.equal(a.patterns, b.patterns)
    assert torch.equal(a.parts, b.parts)
    assert a.tokens.count("<s>") == 1
    assert a.provenance.options["bos"] == "in the text"


def test_a_written_bos_in_a_pair():
    pair = load_pair(hf_model("llama"), hf_model("llama", seed=1), tokenizer=tokenizer_of(bos=True), device="cpu")
    a, b = (output_shift(pair, prompt, "bonjour") for prompt in ("<s>" + TEXT, TEXT))
    assert torch.equal(a.kl, b.kl)
    assert a.provenance.options["bos"] == {"base": "in the text", "tuned": "in the text"}
    assert b.provenance.options["bos"] == {"base": "added", "tuned": "added"}


def test_what_is_bos_in_one_model_alone_is_the_same_text_for_both():
    # SmolLM2: the first marker of the chat template is the tuned model's BOS and an ordinary token of the base
    sides = {
        "base_options": {"tokenizer": tokenizer_with()},
        "tuned_options": {"tokenizer": tokenizer_with(bos="</s>")},
    }
    pair = load_pair(hf_model("llama"), hf_model("llama", seed=1), device="cpu", verify=False, **sides)
    text = "</s>" + TEXT
    shift = output_shift(pair, text, "bonjour")
    ids = torch.tensor([ids_of(text + " bonjour")])
    n = len(shift.out_tokens)
    logits = [view_of(m).forward.logits(ids)[0, -n - 1 : -1].double().log_softmax(-1) for m in (pair.base, pair.tuned)]
    torch.testing.assert_close(
        shift.kl.double(), (logits[1].exp() * (logits[1] - logits[0])).sum(-1), atol=1e-4, rtol=1e-4
    )
    assert shift.provenance.options["bos"] == {"base": "none", "tuned": "in the text"}
    base, tuned = (attention(model, text, "bonjour") for model in (pair.base, pair.tuned))
    assert (base.n_special, tuned.n_special) == (0, 1)
    assert attention_shift(base, tuned).distances.gt(0).all()


# what cannot be read


def test_half_a_character_is_refused_by_name(plain):
    with pytest.raises(InputError, match=r"prompt 'broken' holds half a character \('\\ud83d' at 4\), expected whole"):
        encode(view_of(plain), Prompt(" Say \ud83d now", id="broken"))
    with pytest.raises(InputError, match=r"prompt 'Say \\ud83d now' holds half a character"):
        generate(plain, "Say \ud83d now")
    for response in ("\udc00", Response("\udc00", (5, 6))):
        with pytest.raises(InputError, match=r"the response to prompt 'p' holds half a character \('\\udc00' at 0\)"):
            encode(view_of(plain), Prompt(TEXT, id="p"), response)
    assert encode(view_of(plain), Prompt("Say \U0001f600 now")).n_prompt  # both halves


@pytest.fixture(scope="module")
def short() -> Any:
    """A model whose tokenizer has a token more than its embedding has rows."""
    return load(hf_model("llama"), tokenizer=tokenizer_with(added=("<|user|>",)))


def test_a_token_without_a_row_in_the_embedding_is_refused_by_name(short):
    view = view_of(short)
    assert len(view.tokenizer) == VOCABULARY + 1
    n = len(ids_of("Say "))
    message = rf"prompt 'p' has the token 400 \('<\|user\|>'\) at position {n}, the embedding of .* has rows 0 to 399"
    for call in (encode, generate, attribute, attention):
        with pytest.raises(InputError, match=message):
            call(view, Prompt("Say <|user|> now", id="p"))
    with pytest.raises(InputError, match=r"the response to prompt 'p' has the token 400 \('<\|user\|>'\)"):
        encode(view, Prompt(TEXT, id="p"), "bonjour <|user|>")


@pytest.mark.parametrize("token", [400, 401, -1, 2**40])
def test_ids_of_a_response_beyond_the_embedding_are_refused_by_name(short, token):
    position = len(ids_of(TEXT)) + 1
    message = rf"the response to prompt 'p' has the token {token}( \('.*'\))? at position {position}, the embedding"
    for call in (encode, attribute, attention):
        with pytest.raises(InputError, match=message):
            call(view_of(short), Prompt(TEXT, id="p"), Response("", (5, token)))


def test_a_row_of_the_embedding_that_is_no_token_is_shown_by_its_number(tmp_path):
    model = load(hf_model("llama", vocab_size=VOCABULARY + 100), tokenizer=tokenizer_of())
    found = attribute(model, TEXT, Response("", (5, 450)), deletion_draws=0)
    assert found.out_tokens[1] == "<450>"
    assert Attribution.load(found.save(tmp_path / "a.safetensors")).out_tokens == found.out_tokens
    sides = [hf_model("llama", vocab_size=VOCABULARY + 100, seed=seed) for seed in range(2)]
    pair = load_pair(*sides, tokenizer=tokenizer_of(), device="cpu", verify=False)
    with pytest.raises(
        InputError, match="the response to prompt 'p' has the token '<450>', which the base does not have"
    ):
        output_shift(pair, Prompt(TEXT, id="p"), Response("", (5, 450)))


BROKEN = {"half a character": "Say \ud83d", "no row": "Say <|user|>"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_list_goes_on_past_it(short, name):
    prompts = [TEXT, Prompt(BROKEN[name], id="broken"), "Repeat this"]
    with pytest.warns(UserWarning, match="prompt 'broken' failed"):
        found = attribute(short, prompts, max_new_tokens=2, deletion_draws=0)
    assert [result.prompt_id for result in found] == ["0", "2"]
    assert list(found.failures) == ["broken"]
    with pytest.warns(UserWarning, match="prompt 'broken' failed: prompt 'broken' h"):
        assert list(attention(short, prompts).by_id) == ["0", "2"]
    sides = {f"{side}_options": {"tokenizer": view_of(short).tokenizer} for side in ("base", "tuned")}
    pair = load_pair(hf_model("llama"), hf_model("llama", seed=1), device="cpu", verify=False, **sides)
    with pytest.warns(UserWarning, match="prompt 'broken' failed: prompt 'broken' h"):
        assert list(output_shift(pair, prompts, max_new_tokens=2).by_id) == ["0", "2"]
    with pytest.raises(InputError, match="prompt 'p' h"):
        output_shift(pair, [Prompt(TEXT, id="p")], [Response("", (5, 1000))])
