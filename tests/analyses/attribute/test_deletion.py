"""The deletion check: every effect is what one whole pass of each text says, and no text is read twice."""

from typing import Any

import pytest
import torch

from lensdiff.analyses.attribute import deletion
from lensdiff.analyses.attribute.deletion import deletion_check
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.targets import TARGETS
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import load_model, view_of
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.plain.branching import final_of
from lensdiff.models.text import encode
from tests.checkpoints import hf_model, tokenizer_of

needs_hooked = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
# absolute positions, rotary ones, a sliding window, linear biases
CASES = [(family, "bridge", False) for family in ("gpt2", "llama", "mistral", "gemma2", "bloom", "falcon", "opt")]
CASES += [
    pytest.param(family, "hooked", False, marks=needs_hooked) for family in ("gpt2", "gpt_neox", "mistral", "qwen3")
]
CASES.append(("llama", "auto", True))
PROMPT, RESPONSE, SEED = "List three fruits that are good for you", " apples, bananas and oranges of course", 0


def model_of(family: str, wrapper: str = "auto", *, bos: bool = False) -> Any:
    source = hf_model(family, dtype=torch.float64)
    return load_model(source, tokenizer=tokenizer_of(bos), wrapper=wrapper, dtype="float64", device="cpu")


def effect(model: Any, encoded: Any, target: str, gone: list[int]) -> float:
    """The definition, by a pass of its own over each of the two texts."""
    ids, said = list(encoded.ids), torch.tensor(encoded.response_ids)
    left = [t for i, t in enumerate(ids) if i - encoded.n_special not in gone]
    means = []
    for text in (ids, left):
        logits = view_of(model).forward.logits(torch.tensor([text]))[0, -len(said) - 1 : -1]
        means.append(float(TARGETS[target](logits, said).mean()))
    return means[0] - means[1]


def drawn(n: int, k: int, draws: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randperm(n, generator=generator)[:k].tolist() for _ in range(draws)]


@pytest.mark.parametrize(("family", "wrapper", "bos"), CASES)
def test_every_effect_is_that_of_a_pass_over_each_text_alone(family, wrapper, bos):
    model, target = model_of(family, wrapper, bos=bos), "log_probability"
    found = attribute(model, PROMPT, RESPONSE, target=target)
    encoded = encode(view_of(model), Prompt(PROMPT), RESPONSE)
    top = found.scores.sum(dim=1).topk(3).indices.tolist()
    assert found.deletion is not None
    assert found.deletion.effect == pytest.approx(effect(model, encoded, target, top), abs=1e-9)
    expected = [effect(model, encoded, target, gone) for gone in drawn(encoded.n_prompt, 3, 8)]
    assert list(found.deletion.random) == pytest.approx(expected, abs=1e-9)
    assert max(map(abs, expected)) > 1e-4


@pytest.mark.filterwarnings("ignore:the integrated gradients")
@pytest.mark.parametrize("path", ["point", "integrated"])
@pytest.mark.parametrize("target", list(TARGETS))
def test_the_prompt_as_it_is_has_the_maps_own_targets(path, target):
    model = model_of("llama")
    found = attribute(model, PROMPT, RESPONSE, target=target, path=path, nodes=2)
    encoded = encode(view_of(model), Prompt(PROMPT), RESPONSE)
    (gone,) = drawn(encoded.n_prompt, 3, 1)
    assert found.deletion is not None
    assert found.deletion.random[0] == pytest.approx(effect(model, encoded, target, gone), abs=1e-9)


@pytest.fixture
def texts(monkeypatch) -> list[Any]:
    """Texts that are read."""
    read: list[Any] = []

    def counted(view: Any, some: Any, n_out: int) -> torch.Tensor:
        read.extend(some)
        return final_of(view, some, n_out)

    monkeypatch.setattr(deletion, "final_of", counted)
    return read


@pytest.mark.parametrize("wrapper", [pytest.param("hooked", marks=needs_hooked), "bridge"])
def test_sets_that_leave_the_same_text_are_read_once_and_say_the_same(wrapper, texts):
    model = model_of("qwen2", wrapper)
    view, target = view_of(model), TARGETS["probability"]
    encoded = encode(view, Prompt("the the the moon"), " is far away")
    assert len(set(encoded.prompt_ids)) < encoded.n_prompt, "tokens that are equal, so that other sets leave the same"
    n = encoded.n_prompt
    found = deletion_check(
        view, encoded, target, torch.arange(n)[:, None].double(), torch.zeros(1), draws=12, k=2, seed=SEED
    )
    sets = [[n - 1, n - 2], *drawn(n, 2, 12)]
    left = [tuple(t for i, t in enumerate(encoded.ids[:-1]) if i not in gone) for gone in sets]
    assert sorted(texts) == sorted(set(left))
    assert len(texts) < len({frozenset(gone) for gone in sets}) < 13
    assert found is not None
    by_text = dict(zip(left, (found.effect, *found.random), strict=True))
    assert [by_text[text] for text in left] == [found.effect, *found.random], "to the last bit"


def test_a_prompt_of_few_tokens_is_read_no_more_often_than_there_are_sets(texts):
    found = attribute(model_of("llama"), "the moon is", " far away", deletion_draws=50)
    n = len(found.in_tokens)
    assert found.deletion is not None
    assert found.deletion.k == min(3, n - 1)
    assert len(texts) <= torch.combinations(torch.arange(n), found.deletion.k).shape[0] < 50
