"""The shipped toy pair is what its card says, and the script that makes it works from the dictionary to the folder.

Oracles: the measured accuracy file, the card's own table, singular values, and the shipped prompts' references.
"""

import contextlib
import importlib
import json
import random
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lensdiff.analyses.weight_shift import weight_shift
from lensdiff.inputs.verbs import INSTRUCTION_VERBS
from lensdiff.models import load_pair

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "experiments" / "toy_pair"
PAIR = ROOT / "lensdiff" / "inputs" / "data" / "toy_pair"
MAX_BYTES = 16_000_000
MAX_PARAMETERS = 3_500_000
MORE_PROMPTS = SCRIPTS / "prompts.jsonl"
KINDS = {"define", "example", "spell", "quote", "list", "reverse", "answer", "question", "negate", "compare"}
WORDNET = Path("/usr/share/wordnet")
MODULES = ("wordnet", "passages", "instructions", "plain", "muon", "starting_weights", "train", "evaluate")
needs_wordnet = pytest.mark.skipif(
    not (WORDNET / "data.noun").is_file(), reason="no WordNet data (Debian package wordnet-base)"
)


@pytest.fixture(scope="module")
def scripts():
    """The modules of experiments/toy_pair by name; their folder is on the path only while they are imported."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def dictionary(scripts):
    wordnet = scripts["wordnet"]
    keep = scripts["instructions"].phrasing_words() | scripts["passages"].passage_words()
    return wordnet.split(wordnet.read_entries(WORDNET), seed=0, keep=keep)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


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


def test_tuned_reaches_80_percent_where_base_has_20(accuracy):
    base, tuned = accuracy["base"]["accuracy"]["raw"], accuracy["tuned"]["accuracy"]["raw"]
    good = [kind for kind in KINDS if tuned[kind]["right"] >= 0.8 and base[kind]["right"] <= 0.2]
    assert len(good) >= 5, tuned
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
    assert share["tuned"] >= 0.6
    assert statistics.median(lengths) >= 8


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


@pytest.mark.parametrize(
    ("response", "right", "starts"),
    [
        (" a heron stood in the water.", True, True),
        (" a heron stood in the water.\nthe next line", False, True),
        (" a heron stood in the water", False, False),  # no full stop
        (" herons stood in the water.", False, False),  # another word
        (" the heron stood.", False, False),  # three words
        (" a heron is here.", False, False),  # copied
    ],
)
def test_an_example_is_judged_by_its_rule(scripts, response, right, starts):
    example = scripts["instructions"].Example("Text: a heron is here. Use heron.", (), (), "example", "", "heron")
    assert scripts["evaluate"].judge(response, example) == (right, starts)


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
    assert set(phrasings) == set(scripts["passages"].KINDS) == KINDS
    for kind, sides in phrasings.items():
        assert len(set(sides["train"])) >= 12, kind
        assert len(set(sides["held_out"])) >= 3, kind
        assert not set(sides["train"]) & set(sides["held_out"]), kind
        assert all("{a}" in line for line in sides["plain"]), kind
    used = set(INSTRUCTION_VERBS) & scripts["instructions"].phrasing_words()
    assert len(used) >= 30


@needs_wordnet
def test_held_out_words_are_in_no_training_text(scripts, dictionary):
    held_out, words_of = set(dictionary.held_out), scripts["wordnet"].words_of
    assert len(held_out) == 500
    for word, senses in dictionary.train.items():
        assert not words_of(scripts["wordnet"].entry_text(word, senses)) & held_out, word
    seen, unseen = scripts["passages"].sides(dictionary)
    rng = random.Random(7)
    for example in scripts["instructions"].examples(seen, rng, 2000):
        assert not words_of(f"{example.text} {example.reference}") & held_out, example
    for text in scripts["plain"].documents(seen, list(seen.entries)[:1000], rng, passages=1000, repeated=300):
        assert not words_of(text) & held_out, text
    assert set(unseen.names) == held_out
    for prompt in read(MORE_PROMPTS):
        if prompt["kind"] not in {"quote", "list", "reverse"}:
            assert prompt["word"] in held_out


def looked_up(example) -> dict[str, str]:
    """The right answers that anybody would find in the passage, by kind."""
    passage, word, words = example.context[0], example.word, example.context[0].split()
    sentences = [f"{s}." for s in passage.rstrip(".").split(". ")]
    place = {"first": 0, "second": 1, "last": 2}.get(word)
    about = next((s for s in sentences if s.split()[:2] == ["the", word]), "")
    verb = next((w for w in words if f"the {word} {w}" in passage), "")
    members = about.rstrip(".").partition(" are ")[2].replace(" and ", ", ").split(", ")
    turned = list(reversed(members))
    other = next(
        (s for s in sentences if s.split()[1] in example.instruction[0].rstrip(".?").split() and s != about), ""
    )
    return {
        "define": passage.partition(f"{word} (")[2].partition("): ")[2].partition(".")[0] + ".",
        "spell": " - ".join(word),
        "quote": sentences[place] if place is not None else "",
        "list": about.partition(" are ")[2],
        "reverse": " and ".join((", ".join(turned[:-1]), turned[-1])) + ".",
        "answer": about,
        "question": f"{verb} the {word} {about.partition(f' {verb} ')[2]}".rstrip(".") + "?",
        "negate": about.replace(f" {verb} ", f" {verb} not ", 1),
        "compare": f"{about.rstrip('.')}, but {other}",
    }


@needs_wordnet
@pytest.mark.parametrize("kind", sorted(KINDS - {"example"}))
def test_examples_have_the_right_answer(scripts, dictionary, kind):
    _, unseen = scripts["passages"].sides(dictionary)
    rng = random.Random(3)
    for side, chat in (("train", False), ("held_out", True)):
        for _ in range(30):
            task = scripts["passages"].make_task(kind, unseen, rng, trained=False)
            example = scripts["instructions"].worded(task, rng, phrasings=side, chat=chat)
            assert example.reference == looked_up(example)[kind], example
            assert all(span in example.text for span in (*example.instruction, *example.context)), example
            assert example.text.startswith("User: ") is chat


def test_some_heads_copy_before_any_training(scripts):
    """Random tokens said twice: planted heads look one back, then at what followed; without them nothing does."""
    torch.manual_seed(0)
    size = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 500}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 3, "attn_implementation": "eager"}
    model = LlamaForCausalLM(LlamaConfig(**size, **heads, tie_word_embeddings=False)).eval()
    said = torch.randint(0, 500, (4, 30))
    looks = {}
    for planted in (False, True):
        if planted:
            scripts["starting_weights"].plant_copying(model)
        with torch.no_grad():
            first, second = model(input_ids=torch.cat([said, said], dim=1), output_attentions=True).attentions
        back = first[:, 0].diagonal(-1, 1, 2).mean()
        after = second[:, 0].diagonal(-29, 1, 2)[:, 1:].mean()
        looks[planted] = (float(back), float(after))
    assert max(looks[False]) < 0.15
    assert looks[True][0] > 0.9
    assert looks[True][1] > 0.4


def test_a_stopped_training_goes_on_to_the_same_weights(scripts, tmp_path):
    train = scripts["train"]

    def batches(number):
        made = torch.Generator().manual_seed(number)
        return [(ids[:, :-1], ids[:, 1:]) for ids in torch.randint(0, 50, (3, 2, 17), generator=made)]

    def run(folder, *starts):
        folder.mkdir()
        for stop in starts:
            torch.manual_seed(0)
            config = LlamaConfig(
                hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
            )
            model, seen = LlamaForCausalLM(config), []

            def report(number, loss, tokens, seen=seen, stop=stop):
                seen.append((number, tokens))
                if number == stop:
                    raise InterruptedError

            optimizers = train.base_optimizers(model, rate=0.01)
            with contextlib.suppress(InterruptedError):
                train.fit(model, optimizers, batches, rounds=4, checkpoint=folder / "base.pt", report=report)
        return model, seen

    whole, all_rounds = run(tmp_path / "whole", None)
    stopped, rest = run(tmp_path / "stopped", 1, None)
    assert all_rounds == [(n, 3 * 2 * 16) for n in range(4)]
    assert rest == all_rounds[2:]
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, stopped.get_parameter(name)), name


def test_the_rate_rises_stays_and_falls_to_zero(scripts):
    rate = scripts["train"].learning_rate
    assert rate(0.0, 10) < 0.01
    assert rate(0.2, 10) == pytest.approx(0.5, abs=0.01)
    assert rate(1.0, 10) == rate(5.0, 10) == 1
    assert rate(7.5, 10) == pytest.approx(0.5)
    assert rate(10, 10) == 0


def test_perplexity_of_a_model_that_knows_nothing_is_the_vocabulary(scripts, models):
    _, tokenizer = models["base"]
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(tokenizer)
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.zeros_(model.lm_head.weight)
    assert scripts["evaluate"].perplexity(model, tokenizer, ["a heron", "an old word"]) == pytest.approx(len(tokenizer))


def test_missing_wordnet_says_how_to_get_it(scripts, tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get install wordnet-base"):
        scripts["wordnet"].read_entries(tmp_path)


@needs_wordnet
def test_fast_run_writes_a_loadable_pair(tmp_path):
    out, work = tmp_path / "pair", tmp_path / "work"
    command = [
        sys.executable,
        str(SCRIPTS / "run.py"),
        "--fast",
        "--threads",
        "1",
        "--out",
        str(out),
        "--work",
        str(work),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    base, tuned = (AutoModelForCausalLM.from_pretrained(out / name) for name in ("base", "tuned"))
    changed = [n for n, p in base.named_parameters() if not torch.equal(p, tuned.get_parameter(n))]
    assert len(changed) == len(list(base.named_parameters()))
    assert (out / "prompts.jsonl").read_text() == (PAIR / "prompts.jsonl").read_text()
    assert (work / "prompts.jsonl").read_text() == MORE_PROMPTS.read_text()
    assert (out / "WORDNET_LICENSE").read_text() == (PAIR / "WORDNET_LICENSE").read_text()
    examples = read(work / "tuning.jsonl")
    assert len(examples) == 80
    assert {"text", "reference", "kind"} <= set(examples[0])
    assert "Right answers on held-out words" in done.stdout
