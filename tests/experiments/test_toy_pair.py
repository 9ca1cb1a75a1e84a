"""The shipped toy pair is what its card says, and the script that makes it works from the dictionary to the folder.

Oracles: the measured accuracy file, the card's own table, singular values, and the shipped prompts' references.
"""

import importlib
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "experiments" / "toy_pair"
PAIR = ROOT / "lensdiff" / "inputs" / "data" / "toy_pair"
MAX_BYTES = 8_000_000
OPEN_KINDS = {"define", "synonym", "example"}
WORDNET = Path("/usr/share/wordnet")
needs_wordnet = pytest.mark.skipif(
    not (WORDNET / "data.noun").is_file(), reason="no WordNet data (Debian package wordnet-base)"
)


@pytest.fixture(scope="module")
def scripts():
    """The modules of experiments/toy_pair by name; their folder is on the path only while they are imported."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in ("wordnet", "instructions", "muon", "train", "evaluate")}
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def dictionary(scripts):
    wordnet = scripts["wordnet"]
    keep = scripts["instructions"].instruction_words()
    return wordnet.split(wordnet.read_entries(WORDNET), seed=0, n_held_out=600, keep=keep)


@pytest.fixture(scope="module")
def prompts() -> list[dict]:
    return [json.loads(line) for line in (PAIR / "prompts.jsonl").read_text().splitlines()]


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


def test_prompt_spans_are_substrings_found_once(prompts):
    for prompt in prompts:
        assert prompt["text"] == prompt["text"].strip()
        assert prompt["instruction"]
        assert prompt["context"]
        for span in (*prompt["instruction"], *prompt["context"]):
            assert span
            assert prompt["text"].count(span) == 1, (prompt["id"], span)


def test_prompts_are_about_sixty_balanced_and_unique(prompts):
    kinds = Counter(prompt["kind"] for prompt in prompts)
    assert 55 <= len(prompts) <= 65
    assert len(kinds) >= 6
    assert max(kinds.values()) <= 2 * min(kinds.values())
    assert len({prompt["id"] for prompt in prompts}) == len({prompt["text"] for prompt in prompts}) == len(prompts)
    assert set(prompts[0]) == {"id", "text", "instruction", "context", "kind", "reference"}


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
        assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("llama", 4, 128)
        assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (8, 4, 352)
        assert config.max_position_embeddings == 256
        assert not config.tie_word_embeddings
        assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
        assert model.dtype == torch.float32
        assert all(p.isfinite().all() for p in model.parameters())
        gains = torch.cat([p for n, p in model.named_parameters() if "norm" in n])
        assert gains.std() > 0.01, "the norm gains were not learned"
        assert sum(p.numel() for p in model.parameters()) == accuracy["parameters"]["count"]
    assert base_tokenizer.get_vocab() == tuned_tokenizer.get_vocab()
    assert len(base_tokenizer) == base.config.vocab_size
    card = (PAIR / "MODEL_CARD.md").read_text()
    assert f"{accuracy['parameters']['count']:,} parameters" in card
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


def test_card_gives_the_measured_accuracy(accuracy):
    card = (PAIR / "MODEL_CARD.md").read_text()
    for kind, row in accuracy["tuned"]["train"].items():
        cells = (accuracy["base"]["train"][kind], row, accuracy["tuned"]["held_out"][kind])
        assert f"| {kind} | " + " | ".join(f"{100 * c['exact']:.0f} %" for c in cells) + " |" in card


def test_tuned_reaches_80_percent_where_base_has_20(accuracy):
    base, tuned = accuracy["base"]["train"], accuracy["tuned"]["train"]
    good = [kind for kind in tuned if tuned[kind]["exact"] >= 0.8 and base[kind]["starts"] <= 0.2]
    assert len(good) >= 3, tuned
    assert all(tuned[kind]["n"] >= 100 for kind in tuned)


def test_rounding_to_float16_costs_no_accuracy(accuracy):
    for name in ("base", "tuned"):
        for kind, row in accuracy[name]["train"].items():
            assert abs(row["exact"] - accuracy[name]["train_before_rounding"][kind]["exact"]) <= 0.02, (name, kind)


def test_tuned_beats_base_on_the_shipped_prompts(models, prompts, scripts):
    scored = [p for p in prompts if p["kind"] not in OPEN_KINDS]
    evaluate, share = scripts["evaluate"], {}
    for name, (model, tokenizer) in models.items():
        responses = evaluate.respond(model, tokenizer, [p["text"] for p in scored])
        hits = [evaluate.is_exact(r, p["reference"]) for r, p in zip(responses, scored, strict=True)]
        share[name] = sum(hits) / len(hits)
    assert share["base"] <= 0.05
    assert share["tuned"] >= 0.6


def test_responses_equal_those_of_transformers(models, prompts, scripts):
    model, tokenizer = models["tuned"]
    texts = [p["text"] for p in prompts[:3]]
    own = scripts["evaluate"].respond(model, tokenizer, texts, max_new_tokens=8)
    for text, response in zip(texts, own, strict=True):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert response == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("response", "reference", "exact", "starts"),
    [
        (" b", "b", True, True),
        (" b\nc", "b", False, True),
        (" bank", "b", False, False),
        ("", "b", False, False),
        (" B", "b", False, False),
    ],
)
def test_scoring_by_hand(scripts, response, reference, exact, starts):
    assert scripts["evaluate"].is_exact(response, reference) is exact
    assert scripts["evaluate"].starts_with(response, reference) is starts


def test_targets_are_the_response_only(scripts):
    inputs, targets = scripts["train"].pad([([5, 6, 7], [8, 0]), ([5], [9, 0])])
    assert inputs.tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert targets.tolist() == [[-100, -100, 8, 0], [9, 0, -100, -100]]


@pytest.mark.parametrize("shape", [(2, 6, 10), (2, 10, 6)])
def test_orthogonalise_keeps_directions_and_levels_singular_values(scripts, shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    result = scripts["muon"].orthogonalise(matrices, n_steps=5)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    core = u.mT @ result @ vh.mT
    values = core.diagonal(dim1=1, dim2=2)
    assert torch.allclose(core, torch.diag_embed(values), atol=1e-4)
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_every_kind_has_enough_phrasings_and_instruction_verbs(scripts):
    phrasings = scripts["instructions"].PHRASINGS
    assert set(phrasings) == set(scripts["instructions"].KINDS)
    assert len(phrasings) >= 10
    for kind, sides in phrasings.items():
        assert len(set(sides["train"])) >= 12, kind
        assert len(set(sides["held_out"])) >= 3, kind
        assert not set(sides["train"]) & set(sides["held_out"]), kind
    verbs = (
        "analyze classify compose create define demonstrate describe explain find generate give identify repeat write"
    )
    assert set(verbs.split()) <= scripts["instructions"].instruction_words()


@needs_wordnet
def test_held_out_words_are_in_no_training_text(scripts, dictionary, prompts):
    wordnet, instructions = scripts["wordnet"], scripts["instructions"]
    held_out = set(dictionary.held_out)
    assert len(held_out) == 600
    for word, senses in dictionary.train.items():
        assert not wordnet.words_of(wordnet.entry_text(word, senses)) & held_out, word
    seen = instructions.Words.of(dictionary, held_out=False)
    for example in instructions.examples(list(instructions.KINDS), seen, random.Random(7), 3000):
        assert not wordnet.words_of(f"{example.text} {example.reference}") & held_out, example
    single = [p for p in prompts if p["kind"] in {"first_letter", "repeat", "spell", "define"}]
    assert single
    assert all(p["context"][0] in held_out for p in single)


@needs_wordnet
def test_examples_have_the_right_answer(scripts, dictionary):
    instructions = scripts["instructions"]
    unseen = instructions.Words.of(dictionary, held_out=True)
    rng = random.Random(3)
    oracles = {
        "first_letter": lambda e: e.context[0][0],
        "last_letter": lambda e: e.context[0][-1],
        "spell": lambda e: "-".join(e.context[0]),
        "repeat": lambda e: e.context[0],
        "upper_case": lambda e: e.context[0].upper(),
        "count_letters": lambda e: str(len(e.context[0])),
        "count_items": lambda e: str(e.context[0].count(",") + 1),
        "longer_word": lambda e: max(e.context[0].split(", "), key=len),
        "extract": lambda e: e.context[0].split()[0 if " first " in e.instruction[0] else -1],
        "list_item": lambda e: e.context[0].split(", ")[
            next(i for o, i in {"first": 0, "second": 1, "third": 2, "last": -1}.items() if f" {o}" in e.instruction[0])
        ],
    }
    for kind, oracle in oracles.items():
        for side in ("train", "held_out"):
            for _ in range(30):
                example = instructions.make_example(kind, unseen, rng, phrasings=side)
                assert example.reference == oracle(example), example
                assert all(span in example.text for span in (*example.instruction, *example.context)), example


def test_missing_wordnet_says_how_to_get_it(scripts, tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get install wordnet-base"):
        scripts["wordnet"].read_entries(tmp_path)


@needs_wordnet
def test_fast_run_writes_a_loadable_pair(tmp_path):
    command = [sys.executable, str(SCRIPTS / "run.py"), "--fast", "--threads", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    base, tuned = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("base", "tuned"))
    changed = [n for n, p in base.named_parameters() if not torch.equal(p, tuned.get_parameter(n))]
    assert len(changed) == len(list(base.named_parameters()))
    assert (tmp_path / "prompts.jsonl").read_text() == (PAIR / "prompts.jsonl").read_text()
    assert (tmp_path / "WORDNET_LICENSE").read_text() == (PAIR / "WORDNET_LICENSE").read_text()
    assert "Exact match on held-out words" in done.stdout
