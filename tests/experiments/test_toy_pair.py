"""The shipped toy pair is what its card says.

Oracles: the measurements' file, the card's own tables, the shipped prompts' references, `weight_shift`.
"""

import json
import statistics
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lensdiff.analyses.weights.weight_shift import weight_shift
from lensdiff.inputs.toy_pair import FOLDER as PAIR
from lensdiff.models import load_pair
from tests.experiments.conftest import SCRIPTS, read

MAX_BYTES = 16_000_000
MAX_PARAMETERS = 3_500_000
MORE_PROMPTS = SCRIPTS / "prompts.jsonl"
KINDS = {"define", "example", "spell", "quote", "list", "reverse", "answer", "question", "negate", "compare"}


@pytest.fixture(scope="module")
def prompts() -> list[dict]:
    return read(PAIR / "prompts.jsonl")


@pytest.fixture(scope="module")
def accuracy() -> dict:
    return json.loads((PAIR / "accuracy.json").read_text())


@pytest.fixture(scope="module")
def models(monkeypatch_module):
    """Both models and tokenizers, loaded while every connection to the network is refused."""
    return {
        name: (AutoModelForCausalLM.from_pretrained(PAIR / name), AutoTokenizer.from_pretrained(PAIR / name))
        for name in ("base", "tuned")
    }


@pytest.fixture(scope="module")
def monkeypatch_module():
    def refuse(*_args, **_kwargs):
        raise AssertionError("the toy pair asked for the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket.connect", refuse)
        patch.setattr("socket.getaddrinfo", refuse)
        yield patch


@pytest.mark.parametrize("path", [PAIR / "prompts.jsonl", MORE_PROMPTS], ids=["shipped", "more"])
def test_prompt_spans_are_substrings_found_once(path):
    for prompt in read(path):
        assert prompt["text"] == prompt["text"].strip()
        assert len(prompt["instruction"]) == len(prompt["context"]) == 1
        for span in (*prompt["instruction"], *prompt["context"]):
            assert span
            assert prompt["text"].count(span) == 1, (prompt["id"], span)
        assert prompt["word"] in prompt["instruction"][0]


@pytest.mark.parametrize(("path", "passages"), [(PAIR / "prompts.jsonl", 3), (MORE_PROMPTS, 15)])
def test_prompts_ask_several_things_of_a_passage(path, passages):
    prompts = read(path)
    asked = Counter(prompt["context"][0] for prompt in prompts)
    assert len(prompts) == 4 * passages
    assert len(asked) == passages
    assert min(asked.values()) >= 3
    assert set(Counter(prompt["kind"] for prompt in prompts)) == KINDS
    assert len({prompt["id"] for prompt in prompts}) == len({prompt["text"] for prompt in prompts}) == len(prompts)
    assert set(prompts[0]) == {"id", "text", "instruction", "context", "kind", "reference", "word"}
    assert all(prompt["id"].rsplit("-", 1)[0] == prompt["kind"] for prompt in prompts)


def test_pair_is_small_enough():
    sizes = {path.name: path.stat().st_size for path in PAIR.rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in PAIR.rglob("*") if path.is_file()) <= MAX_BYTES, sizes


def test_licence_notice_is_whole():
    notice = (PAIR / "WORDNET_LICENSE").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in notice
    assert 'THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS"' in notice
    assert notice.rstrip().endswith("LICENSEE agrees to preserve same.")


def test_models_are_what_the_card_says(models, accuracy):
    (base, base_tokenizer), (tuned, tuned_tokenizer) = models["base"], models["tuned"]
    for model in (base, tuned):
        config = model.config
        assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("llama", 4, 192)
        assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (6, 3, 512)
        assert config.max_position_embeddings == 256
        assert not config.tie_word_embeddings
        assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
        assert model.dtype == torch.float32
        assert all(p.isfinite().all() for p in model.parameters())
        gains = torch.cat([p for n, p in model.named_parameters() if "norm" in n])
        assert gains.std() > 0.01, "the norm gains were not learned"
        assert sum(p.numel() for p in model.parameters()) == accuracy["parameters"] <= MAX_PARAMETERS
    assert base_tokenizer.get_vocab() == tuned_tokenizer.get_vocab()
    assert len(base_tokenizer) == base.config.vocab_size
    card = (PAIR / "MODEL_CARD.md").read_text()
    assert f"{accuracy['parameters']:,} parameters" in card
    assert f"{len(base_tokenizer)} pieces" in card


def test_tokenizer_adds_nothing_and_loses_nothing(models):
    for _, tokenizer in models.values():
        text = 'Spell "caffè" 123 times.\nAnswer:'
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.bos_token is None
        assert tokenizer.eos_token_id not in ids
        joint = tokenizer(text + " word")["input_ids"]
        assert joint == ids + tokenizer(" word")["input_ids"], "prompt and response tokenise apart as together"


def test_the_tuned_models_chat_template_is_the_one_it_was_trained_in(models, scripts):
    (_, base), (_, tuned) = models["base"], models["tuned"]
    assert base.chat_template is None
    rendered = tuned.apply_chat_template(
        [{"role": "user", "content": "Spell heron."}], add_generation_prompt=True, tokenize=False
    )
    assert rendered == "User: Spell heron.\nAssistant:" == scripts["instructions"].CHAT.replace("{p}", "Spell heron.")
    turns = [{"role": "user", "content": "Spell a."}, {"role": "assistant", "content": "a"}]
    assert tuned.apply_chat_template(turns, tokenize=False) == "User: Spell a.\nAssistant: a<|end|>\n"


def test_card_gives_the_measurements(accuracy):
    card = (PAIR / "MODEL_CARD.md").read_text()
    base, tuned = accuracy["base"]["accuracy"]["raw"], accuracy["tuned"]["accuracy"]
    for kind in KINDS:
        cells = (base[kind], *(tuned[side][kind] for side in ("raw", "chat", "new_phrasing")))
        assert f"| {kind} | " + " | ".join(f"{100 * c['right']:.0f} %" for c in cells) + " |" in card
    for text in ("entries", "passages"):
        before, after = (accuracy[name]["perplexity"][text] for name in ("base", "tuned"))
        assert f"| {text} | {before:.1f} | {after:.1f} |" in card
    change = accuracy["change"]
    assert f"{100 * change['min']:.1f} to {100 * change['max']:.1f} %, median {100 * change['median']:.1f} %" in card
    assert all(f"{accuracy['tokens'][name] / 1e6:.2f} million tokens" in card for name in ("base", "tuned"))


def test_tuned_reaches_80_percent_on_four_kinds_where_base_has_20(accuracy):
    base, tuned = accuracy["base"]["accuracy"]["raw"], accuracy["tuned"]["accuracy"]["raw"]
    good = [kind for kind in KINDS if tuned[kind]["right"] >= 0.8 and base[kind]["right"] <= 0.2]
    assert set(good) >= {"answer", "question", "negate", "compare"}, tuned
    assert all(tuned[kind]["n"] >= 100 for kind in KINDS)


def test_the_base_read_five_times_the_tunings_tokens(accuracy):
    assert accuracy["tokens"]["base"] >= 5 * accuracy["tokens"]["tuned"] > 0


def test_tuning_was_gentle(accuracy):
    table = weight_shift(load_pair(PAIR / "base", PAIR / "tuned", device="cpu")).to_df()
    whole = table[table["head_index"].isna() & table["matrix"].str.startswith("W_")]
    change = whole["relative_norm"]
    assert len(change) == 2 + 4 * 7
    found = {"min": change.min(), "median": change.median(), "max": change.max()}
    assert found == pytest.approx(accuracy["change"], rel=1e-3)
    assert found["min"] >= 0.01
    assert found["max"] <= 0.15


def test_tuned_beats_base_on_the_shipped_prompts(models, prompts, scripts):
    evaluate, share, lengths = scripts["evaluate"], {}, []
    examples = [scripts["instructions"].Example(**{k: v for k, v in p.items() if k != "id"}) for p in prompts]
    for name, (model, tokenizer) in models.items():
        responses = evaluate.respond(model, tokenizer, [e.text for e in examples])
        right = [evaluate.judge(r, e)[0] for r, e in zip(responses, examples, strict=True)]
        share[name] = sum(right) / len(right)
        lengths = [len(tokenizer(r)["input_ids"]) for r in responses]
    assert share["base"] <= 0.1
    assert share["tuned"] >= 0.4
    assert statistics.median(lengths) >= 8


def test_responses_equal_those_of_transformers(models, prompts, scripts):
    model, tokenizer = models["tuned"]
    texts = [p["text"] for p in prompts[:3]]
    own = scripts["evaluate"].respond(model, tokenizer, texts, max_new_tokens=8)
    for text, response in zip(texts, own, strict=True):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert response == tokenizer.decode(ids, skip_special_tokens=True)
