"""Load, generate, attribute, report: the few tests that run on every set of versions, against transformers itself."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lensdiff.analyses import ANALYSES
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.cli import main
from lensdiff.inputs import toy_pair
from lensdiff.models import load_model, view_of
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import generate
from lensdiff.pipeline.report import in_order
from lensdiff.results import ResultStore
from tests.checkpoints import TEXT, hf_model, save_checkpoint, tokenizer_of

WRAPPERS = ("bridge",) if HookedTransformer is None else ("bridge", "hooked")
CASES = [("llama", "bridge"), ("gemma2", "bridge")] + [("llama", "hooked"), ("gpt2", "hooked")] * ("hooked" in WRAPPERS)
PROMPT, NEW = TEXT[2][:24], 8
CONFIG = """
base = "{base}"
tuned = "{tuned}"
out = "{out}"
max_new_tokens = 4
templates = ["raw", "chat"]
[controls]
kinds = ["spectrum"]
instruction_use = 1
dose = 1
residual_stream = 1
layer_similarity = 1
directions = 1
activation_difference = 1
attention = 0
heads = 0
mlp = 2
value_rotation = 2
attribute = 0
patch = 1
[mlp]
layers = [0]
n_components = 8
ranks = [1, 4]
[heads]
layers = [0]
top_k = 10
[[prompt]]
text = "Tell me how to spell disinvest."
instruction = ["Tell me how to spell"]
[[prompt]]
text = "Repeat this word: moon"
instruction = ["Repeat this word:"]
"""


def transformers_model(folder: Path) -> PreTrainedModel:
    """The checkpoint as transformers loads it; eager, since its faster attention leaves Gemma 2's soft cap out."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")


def own_tokens(model: PreTrainedModel, ids: list[int]) -> list[int]:
    """What transformers' model says, each token the argmax of a pass over the whole text; the end token is left out."""
    found, ends = list(ids), model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    while len(found) < len(ids) + NEW:
        with torch.no_grad():
            token = int(model(torch.tensor([found]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        found.append(token)
    return found[len(ids) :]


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_load_and_generate(family, wrapper, tmp_path):
    folder = save_checkpoint(family, tmp_path / "model", tie_word_embeddings=False)
    model, source = load_model(folder, wrapper=wrapper, device="cpu"), transformers_model(folder)
    ids = tokenizer_of()(PROMPT)["input_ids"]
    with torch.no_grad():
        expected, logits = source(torch.tensor([ids])).logits, view_of(model).forward.logits(torch.tensor([ids]))
    assert view_of(model).info.wrapper == wrapper
    assert float((logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    tokens = own_tokens(source, ids)
    assert len(set(tokens)) > 1, "an answer of one token again and again would prove little"
    assert list(generate(model, PROMPT, max_new_tokens=NEW).token_ids) == tokens


@pytest.mark.parametrize(("family", "wrapper"), [(family, wrapper) for family, wrapper in CASES if family != "llama"])
def test_attribution_equals_autograd_through_transformers_in_float64(family, wrapper):
    model = load_model(
        hf_model(family, dtype=torch.float64), tokenizer=tokenizer_of(), wrapper=wrapper, dtype="float64", device="cpu"
    )
    found = attribute(model, PROMPT, "the moon", deletion_draws=0)
    tokens = tokenizer_of()(f"{PROMPT.strip()} the moon", return_tensors="pt")["input_ids"][0]
    n, source = found.scores.shape[0], hf_model(family, dtype=torch.float64)
    embedded = source.get_input_embeddings()(tokens[None]).detach().requires_grad_()
    with double_precision():  # transformers' norms and softmax round to float32 otherwise
        values = source(inputs_embeds=embedded).logits[0, n - 1 : -1].softmax(-1).gather(-1, tokens[n:, None])[:, 0]
        gradients = [torch.autograd.grad(value, embedded, retain_graph=True)[0][0, :n] for value in values]
    expected = torch.stack([(gradient * embedded[0, :n]).sum(-1) for gradient in gradients], dim=1).detach()
    size = float(expected.abs().max())
    assert size > 1e-6, "an oracle of zeros would prove nothing"
    torch.testing.assert_close(found.scores, expected, atol=1e-9 * size, rtol=1e-9)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("folder", [toy_pair.BASE, toy_pair.TUNED], ids=["base", "tuned"])
def test_the_toy_pair_says_what_transformers_makes_of_it(folder, wrapper):
    text = json.loads(toy_pair.PROMPTS.read_text().split("\n")[0])["text"]
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    expected = own_tokens(transformers_model(folder), ids)
    assert expected
    response = generate(load_model(folder, wrapper=wrapper, device="cpu"), text, max_new_tokens=NEW)
    assert list(response.token_ids) == expected


def test_the_command_makes_a_report_of_the_toy_pair(tmp_path: Path):
    config, out = tmp_path / "run.toml", tmp_path / "out"
    config.write_text(CONFIG.format(base=toy_pair.BASE, tuned=toy_pair.TUNED, out=out))
    assert main(["run", str(config), "--quiet"]) == 0
    assert {state.state for state in ResultStore(out).manifest.steps.values()} == {"done"}
    page = (out / "report.html").read_text()
    for analysis, _ in in_order(ANALYSES):
        is_there = f'<section id="{analysis.name}"' in page
        assert is_there == (analysis.done != "apart"), analysis.name
