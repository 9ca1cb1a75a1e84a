"""The scripts that make the toy pair work from the dictionary to the folder.

Oracles: answers looked up in the passage by other means, singular values, an unbroken training, a uniform model.
"""

import contextlib
import random
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lensdiff.inputs.toy_pair import FOLDER as PAIR
from lensdiff.inputs.verbs import INSTRUCTION_VERBS
from tests.experiments.conftest import SCRIPTS, needs_wordnet, read
from tests.experiments.test_toy_pair import KINDS, MORE_PROMPTS, models, monkeypatch_module

__all__ = ["models", "monkeypatch_module"]


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
                train.fit(model, optimizers, batches, cycles=(2, 2), checkpoint=folder / "base.pt", report=report)
        return model, seen

    whole, all_rounds = run(tmp_path / "whole", None)
    stopped, rest = run(tmp_path / "stopped", 1, None)
    assert all_rounds == [(n, 3 * 2 * 16) for n in range(4)]
    assert rest == all_rounds[2:]
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, stopped.get_parameter(name)), name


def test_the_rate_rises_stays_and_falls_to_zero_in_each_cycle(scripts):
    def rate(position):
        return scripts["train"].learning_rate(position, (10, 6))

    assert rate(0.0) < 0.01
    assert rate(0.2) == pytest.approx(0.5, abs=0.01)
    assert rate(1.0) == rate(5.0) == 1
    assert rate(7.5) == pytest.approx(0.5)
    assert rate(10 - 1e-9) == pytest.approx(0, abs=1e-6)
    assert rate(10.0) < 0.01
    assert rate(10.4) == rate(13.0) == 1
    assert rate(14.5) == pytest.approx(0.5)
    assert rate(16) == 0


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
