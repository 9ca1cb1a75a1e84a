"""Doses: transformers' own numbers, planted changes, doses worked out by hand, and what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import lensdiff
from lensdiff import stats
from lensdiff.analyses.dose.measure import control_dose, dose
from lensdiff.analyses.dose.reading import MEASURES
from lensdiff.analyses.dose.result import ControlDose, Dose, crossing
from lensdiff.analyses.instruction_use.measure import instruction_use
from lensdiff.analyses.outputs.output_shift import output_shift
from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, load_pair, view_of
from lensdiff.models.equality import fingerprint
from lensdiff.models.inside.parts import Weight
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import generate
from lensdiff.results import InputError
from tests.analyses.dose.results import GAIN, PROMPTS
from tests.analyses.dose.results import dose as made_by_hand
from tests.checkpoints import VOCABULARY, hf_model, tokenizer_of
from tests.models.test_dosing import edited, shaken
from tests.models.test_pair import with_more_tokens

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
BOTH = ["bridge", pytest.param("hooked", marks=NO_HOOKED)]
OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": "float64"}
POEM = Prompt("Write a poem about the moon", ["Write a poem about"], ["the moon"], id="poem")
ASKED = [
    POEM,
    Prompt("Translate to French: the moon", ["Translate to French:"], id="french"),
    Prompt("List three fruits. Apples are good", ["List three fruits."], id="list"),
]
SAID = "Apples and bananas, good morning."
MEASURED = {"max_new_tokens": 5}


def pair_of(base: Any = None, tuned: Any = None, **options: Any) -> ModelPair:
    sides = (
        hf_model("llama", dtype=torch.float64) if base is None else base,
        hf_model("llama", seed=1, dtype=torch.float64) if tuned is None else tuned,
    )
    return load_pair(*sides, **({"tokenizer": tokenizer_of(True)} | OPTIONS | options))


def mixed(amount: float, *names: str) -> Any:
    """A `transformers` model between the two, of the parameters whose names hold one of these."""
    base, tuned = (hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1))
    other = dict(tuned.named_parameters())
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if any(part in name for part in names):
                parameter.add_(amount * (other[name] - parameter))
    return base


def log_probs(model: Any, before: list[int], out: list[int]) -> Tensor:
    """The log-probabilities at the response's tokens, [out_pos d_vocab], by `transformers`."""
    with torch.no_grad(), double_precision(True):
        logits = model(torch.tensor([before + out])).logits[0]
    return logits[len(before) - 1 : len(before) + len(out) - 1].log_softmax(-1)


def expected(model: Any, ends: tuple[Any, Any], prompt: Prompt, rest: str, texts: list[list[int]]) -> list[float]:
    """All measures of one prompt, from models of `transformers`."""
    tokenizer = tokenizer_of(True)
    before, without = tokenizer.encode(prompt.text), tokenizer.encode(rest)
    found: list[float] = []
    kls, uses = [], []
    for out in texts:
        own, base, tuned = (log_probs(side, before, out) for side in (model, *ends))
        said = torch.tensor(out)[:, None]
        found.append(float(own.gather(1, said).mean()))
        kls.append([float((own.exp() * (own - end)).sum(-1).mean()) for end in (base, tuned)])
        uses.append(found[-1] - float(log_probs(model, without, out).gather(1, said).mean()))
    return [*found, *np.mean(kls, axis=0).tolist(), float(np.mean(uses))]


@pytest.mark.parametrize("wrapper", BOTH)
def test_numbers_are_transformers_own(wrapper: str) -> None:
    pair, groups = pair_of(wrapper=wrapper), {"all": ("",), "W_out": ("down_proj",), "layer 1": ("layers.1.",)}
    found = dose(pair, ASKED[:2], amounts=[-0.5, 0, 0.25, 1], groups=list(groups), **MEASURED)
    assert found.texts == ("base", "tuned")
    ends = mixed(0.0, ""), mixed(1.0, "")
    table = found.to_df().set_index(["group", "amount", "prompt_id"])
    exact = 1e-9 if wrapper == "bridge" else 1e-7  # a HookedTransformer has its rotary frequencies in float32
    for prompt in ASKED[:2]:
        said = [list(generate(side, prompt, max_new_tokens=5).token_ids) for side in (pair.base, pair.tuned)]
        for group, names in groups.items():
            for amount in (-0.5, 0.0, 0.25, 1.0):
                numbers = expected(mixed(amount, *names), ends, prompt, "the moon", said)
                own = table.loc[(group, amount, prompt.id), list(MEASURES)].to_list()
                np.testing.assert_allclose(own, numbers, rtol=0, atol=exact)
        for side, end in zip(found.ends, ends, strict=True):
            row = side[found.prompt_id.index(prompt.id)]
            np.testing.assert_allclose(row, expected(end, ends, prompt, "the moon", said), rtol=0, atol=exact)


def test_a_dose_of_the_logits_is_that_of_the_logits() -> None:
    pair = pair_of()
    found = dose(pair, POEM, SAID, amounts=[-0.5, 0, 0.5, 1, 1.5], groups=["logits", "all"])
    models, tokenizer = (mixed(0.0, ""), mixed(1.0, "")), tokenizer_of(True)
    before, without = tokenizer.encode(POEM.text), tokenizer.encode("the moon")
    out = tokenizer.encode(f"{POEM.text} {SAID}")[len(before) :]
    said = torch.tensor(out)[:, None]
    for amount in (-0.5, 0.5, 1.0, 1.5):
        own = []
        for start in (before, without):
            base, tuned = (log_probs(model, start, out) for model in models)
            own.append(((1 - amount) * base + amount * tuned).log_softmax(-1).gather(1, said).mean())
        row = found.point("logits", amount)[0]
        np.testing.assert_allclose(row[[0, 1]], own[0], rtol=0, atol=1e-7)
        assert float(row[4]) == pytest.approx(float(own[0] - own[1]), abs=1e-7)  # rotary frequencies are float32
    for amount, end in ((0.0, 0), (1.0, 1)):
        np.testing.assert_allclose(found.point("logits", amount), found.ends[end], rtol=0, atol=1e-12)
    assert found.energy[:5].isnan().all()
    assert found.texts == ("given",)


def test_ends_are_what_other_analyses_say_of_the_two_models() -> None:
    pair = pair_of()
    texts = [generate(pair.tuned, prompt, max_new_tokens=5) for prompt in ASKED]
    found = dose(pair, ASKED, texts)
    use = instruction_use(pair, ASKED, texts, by="deletion").to_df()
    outputs = output_shift(pair, ASKED, texts)
    for i, prompt in enumerate(ASKED):
        for end, side in enumerate(("base", "tuned")):
            own = use[(use.prompt_id == prompt.id) & (use.model == side)].iloc[0]
            assert float(found.ends[end, i, 4]) == pytest.approx(own.use, abs=1e-9)
            assert float(found.ends[end, i, 1]) == pytest.approx(own.log_prob, abs=1e-9)
        kl = outputs.by_id[prompt.id].to_df().kl.mean()
        assert float(found.point("all", 1.0)[i, 2]) == pytest.approx(kl, abs=1e-6)
        assert float(found.point("all", 1.0)[i, 3]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("wrapper", BOTH)
def test_base_against_base_is_exactly_nothing(wrapper: str) -> None:
    pair = pair_of(tuned=hf_model("llama", dtype=torch.float64), wrapper=wrapper)
    groups = ["all", "W_out", "not W_out", "head 0.1", "logits"]
    found = dose(pair, ASKED, groups=groups, controls=[pair.control("self")], **MEASURED)
    assert bool((found.values == found.ends[0]).all())
    assert torch.equal(found.ends[0], found.ends[1])
    assert bool((found.values[:, :, 2:4] == 0).all())
    assert found.effects() == (0.0, [0.0])
    assert np.isnan(found.share())
    assert np.isnan(found.half("all"))
    assert found.summary().effect.eq(0).all()
    assert found.provenance.notice


def test_an_edit_of_one_layer_is_that_layers_alone() -> None:
    pair = pair_of(tuned=edited(shaken("layers.1.mlp.down_proj")))
    groups = ["all", "layer 1", "W_out", "mlp", "layer 0", "attention", "not W_out", "embedding"]
    found = dose(pair, ASKED, groups=groups, **MEASURED)
    for amount in (-0.5, 0.25, 1.0, 1.5):
        whole = found.point("all", amount)
        for group in ("layer 1", "W_out", "mlp"):
            assert torch.equal(found.point(group, amount), whole)
        for group in ("layer 0", "attention", "not W_out", "embedding"):
            assert torch.equal(found.point(group, amount), found.ends[0])
        assert not torch.equal(whole, found.ends[0])
    np.testing.assert_allclose(found.point("W_out", 1.0), found.ends[1], rtol=0, atol=1e-12)
    energy = dict(zip(found.group, found.energy.tolist(), strict=True))
    assert energy == dict.fromkeys(groups[:4], pytest.approx(1.0)) | dict.fromkeys(groups[4:], 0.0)


def test_no_model_is_written() -> None:
    pair = pair_of()
    views = [view_of(side) for side in (pair.base, pair.tuned)]
    before = [fingerprint(view, whole=True) for view in views]
    control = pair.control("spectrum")
    dose(pair, ASKED, groups=["all", "W_out"], controls=[control], **MEASURED)
    assert [fingerprint(view, whole=True) for view in views] == before
    assert not control.is_made, "of a control W_out alone is read"


def test_resized_vocabularies_are_read_on_the_tokens_of_both() -> None:
    tuned = hf_model("llama", seed=1, dtype=torch.float64, vocab_size=VOCABULARY + 10)
    tokenizers = {"base_options": {"tokenizer": tokenizer_of()}}
    tokenizers["tuned_options"] = {"tokenizer": with_more_tokens("<one>", "<two>")}
    pair = load_pair(hf_model("llama", dtype=torch.float64), tuned, **tokenizers, **OPTIONS)
    found = dose(pair, POEM, SAID, groups=["all", "logits"], amounts=[0.0, 1.0])
    for group in ("all", "logits"):
        np.testing.assert_allclose(found.point(group, 1.0), found.ends[1], rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.point(group, 0.0), found.ends[0], rtol=0, atol=1e-9)
    ids, mine, theirs = tokenizer_of().encode(f"{POEM.text} {SAID}"), *pair.shared_tokens
    n, place = len(ids) - len(tokenizer_of().encode(POEM.text)), {int(i): k for k, i in enumerate(mine)}
    rows = view_of(pair.tuned).forward.logits(torch.tensor([ids]))[0][-n - 1 : -1, theirs].log_softmax(-1)
    out = torch.tensor([place[i] for i in ids[-n:]])[:, None]
    assert float(found.ends[1, 0, 1]) == pytest.approx(float(rows.gather(1, out).mean()), abs=1e-9)
    assert float(found.ends[0, 0, 3]) > 0


# controls


@pytest.mark.parametrize("wrapper", BOTH)
def test_a_controls_gain_is_that_of_its_W_out_in_the_base(wrapper: str) -> None:
    pair = pair_of(wrapper=wrapper)
    controls = [pair.control("spectrum", 3), pair.control("norm", 1)]
    texts = [generate(pair.tuned, prompt, max_new_tokens=5) for prompt in ASKED]
    both = {"base": [generate(pair.base, prompt, max_new_tokens=5) for prompt in ASKED], "tuned": texts}
    found = dose(pair, ASKED, both, groups=["all", "W_out"], amounts=[0, 1], controls=controls)
    effect, gains = found.effects()
    assert effect == pytest.approx(found.effect("W_out").estimate)
    assert effect == pytest.approx(float((found.point("W_out") - found.ends[0])[:, 1].mean()))
    tokenizer, base = tokenizer_of(True), mixed(0.0, "")
    for control, gain in zip(controls, gains, strict=True):
        model = mixed(0.0, "")
        with torch.no_grad():
            for i, layer in enumerate(model.model.layers):
                value = control.weights.stored(Weight("W_out", i))
                assert value is not None
                layer.mlp.down_proj.weight.copy_(value.T)
        rows = []
        for prompt, text in zip(ASKED, texts, strict=True):
            ids, out = tokenizer.encode(prompt.text), list(text.token_ids)
            said = torch.tensor(out)[:, None]
            rows.append([float(log_probs(side, ids, out).gather(1, said).mean()) for side in (model, base)])
        assert gain == pytest.approx(float(np.subtract(*np.transpose(rows)).mean()), abs=1e-7)
        assert abs(gain) > 1e-3
    assert [c.kind for c in found.provenance.controls] == ["spectrum", "norm"]
    frame = found.controls()
    assert frame.gain.tolist() == gains
    assert frame.kind.tolist() == ["spectrum", "norm"]
    # read apart they are the same
    alone = dose(pair, ASKED, both, groups=["all", "W_out"], amounts=[0, 1])
    apart = [control_dose(pair, control, ASKED, texts) for control in controls]
    again = alone.with_controls(apart)
    assert torch.equal(again.control_log_prob, found.control_log_prob)
    assert again.provenance.controls == found.provenance.controls
    assert apart[0].to_df().prompt_id.tolist() == [prompt.id for prompt in ASKED]
    assert apart[0].top(1).log_prob.tolist() == [float(apart[0].log_prob.max())]


def test_the_tuned_models_own_W_out_as_a_control_is_the_group() -> None:
    pair = pair_of()
    found = dose(pair, ASKED, groups=["W_out"], amounts=[1], controls=[pair.tuned, pair.base], **MEASURED)
    effect, (same, none) = found.effects()
    assert same == pytest.approx(effect, abs=1e-12)
    assert none == pytest.approx(0.0, abs=1e-12)
    assert [control.kind for control in found.provenance.controls] == ["given", "given"]


# texts


def test_a_text_takes_the_place_of_both() -> None:
    found = dose(pair_of(), ASKED, [SAID] * 3, groups=["W_out"], amounts=[0.5])
    frame = found.to_df()
    assert frame.base_response_log_prob.equals(frame.tuned_response_log_prob.rename("base_response_log_prob"))
    one = dose(pair_of(), POEM, SAID, groups=["W_out"], amounts=[0.5]).to_df()
    pd.testing.assert_frame_equal(one, frame[frame.prompt_id == "poem"].reset_index(drop=True))
    assert found.n_out.shape == (3, 1)


def test_a_prompt_may_lack_a_text_or_its_instruction() -> None:
    asked = [POEM, Prompt("The moon and the sea", id="bare")]
    found = dose(pair_of(), asked, {"base": [None, SAID], "tuned": [SAID, None]}, amounts=[0, 1])
    poem, bare = found.point("all", 1.0)
    assert poem.isnan().tolist() == [True, False, False, False, False]
    assert bare.isnan().tolist() == [False, True, False, False, True]
    assert found.n_out.tolist() == [[0, found.n_out[0, 1]], [found.n_out[1, 0], 0]]
    assert found.summary(["tuned_response_log_prob"]).n.tolist() == [1]
    with pytest.raises(stats.TooFew, match="1 prompt"):
        found.effect("all")
    assert found.share("all") == pytest.approx(1.0)


def test_chunks_and_lists_change_no_number() -> None:
    pair, options = pair_of(), {"groups": ["all", "W_out", "logits"], "amounts": [0.5, 1.0]} | MEASURED
    whole = dose(pair, ASKED, **options)
    for other in (dose(pair, ASKED, max_bytes=1, **options), dose(pair, list(reversed(ASKED)), **options)):
        rows = [other.prompt_id.index(name) for name in whole.prompt_id]
        np.testing.assert_allclose(other.values[:, rows], whole.values, rtol=0, atol=1e-9)
    for i, prompt in enumerate(ASKED):
        alone = dose(pair, prompt, **options)
        np.testing.assert_allclose(alone.values[:, 0], whole.values[:, i], rtol=0, atol=1e-9)


def test_a_prompt_that_fails_leaves_the_others() -> None:
    pair = pair_of()
    with pytest.warns(UserWarning, match="prompt 'long' failed"):
        found = dose(pair, [POEM, Prompt("moon " * 200, id="long")], [SAID, SAID])
    assert found.prompt_id == ("poem",)
    assert set(found.failures) == {"long"}
    assert found.values.shape == (7, 1, 5)


def test_amounts_may_differ_by_group() -> None:
    amounts = {"all": [0, 0.5, 1], "W_out": [1]}
    found = dose(pair_of(), POEM, SAID, groups=["all", "W_out"], amounts=amounts)
    assert [found.amounts(group) for group in amounts] == [[0, 0.5, 1], [1]]
    assert found.provenance.options["amounts"] == {"all": [0.0, 0.5, 1.0], "W_out": [1.0]}
    assert lensdiff.dose is dose


def test_a_saved_dose_is_the_same(tmp_path) -> None:
    pair = pair_of()
    found = dose(pair, ASKED, groups=["W_out", "all"], controls=[pair.control("norm")], **MEASURED)
    again = Dose.load(found.save(tmp_path / "dose.safetensors"))
    pd.testing.assert_frame_equal(again.to_df(), found.to_df())
    assert again.effects() == found.effects()
    assert repr(again) == repr(found)


# what follows of numbers made by hand


def test_curves_shares_and_halves_of_a_change_that_follows_the_dose() -> None:
    found = made_by_hand()
    gains = GAIN + np.arange(4) / 10
    assert found.effect("all").to_dict() == stats.paired(gains - 3, np.full(4, -3.0)).to_dict()
    assert found.effect("tuned").estimate == pytest.approx(gains.mean())
    assert found.effect("W_out", 0.5).estimate == pytest.approx(gains.mean() / 8)
    assert found.effect("all", measure="kl_to_tuned").estimate == pytest.approx(-1.0)
    assert found.share() == pytest.approx(0.25)
    assert found.share("not W_out", 0.5) == pytest.approx(0.25)
    curve = found.curve("W_out")
    assert curve.amount.tolist() == [-0.5, 0, 0.5, 1, 1.5]
    assert curve["mean"].tolist() == pytest.approx((-3 + 0.25 * curve.amount * gains.mean()).tolist())
    assert (curve.low[4], curve.high[4]) == pytest.approx(
        (lambda t: (t.low, t.high))(stats.one_sample(-3 + 0.375 * gains))
    )
    for group in found.groups:
        for measure in MEASURES:
            assert found.half(group, measure) == pytest.approx(0.5)
    summary = found.summary()
    assert summary.columns.tolist() == ["group", "measure", "n", "effect", "low", "high", "p", "share", "half"]
    assert len(summary) == 15
    assert found.top(2).group.tolist() == ["all", "not W_out"]
    said = repr(found)
    assert "W_out alone: +0.537" in said
    assert "25% of the whole" in said


def test_one_prompt_has_an_effect_and_no_limits() -> None:
    said = repr(dose(pair_of(), POEM, SAID, groups=["all", "W_out"]))
    assert said.startswith("Dose of ")
    assert ", 1 prompt:" in said
    assert "all alone: " in said
    assert "nan" not in said


def test_the_half_is_where_lines_cross_it() -> None:
    assert crossing([0.0, 0.5, 1.0], [0.0, 0.9, 1.0], 0.5) == pytest.approx(0.5 * 5 / 9)
    assert crossing([0.0, 0.5, 1.0], [0.0, -1.0, 1.0], 0.5) == pytest.approx(0.875)
    assert crossing([0.0, 0.5, 1.0], [0.0, 2.0, 1.0], 0.5) == pytest.approx(0.125)
    assert crossing([0.0, 0.5, 1.0], [1.0, 0.5, 0.0], 0.5) == 0.5
    assert np.isnan(crossing([0.0, 1.0], [1.0, 2.0], 0.5))
    found = made_by_hand()
    bent = found.values.clone()
    bent[2, :, 1] = bent[3, :, 1] - 0.1  # all at 0.5 does all but a tenth of a nat
    done = (GAIN + 0.15 - 0.1) / (GAIN + 0.15)
    assert replace(found, values=bent).half("all") == pytest.approx(0.5 * 0.5 / done)


def test_what_is_about_nothing_has_no_share_and_no_half() -> None:
    found = made_by_hand()
    ends, values = found.ends.clone(), found.values.clone()
    change = torch.tensor([1.0, -1.0, 1.0, -1.1], dtype=torch.float64)
    ends[1, :, 1] = ends[0, :, 1] + change
    values[3, :, 1] = ends[1, :, 1]
    noise = replace(found, ends=ends, values=values)
    assert np.isnan(noise.share())
    assert np.isnan(noise.half("all"))
    assert noise.half("W_out") == pytest.approx(0.5)
    named = zip(found.group, found.amount.tolist(), strict=True)
    few = replace(found, group=tuple(f"{group} half" if amount == 0.5 else group for group, amount in named))
    assert np.isnan(few.half("all")), "nothing between 0 and 1"


def test_controls_stand_beside_kind_by_kind() -> None:
    found = made_by_hand(controls={"spectrum": 19, "norm": 20})
    effect, gains = found.effects()
    assert effect == pytest.approx(0.25 * (GAIN + 0.15))
    base = found.ends[0, :, 1]
    assert gains == pytest.approx((found.control_log_prob - base).mean(dim=1).tolist())
    envelope = found.beside()
    assert envelope is not None
    assert envelope.effect == effect
    assert [(kind.kind, kind.n) for kind in envelope.kinds] == [("spectrum", 19), ("norm", 20)]
    expected = stats.against_controls(effect, {"spectrum": gains[:19], "norm": gains[19:]}).envelope
    assert envelope == expected
    assert made_by_hand().beside() is None
    assert "W_out beside controls" in repr(found)
    lost = found.control_log_prob.clone()
    lost[0, 0] = torch.nan  # a prompt that one lacks counts in none
    assert replace(found, control_log_prob=lost).effects()[0] == pytest.approx(0.25 * (GAIN + 0.2))


# what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": ["all", "W_x"]}, "there is no group 'W_x' of weights, expected one of all, attention, mlp, embed"),
        ({"groups": ["head 0.4"]}, "there is no group 'head 0.4'"),
        ({"groups": ["kv 0.2"]}, "there is no group 'kv 0.2'"),
        ({"groups": []}, r"groups=\[\] given, expected at least one name of a group, each once"),
        ({"groups": "all"}, "groups='all' given, expected at least one name"),
        ({"groups": ["all", "all"]}, "each once"),
        ({"groups": ["not logits"]}, "there is no group 'not logits'"),
        ({"amounts": []}, r"amounts=\[\] given, expected at least one finite number, each once"),
        ({"amounts": [1, 1.0]}, "each once"),
        ({"amounts": [float("nan")]}, "expected at least one finite number"),
        ({"amounts": [float("inf")]}, "expected at least one finite number"),
        ({"amounts": [True]}, "expected at least one finite number"),
        ({"amounts": {"W_out": [1]}}, "amounts are given for W_out, expected all as the groups"),
        ({"response": {"base": SAID}}, "responses are given for base, expected base and tuned"),
        ({"response": " "}, "the response is an empty text"),
        ({"response": [SAID]}, "one prompt takes one response, given a list"),
        ({"response": {"base": None, "tuned": None}}, "nothing answers prompt 'poem': there is no text to read"),
    ],
)  # fmt: skip
def test_what_cannot_be_dosed_is_refused(options: dict[str, Any], said: str) -> None:
    given = {"response": SAID} | options
    if options.get("response") == {"base": None, "tuned": None}:
        given["response"] = {"base": [None], "tuned": [None]}
        with pytest.raises(InputError, match=said):
            dose(pair_of(), [POEM], **given)
        return
    with pytest.raises(InputError, match=said):
        dose(pair_of(), POEM, **given)


def test_controls_need_the_headline() -> None:
    pair = pair_of()
    for options in ({"groups": ["all"]}, {"groups": ["W_out"], "amounts": [0.5]}):
        with pytest.raises(InputError, match="controls stand beside the group 'W_out' at amount 1"):
            dose(pair, POEM, SAID, controls=[pair.control("norm")], **options)


def test_controls_of_another_shape_are_refused() -> None:
    other = load_pair(*(hf_model("llama", num_hidden_layers=3, dtype=torch.float64) for _ in range(2)),
                      tokenizer=tokenizer_of(True), **OPTIONS)  # fmt: skip
    with pytest.raises(InputError, match=r"has layers and d_model \(3, 32\), expected the base's \(2, 32\)"):
        dose(pair_of(), POEM, SAID, groups=["W_out"], controls=[other.base])
    wider = load_pair(*(hf_model("llama", intermediate_size=64, dtype=torch.float64) for _ in range(2)),
                      tokenizer=tokenizer_of(True), **OPTIONS)  # fmt: skip
    with pytest.raises(InputError, match=r"W_out of layer . is \(64, 32\), expected \(48, 32\)"):
        dose(pair_of(), POEM, SAID, groups=["W_out"], controls=[wider.base])


def test_half_precision_takes_no_controls() -> None:
    pair = pair_of(*(hf_model("llama", seed=seed) for seed in (0, 1)), dtype="bfloat16")
    found = dose(pair, POEM, SAID, amounts=[0, 0.5, 1])
    assert found.values.isfinite().all()
    with pytest.raises(InputError, match="a control's W_out cannot be put into a model in bfloat16"):
        dose(pair, POEM, SAID, groups=["W_out"], controls=[pair.base])


def test_a_pair_that_keeps_one_model_is_refused(tmp_path) -> None:
    for seed, name in enumerate(("base", "tuned")):
        hf_model("llama", seed=seed).save_pretrained(tmp_path / name)
        tokenizer_of(True).save_pretrained(tmp_path / name)
    pair = load_pair(tmp_path / "base", tmp_path / "tuned", keep="one", device="cpu", verify=False)
    with pytest.raises(InputError, match='load the pair with keep="both"'):
        dose(pair, POEM, SAID)


def test_results_are_asked_for_what_they_have() -> None:
    found = made_by_hand()
    for ask, said in (
        (lambda: found.point("mlp"), "group='mlp' was not dosed, expected one of all, W_out, not W_out"),
        (lambda: found.point("all", 0.7), "all was not dosed by 0.7, expected one of -0.5, 0, 0.5, 1, 1.5"),
        (lambda: found.curve("all", "loss"), "measure='loss' is none of base_response_log_prob"),
        (lambda: found.effect("tuned", measure="x"), "measure='x' is none of"),
        (lambda: made_by_hand(groups=["all"]).effects(), "group='W_out' was not dosed"),
        (lambda: replace(found, ends=found.ends * torch.nan).effects(), "no prompt has a response of the tuned"),
    ):
        with pytest.raises(InputError, match=said):
            ask()


def test_controls_read_otherwise_are_refused() -> None:
    found = made_by_hand()
    control = ControlDose(found.provenance, PROMPTS, torch.full((4,), 8), found.ends[0, :, 1], True)
    assert found.with_controls([control]).effects()[1] == [0.0]
    same = replace(control, log_prob=control.log_prob * torch.nan, changed=False)
    assert found.with_controls([same]).effects()[1] == [0.0]
    longer = replace(control, n_out=torch.tensor([8, 8, 9, 8]))
    with pytest.raises(InputError, match="read 9 tokens of prompt 'french', expected 8 as the pair"):
        found.with_controls([longer])
    fewer = replace(control, prompt_id=PROMPTS[:3], n_out=control.n_out[:3], log_prob=control.log_prob[:3])
    with pytest.raises(InputError, match="did not read prompt 'repeat', which the pair did"):
        found.with_controls([fewer])
    with pytest.raises(InputError, match="group='W_out' was not dosed"):
        made_by_hand(groups=["all"]).with_controls([control])


def test_a_copy_of_the_table_is_tidy() -> None:
    frame = made_by_hand().to_df()
    assert frame.columns.tolist() == ["prompt_id", "group", "amount", *MEASURES]
    assert not frame.duplicated(["prompt_id", "group", "amount"]).any()
    assert len(frame) == 3 * 5 * 4
    own = frame[(frame.group == "W_out") & (frame.amount == 1.0) & (frame.prompt_id == "french")].iloc[0]
    assert own.tuned_response_log_prob == pytest.approx(-3 + 0.25 * (GAIN + 0.2))
