"""Directions: by transformers' own streams in every family; a planted turn; changes by a plain hook."""

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from experiments.families import exact_rotary
from lensdiff import Prompt, directions, generate
from lensdiff.analyses.directions.measure import control_directions
from lensdiff.analyses.directions.result import CURVES, Directions
from lensdiff.analyses.directions.separation import folds_of
from lensdiff.models import Point, load_model, load_pair
from lensdiff.models.inside.precision import double_precision
from lensdiff.results import InputError, Provenance
from tests.analyses.directions.results import found as by_hand
from tests.analyses.directions.results import one
from tests.analyses.layer_similarity.test_layer_similarity import CASES
from tests.checkpoints import hf_model, tokenizer_of
from tests.models.hf_points import patched

OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": "float64"}
SINGLE: dict[str, Any] = OPTIONS | {"dtype": "float32"}
TEXTS = [
    ("Write a short poem about ", "the sea and the moon"),
    ("List three fruits and describe ", "apples and oranges"),
    ("Repeat the word that follows: ", "good morning to the city"),
    ("Translate to French: ", "the new bridge of the council"),
]
PROMPTS = [Prompt(a + b, [a.strip()], id=str(i)) for i, (a, b) in enumerate(TEXTS)]
SAID = ["the moon is good", "Apples and bananas", "good morning", "bonjour, the answer is"]
FEW: dict[str, Any] = {"permutations": 19, "draws": 2, "progress": False}


def pair_of(family: str = "llama", wrapper: str = "bridge", seeds: tuple[int, int] = (0, 1), **options: Any) -> Any:
    models = [hf_model(family, seed=seed, dtype=torch.float64) for seed in seeds]
    return load_pair(*models, tokenizer=tokenizer_of(True), wrapper=wrapper, **OPTIONS | options)


def read(pair: Any, **options: Any) -> Directions:
    given: dict[str, Any] = {"response": SAID} | FEW | options
    return directions(pair, prompts=PROMPTS, **given)


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([tokenizer_of(True)(text.strip())["input_ids"]])


def points_of(n: int) -> list[Point]:
    return [*(Point("resid_pre", i) for i in range(n)), Point("resid_post", n - 1)]


# against transformers
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_directions_are_those_of_transformers_streams(family: str, wrapper: str):
    models = [hf_model(family, seed=seed, dtype=torch.float64) for seed in (0, 1)]
    a, b = [prompt.text for prompt in PROMPTS], [text for _, text in TEXTS]
    pair = pair_of(family, wrapper)
    found = directions(pair, a, b, **FEW)
    expected = []
    for model in models:
        if wrapper == "hooked":
            exact_rotary(model)
        with torch.no_grad(), double_precision():
            sides = [
                torch.stack(
                    [
                        torch.stack([patched(family, model, ids_of(t), p, None)[0][0, -1] for p in points_of(2)])
                        for t in ts
                    ]
                )
                for ts in (a, b)
            ]
        expected.append(sides[0].mean(dim=0) - sides[1].mean(dim=0))
    torch.testing.assert_close(found.vectors, torch.stack(expected), rtol=1e-7, atol=1e-8)
    cosines = torch.cosine_similarity(*expected, dim=-1)
    torch.testing.assert_close(found.cosine[0, 1:], cosines[1:], rtol=1e-6, atol=1e-8)
    assert list(found.to_df().columns[:8]) == [
        *("layer", "cosine", "auroc_base", "auroc_tuned", "auroc_base_in_tuned", "auroc_tuned_in_base"),
        *("permuted_low", "permuted_high"),
    ]
    assert found.effects().empty


@pytest.mark.parametrize(
    ("family", "wrapper"), [c for c in CASES if c[0] in ("llama", "gpt2", "gemma2", "olmo2", "gpt_neox")]
)
def test_changed_streams_are_a_plain_hook(family: str, wrapper: str):
    pair = pair_of(family, wrapper)
    found = read(pair, layer=1, folds=4)
    folds = folds_of(4, 4, 4, paired=True, seed=0)
    for i, seed in enumerate((0, 1)):
        model = hf_model(family, seed=seed, dtype=torch.float64)
        if wrapper == "hooked":
            exact_rotary(model)
        for place in (0, 3):
            keep = [j for j in range(4) if folds[j] != folds[place]]
            rest = directions(pair, [PROMPTS[j] for j in keep], [TEXTS[j][1] for j in keep], **FEW)
            for j in (0, 1):
                added = by_hook(family, model, TEXTS[place][1], SAID[place], rest.vectors[j, 1], add=True)
                taken = by_hook(family, model, PROMPTS[place].text, SAID[place], rest.vectors[j, 1], add=False)
                assert found.effect[i, j, :, place].tolist() == pytest.approx([added, taken], abs=1e-7)
    assert found.random_effect.shape == (2, 2, 2, 2)
    assert bool((found.random_effect[:, 0, 1] == found.random_effect[:, 1, 1]).all()), "projecting sees no length"
    assert not torch.equal(found.random_effect[:, 0, 0], found.random_effect[:, 1, 0])


def by_hook(family: str, model: Any, text: str, said: str, v: torch.Tensor, *, add: bool) -> float:
    """How far a plain hook on transformers' second block moves a response's mean log-probability."""
    whole = ids_of(f"{text.strip()} {said}")
    n = ids_of(text).shape[1]
    unit = v / v.norm()

    def edit(stream: torch.Tensor) -> torch.Tensor:
        new = stream.clone()
        new[:, n - 1 :] += v if add else -(stream[:, n - 1 :] @ unit)[..., None] * unit
        return new

    scores = []
    for change in (None, edit):
        with torch.no_grad(), double_precision():
            logits = patched(family, model, whole[:, :-1], Point("resid_pre", 1), change)[1]
        log_probs = logits[0, n - 1 :].log_softmax(dim=-1)
        scores.append(float(log_probs.gather(-1, whole[0, n:, None]).mean()))
    return scores[1] - scores[0]


# planted
def test_a_gated_bias_turns_the_direction_by_a_known_angle():
    """All blocks write nothing but one neuron of the tuned model, which fires at A's last token alone."""
    angle = 0.6
    base: Any = hf_model("gpt2", dtype=torch.float64)
    with torch.no_grad():
        base.transformer.wpe.weight.zero_()
        for block in base.transformer.h:
            for out in (block.attn.c_proj, block.mlp.c_proj):
                out.weight.zero_()
                out.bias.zero_()
            block.ln_2.weight.fill_(1.0)
            block.ln_2.bias.zero_()
    tokens = [int(ids_of(f"the sea{end}")[0, -1]) for end in ("!", "?")]
    rows = base.transformer.wte.weight.detach()[tokens]
    v = rows[0] - rows[1]
    u = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u -= (u @ v) / (v @ v) * v
    u *= math.tan(angle) * v.norm() / u.norm()
    tuned = deepcopy(base)
    with torch.no_grad():
        gate, mlp = torch.nn.functional.layer_norm(rows[0], (32,)) / 32, tuned.transformer.h[0].mlp
        mlp.c_fc.weight[:, 0] = 400 * gate  # 400 at that token, less elsewhere
        mlp.c_fc.bias[0] = -360
        fired = float(torch.nn.functional.layer_norm(rows[0], (32,)) @ mlp.c_fc.weight[:, 0]) - 360
        mlp.c_proj.weight[0] = u / fired
    pair = load_pair(base, tuned, tokenizer=tokenizer_of(True), **OPTIONS)
    a, b = ([f"{text} the sea{end}" for text in ("Write about", "List", "Repeat")] for end in ("!", "?"))
    found = directions(pair, a, b, **FEW)
    torch.testing.assert_close(found.vectors[0], v.expand(3, -1))
    assert found.cosine[0].tolist() == pytest.approx([1.0, math.cos(angle), math.cos(angle)], abs=1e-9)
    torch.testing.assert_close(found.vectors[1, 2], v + u)
    assert set(found.auroc_base_in_tuned[0].tolist()) == set(found.auroc_tuned_in_base[0].tolist()) == {1.0}
    assert (found.length_auroc, found.same_last) == (0.5, 0.0), "equally long, and told apart by the last token alone"


def test_base_against_base_is_exactly_nothing():
    base: Any = hf_model("llama")
    found = read(load_pair(base, deepcopy(base), tokenizer=tokenizer_of(True), **SINGLE))
    assert found.cosine.tolist() == [[1.0] * 3]
    assert found.auroc_base.tolist() == found.auroc_tuned[0].tolist() == found.auroc_base_in_tuned[0].tolist()
    assert torch.equal(found.effect[0], found.effect[1])
    assert torch.equal(found.effect[:, 0], found.effect[:, 1])
    assert "have equal weights" in repr(found).split("\n")[0]


def test_at_the_last_token_itself_an_instruction_is_nothing():
    # without position embeddings the stream at layer 0 is the last token, the same with and without the instruction
    found = read(pair_of())
    assert not bool(found.vectors[:, 0].any())
    assert (found.cosine[0, 0], found.auroc_base[0], found.same_last) == (1.0, 0.5, 1.0)
    assert (found.permuted_low[0], found.permuted_high[0]) == (0.5, 0.5)
    at_it = read(pair_of(), layer=0)
    assert not bool(at_it.effect.any()), "adding nothing, and projecting nothing out"


# options
def test_the_default_sets_are_prompts_with_and_without_their_instruction():
    pair = pair_of()
    found = read(pair)
    apart = directions(pair, PROMPTS, [text for _, text in TEXTS], **FEW)
    torch.testing.assert_close(found.vectors, apart.vectors)
    assert (found.paired, apart.paired, found.n_a, found.n_b) == (True, False, 4, 4)
    assert found.layer == 1
    with_effects = directions(pair, PROMPTS[:3], [text for _, text in TEXTS[:3]], PROMPTS[3:], response=SAID[3:], **FEW)
    assert with_effects.prompt_id == ("3",)
    assert with_effects.effects()["n"].tolist() == [1] * 8


def test_without_responses_they_are_the_tuned_models_own():
    pair = pair_of()
    own = generate(pair.tuned, PROMPTS, max_new_tokens=3)
    found = directions(pair, prompts=PROMPTS, max_new_tokens=3, **FEW)
    pd.testing.assert_frame_equal(found.effects(), read(pair, response=own).effects())
    cut = read(pair, response=own, max_tokens=1)
    assert not torch.equal(cut.effect, found.effect)


def test_a_seed_draws_folds_permutations_and_vectors():
    pair = pair_of()
    first = folds_of(4, 4, 2, paired=True, seed=0)[:4]
    same = [first, 1 - first]
    seed = next(
        n for n in range(1, 99) if not any(torch.equal(folds_of(4, 4, 2, paired=True, seed=n)[:4], s) for s in same)
    )
    found, again, other = (read(pair, seed=n, folds=2) for n in (0, 0, seed))
    pd.testing.assert_frame_equal(found.effects(), again.effects())
    assert found.n_folds == 2
    assert not torch.equal(found.random_effect, other.random_effect)
    assert not torch.equal(found.effect, other.effect), "v is of other folds"


# controls
def test_controls_take_the_tuned_models_place():
    base, other = (hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 2))
    pair = pair_of()
    options: dict[str, Any] = OPTIONS | {"tokenizer": tokenizer_of(True)}
    found = read(pair, controls=[load_model(deepcopy(other), **options), pair.control("self", 0)])
    alone = read(load_pair(base, other, **options))
    for name in CURVES:
        torch.testing.assert_close(getattr(found, name)[1], getattr(alone, name)[0])
    assert found.cosine[2].tolist() == [1.0] * 3
    assert found.provenance.control_kinds == ("given", "self")
    again = control_directions(pair, pair.control("spectrum", 1), PROMPTS, read(pair))
    whole = read(pair, controls=[pair.control("spectrum", 1)])
    torch.testing.assert_close(again.cosine[0], whole.cosine[1])
    wide = load_model(hf_model("llama", hidden_size=64), tokenizer=tokenizer_of(True), device="cpu", verify=False)
    with pytest.raises(InputError, match="has d_model 64, expected 32"):
        read(pair, controls=[wide])


def test_bands_and_intervals_by_hand(tmp_path):
    found = by_hand({"spectrum": 19})
    frame: Any = found.to_df()
    assert frame["cosine"].tolist() == [1.0, 0.3, 0.3]
    assert (frame["cosine_control_low"][1:] > 0.8).all()
    assert frame["cosine_control_high"].max() <= 1.0
    beside = found.beside()
    assert beside is not None
    assert (beside.effect, beside.direction) == (pytest.approx(1.6 / 3), "below")
    effects: Any = found.effects()
    assert effects["effect"].tolist() == pytest.approx([1.15, -2.3] * 4)
    own = 1 + 0.1 * np.arange(4)
    np.testing.assert_allclose(
        effects.loc[0, ["low", "high"]].astype(float),
        scipy.stats.t.interval(0.95, 3, own.mean(), own.std(ddof=1) / 2),
    )
    assert effects["random_high"].max() < 0.5
    assert "add base's in base, layer 1: +1.15 nats per token" in repr(found)
    assert found.top(1)["layer"].tolist() == [1]
    pd.testing.assert_frame_equal(Directions.load(found.save(tmp_path / "x")).to_df(), frame)
    few = by_hand(n=1, draws=3)
    assert few.effects()[["low", "random_low"]].isna().to_numpy().all()
    assert few.beside() is None
    with pytest.raises(InputError, match="name='angle' is none of cosine, auroc_tuned"):
        found.band("angle")
    with pytest.raises(InputError, match="c was read on other texts than a -> b, expected the same"):
        found.with_controls([one(Provenance("", "c"), 0.1, n=2)])


# errors
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, "layer=2 given, expected 0 to 1"),
        ({"layer": -1}, "layer=-1 given, expected 0 to 1"),
        ({"folds": 1}, "folds=1 given, expected at least 2"),
        ({"permutations": 18}, "permutations=18 given, expected at least 19"),
        ({"draws": 0}, "draws=0 given, expected at least 1"),
        ({"max_tokens": 0}, "max_tokens=0 given, expected at least 1"),
        ({"level": 2.0}, "level"),
        ({"a": ["x", "y"]}, "expected both sets a and b, or prompts with their instruction marked"),
        ({"prompts": PROMPTS[:1], "response": SAID[:1]}, "1 texts against 1 were given, expected at least 2 of each"),
    ],
)
def test_what_cannot_be_is_said(options: dict, message: str):
    given: dict[str, Any] = {"prompts": PROMPTS, "response": SAID} | FEW | options
    with pytest.raises(InputError, match=message):
        directions(pair_of(), **given)


def test_a_prompt_that_cannot_be_read_is_warned_of():
    bare = Prompt("The moon", ["The moon"], id="bare")
    with pytest.warns(UserWarning, match="prompt 'bare' failed: nothing is left of prompt 'bare'"):
        found = directions(pair_of(), prompts=[*PROMPTS, bare], response=[*SAID, "a"], **FEW)
    assert (found.n_a, list(found.failures)) == (4, ["bare"])
    with pytest.raises(InputError, match="prompt '0' marks no instruction"):
        directions(pair_of(), prompts=[Prompt("The moon"), Prompt("The sea")], response=["a", "b"], **FEW)


def test_sets_go_through_the_same_door_as_prompts():
    tokenizer = deepcopy(tokenizer_of(True))
    tokenizer.chat_template = (
        "{% if 'oranges' in messages[0]['content'] %}{{ raise_exception('no oranges') }}{% endif %}"
        "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    )
    models = [hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1)]
    pair = load_pair(*models, tokenizer=tokenizer, **OPTIONS)
    others = [text.text for text in PROMPTS[2:]]
    with pytest.warns(UserWarning, match="prompt '1' failed: .*no oranges"):
        found = directions(pair, PROMPTS[:3], others, template="chat", **FEW)
    assert (found.n_a, found.n_b) == (2, 2)
    assert "no oranges" in found.failures["a 1"]
    assert found.provenance.template == "chat"
    kept = [PROMPTS[0], PROMPTS[2]]
    by_hand = directions(pair, [p.render(pair) for p in kept], [Prompt(t).render(pair) for t in others], **FEW)
    assert by_hand.provenance.template == "chat"
    pd.testing.assert_frame_equal(found.to_df(), by_hand.to_df())
    with pytest.raises(InputError, match=r"expected a Prompt, a text or a list of them, got \[\]"):
        directions(pair, [], others)
    with pytest.raises(InputError, match="1 texts against 2 were given, expected at least 2 of each"):
        directions(pair, "abcd", others)  # one text, and not four letters


def test_neither_sets_nor_prompts_is_refused():
    with pytest.raises(InputError, match="expected both sets a and b, or prompts"):
        directions(pair_of())
