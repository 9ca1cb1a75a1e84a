"""The four cells: transformers' own modules patched, planted changes above, below and on both sides, controls."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats

from experiments.families import exact_rotary
from lensdiff import first_divergence
from lensdiff.analyses.first_divergence.cells import ROWS
from lensdiff.analyses.first_divergence.measure import control_divergence
from lensdiff.analyses.first_divergence.result import FirstDivergence, effects_of, headline_of
from lensdiff.models import load_pair, view_of
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import generate
from lensdiff.results import InputError
from lensdiff.stats import TooFew, rank_band
from tests.analyses.first_divergence.parting import N_LAYERS, OPTIONS, PROMPTS, cells_of, nearby, pair_of, small
from tests.checkpoints import hf_model, save_checkpoint, tokenizer_of
from tests.models.test_forced_text import cycled

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
BRIDGED = ("gpt2", "gpt_neox", "llama", "gemma2", "olmo2", "phi3", "mistral", "qwen3", "granite", "bloom", "mixtral")
CASES = [(family, "bridge") for family in BRIDGED]
CASES += [pytest.param(family, "hooked", marks=NO_HOOKED) for family in ("gpt2", "gpt_neox", "llama", "qwen2")]
COLUMNS = ["prompt_id", "position", "base_token", "tuned_token", "layer", "portable", "matched", "interaction"]
COLUMNS += ["yield_bb", "yield_bt", "yield_tb", "yield_tt"]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    base = small()
    return base, nearby(base)


@pytest.fixture(scope="module")
def pair(models):
    return pair_of(*models)


@pytest.fixture(scope="module")
def result(pair) -> FirstDivergence:
    return first_divergence(pair, PROMPTS, draws=100, progress=False)


def at(frame: pd.DataFrame, layer: int) -> pd.DataFrame:
    return frame[frame.layer == layer]


# against transformers
@pytest.mark.parametrize(("family", "wrapper"), CASES)
@pytest.mark.parametrize("unembed", ["base", "tuned"])
def test_the_cells_are_those_of_transformers_patched_by_hand(family, wrapper, unembed):
    base = hf_model(family, dtype=torch.float64)
    models = {"base": base, "tuned": hf_model(family, seed=1, dtype=torch.float64)}
    pair = pair_of(copy.deepcopy(base), copy.deepcopy(models["tuned"]), wrapper=wrapper)
    found = first_divergence(pair, PROMPTS[1], unembed=unembed, draws=0)
    if wrapper == "hooked":
        for model in models.values():
            exact_rotary(model)
    frame = found.to_df()
    assert frame.columns.tolist() == COLUMNS
    assert frame.layer.tolist() == [0, 1, 2]
    less, more = found.choices[0].tolist()
    for row in frame.to_dict("records"):
        expected = cells_of(family, models, unembed, found.read[0], row["position"], row["layer"], more, less)
        scale = max(map(abs, expected.values()))
        for cell, value in expected.items():
            assert row[f"yield_{cell}"] == pytest.approx(value, abs=1e-8 * scale), (row["layer"], cell)
        assert row["portable"] == pytest.approx(expected["bt"] - expected["bb"], abs=1e-8 * scale)
        assert row["matched"] == pytest.approx(expected["tt"] - expected["tb"], abs=1e-8 * scale)
        assert row["interaction"] == row["matched"] - row["portable"]
    assert frame.iloc[1][["yield_bt", "yield_tb"]].nunique() == 2, "cells that do not differ prove nothing"


def test_a_model_under_its_own_unembedding_is_itself(pair):
    (name, prompt) = ("p1", PROMPTS[1])
    for side, cell in (("base", "bb"), ("tuned", "tt")):
        found = first_divergence(pair, prompt, unembed=side, draws=0)
        view, frame = view_of(getattr(pair, side)), found.to_df()
        logits = view.forward.logits(torch.tensor([found.read[0]]))[0, -1]
        own = float(logits[found.choices[0, 1]] - logits[found.choices[0, 0]])
        assert frame[f"yield_{cell}"].tolist() == pytest.approx([own] * len(frame), abs=1e-12)
        assert (own > 0) == (side == "tuned"), "each prefers its own choice"
        assert set(frame.prompt_id) == {name}
    assert torch.equal(found.with_other, first_divergence(pair, prompt, unembed="base", draws=0).yields)


def test_positions_beside_it_are_scored_like_it(models, pair, result):
    names = dict(zip(("base", "tuned"), models, strict=True))
    place = int(result.n_later.argmax())
    start, n_prompt = result.position[place], len(result.read[place]) - len(result.common[place])
    said = generate(pair.tuned, PROMPTS[int(result.prompt_id[place][1:])], max_new_tokens=64).token_ids
    ids = [*result.read[place][:n_prompt], *said[:-1]]
    tokens = torch.tensor([ids])
    base, tuned = (view_of(model).forward.logits(tokens)[0].argmax(-1).tolist() for model in (pair.base, pair.tuned))
    again = [p for p in range(start + 1, len(ids)) if base[p] != tuned[p]]
    assert len(again) == result.n_later[place] > 1
    assert result.n_earlier[place] == start, "all positions of prompt and response before it"
    less, more = result.choices[place].tolist()
    later = [cells_of("llama", names, "base", ids, p, result.headline, tuned[p], base[p]) for p in again]
    earlier = [cells_of("llama", names, "base", ids, p, result.headline, more, less) for p in range(start)]
    for cells, mean in ((later, result.later[place]), (earlier, result.earlier[place])):
        for cell, got in zip(("bb", "bt", "tb", "tt"), mean.flatten().tolist(), strict=True):
            assert got == pytest.approx(np.mean([one[cell] for one in cells]), abs=1e-6)
    frame = result.means()
    for at_, yields in (("later", result.later), ("earlier", result.earlier)):
        some = yields[~yields[:, 0, 0].isnan()]
        rows = frame[frame["at"] == at_].set_index("effect")
        assert rows["mean"].tolist() == pytest.approx(effects_of(some).mean(0).tolist())
        assert set(rows.n) == {len(some)}
        assert set(rows.layer) == {result.headline}


# planted
def edited(base: Any, layer: int) -> Any:
    """The same model with another MLP in one layer."""
    other = copy.deepcopy(base)
    with torch.no_grad():
        weight = other.model.layers[layer].mlp.down_proj.weight
        weight.add_(weight.std() * torch.randn(weight.shape, dtype=weight.dtype, generator=torch.manual_seed(3)))
    return other


@pytest.mark.parametrize("layer", [1, 2])
def test_a_change_above_acts_on_either_stream_alike_and_one_below_not_through_the_blocks(layer):
    base = small()
    found = first_divergence(pair_of(base, edited(base, layer)), PROMPTS, draws=0, progress=False)
    assert len(found.prompt_id) > 1
    frame = found.to_df()
    above = frame[frame.layer <= layer]  # the stream enters at or below the layer that was changed
    assert (above.interaction == 0).all()
    assert (above.portable == above.matched).all()
    assert (above.portable.abs() > 1e-3).all()
    below = frame[frame.layer > layer]
    assert set(below.layer) == set(range(layer + 1, N_LAYERS + 1))
    for effect in ("portable", "matched", "interaction"):
        assert (below[effect] == 0).all()
    assert (below.yield_tb == below.yield_tt).all()
    assert (below.yield_tt - below.yield_bb > 1e-3).all(), "the change acts, through the stream alone"


def flagged() -> tuple[Any, Any, int]:
    """A pair whose tuned model writes a flag in layer 0 and reads it by a ReLU in layer 3; what the reader then says.

    The flag is a coordinate of the stream that nothing else writes or reads.
    """
    base, flag, token = small(hidden_act="relu"), 31, 77
    with torch.no_grad():
        base.model.embed_tokens.weight[:, flag] = 0
        base.lm_head.weight[:, flag] = 0
        for block in base.model.layers:
            attention, mlp = block.self_attn, block.mlp
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                reader.weight[:, flag] = 0
            for writer in (attention.o_proj, mlp.down_proj):
                writer.weight[flag] = 0
        first, last = base.model.layers[0].mlp, base.model.layers[3].mlp
        first.down_proj.weight[:, :2] = 0  # neurons of the tuned model's own
        last.down_proj.weight[:, 0] = 0
        last.gate_proj.weight[0] = last.up_proj.weight[0] = 0
        tuned = copy.deepcopy(base)
        first, last = tuned.model.layers[0].mlp, tuned.model.layers[3].mlp
        along = torch.randn(32, dtype=torch.float64, generator=torch.manual_seed(1))
        along[flag] = 0
        for neuron, sign in ((0, 1), (1, -1)):  # (along x) squared: the flag is written everywhere
            first.gate_proj.weight[neuron] = first.up_proj.weight[neuron] = sign * along
            first.down_proj.weight[flag, neuron] = 5.0
        last.gate_proj.weight[0, flag] = last.up_proj.weight[0, flag] = 5.0
        said = tuned.lm_head.weight[token]
        last.down_proj.weight[:, 0] = 100 * said / said.norm()
    return base, tuned, token


def test_a_flag_from_below_that_is_read_above_is_all_interaction():
    base, tuned, token = flagged()
    found = first_divergence(pair_of(base, tuned), PROMPTS, draws=0, progress=False)
    assert found.choices[:, 1].tolist() == [token] * len(PROMPTS), "the reader speaks"
    frame = found.to_df()
    between = frame[frame.layer.between(1, 3)]
    np.testing.assert_allclose(between.portable, 0, atol=1e-9)
    assert (between.matched > 1).all()
    np.testing.assert_allclose(between.interaction, between.matched, atol=1e-9)
    assert (at(frame, 0).portable > 1).all(), "from layer 0 on the tuned blocks write the flag themselves"


def test_the_base_in_the_tuned_models_place_has_no_effect(pair):
    found = first_divergence(pair, PROMPTS[:2], controls=[pair.control("self", 0)], draws=0, progress=False)
    assert found.controls.shape == (1, 2, 2, 2, N_LAYERS + 1)
    assert effects_of(found.controls.movedim(-1, 0)).eq(0).all()
    assert torch.equal(found.controls[0, :, 0, 0], found.yields[:, 0, 0])


def test_with_the_labels_exchanged_the_effects_change_places(models, result):
    other = first_divergence(pair_of(*models[::-1]), PROMPTS, unembed="tuned", draws=0, progress=False)
    assert other.prompt_id == result.prompt_id
    assert (other.base_token, other.tuned_token) == (result.tuned_token, result.base_token)
    ours, theirs = result.to_df(), other.to_df()
    np.testing.assert_allclose(theirs.portable, ours.matched, atol=1e-9)
    np.testing.assert_allclose(theirs.matched, ours.portable, atol=1e-9)
    np.testing.assert_allclose(theirs.interaction, -ours.interaction, atol=1e-9)
    values = result.values("interaction")
    flips = scipy_stats.permutation_test(
        (values,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=10**6, vectorized=True
    )
    assert result.swapped().p == pytest.approx(flips.pvalue)


# models in the tuned one's place
def test_a_control_has_the_cells_of_a_pair_with_it_at_the_same_tokens(models, pair, result):
    third = nearby(models[0], 0.05, seed=9)
    found = first_divergence(pair, PROMPTS, controls=[pair_of(third, third).base], layers=[1, 2, 4], draws=0)
    assert found.provenance.control_kinds == ("given",)
    place, names = 2, {"base": models[0], "tuned": third}
    less, more = found.choices[place].tolist()
    for n, layer in enumerate(found.control_layers):
        expected = cells_of("llama", names, "base", found.read[place], found.position[place], layer, more, less)
        got = found.controls[0, place, :, :, n].flatten().tolist()
        assert got == pytest.approx([expected[cell] for cell in ("bb", "bt", "tb", "tt")], abs=1e-6)
    own = first_divergence(pair, PROMPTS, unembed="tuned", controls=[third_of(third)], layers=[2], draws=0)
    expected = cells_of("llama", names, "tuned", own.read[place], own.position[place], 2, more, less)
    assert float(own.controls[0, place, 1, 1, 0]) == pytest.approx(expected["tt"], abs=1e-6)
    assert result.prompt_id == found.prompt_id


def third_of(model: Any) -> Any:
    return pair_of(model, copy.deepcopy(model)).base


def test_controls_stand_beside_the_means(pair, result):
    controls = [pair.control("spectrum", seed) for seed in range(19)]
    found = result.with_controls([control_divergence(pair.base, control, result) for control in controls])
    assert not any(control.is_made for control in controls), "what was made for it is let go of"
    assert found.control_layers == (result.headline,) == (2,)
    for effect, place in (("portable", 0), ("matched", 1), ("interaction", 2)):
        beside = found.beside(effect)
        assert beside is not None
        assert beside.effect == pytest.approx(result.values(effect).mean())
        own = effects_of(found.controls[..., 0])[..., place].mean(dim=1)
        assert beside.kinds[0].median == pytest.approx(float(own.median()))
        rows = found.means().query("kind == 'spectrum' and effect == @effect")
        assert rows["mean"].tolist() == pytest.approx(own.tolist())
        assert rows["model"].tolist() == [control.name for control in found.provenance.controls]
    band = found.band(2)
    assert band is not None
    cells = found.controls[..., 0].mean(dim=1).numpy()
    assert (band.low[0, 0], band.high[0, 0]) == pytest.approx((cells[0, 0, 0], cells[0, 0, 0])), "the base's own"
    assert [band.low[1, 1], band.high[1, 1]] == pytest.approx([float(limit) for limit in rank_band(cells[:, 1, 1])])
    assert band.low[1, 1] < band.high[1, 1]
    assert found.band(1) is None
    assert result.beside() is None
    with pytest.raises(InputError, match="layer=1 is asked for, controls were read at 2"):
        found.beside("portable", 1)
    with pytest.raises(InputError, match=r"was read after 5 prompts .* expected the 2 of the pair with that of base"):
        first_divergence(pair, PROMPTS[:2], draws=0, progress=False).with_controls(
            [control_divergence(pair.base, controls[0], result)]
        )  # fmt: skip


def test_what_cannot_stand_in_the_tuned_models_place_is_refused(models, pair, result):
    larger = third_of(hf_model("llama", dtype=torch.float64, num_hidden_layers=N_LAYERS, vocab_size=402))
    with pytest.raises(InputError, match=r"control .* has d_vocab 402, expected the base's 400"):
        control_divergence(pair.base, larger, result)
    read = [control_divergence(pair.base, pair.tuned, result, layers=layers) for layers in ([1], [2])]
    with pytest.raises(InputError, match=r"controls were read at layers \(1,\) and \(2,\)"):
        result.with_controls(read)
    assert read[0].to_df().columns.tolist() == ["prompt_id", "layer", "portable", "matched", "interaction"]
    own = at(result.to_df(), 1)
    for effect in ("portable", "matched", "interaction"):
        np.testing.assert_allclose(read[0].to_df()[effect], own[effect], atol=1e-9)
    assert read[0].top(1).interaction[0] == read[0].to_df().interaction.max()


# means
def test_means_are_paired_over_prompts(result):
    frame = result.means()
    last = frame.query("layer == @N_LAYERS")
    assert (last[["mean", "low", "high"]] == 0).all(axis=None), "behind the last block no block is left"
    for layer in result.layers[:-1]:
        for effect in ("portable", "matched", "interaction"):
            values = at(result.to_df(), layer)[effect]
            row = frame.query("at == 'first' and unembed == 'base' and layer == @layer and effect == @effect").iloc[0]
            assert (row["n"], row["mean"]) == (len(values), pytest.approx(values.mean()))
            low, high = scipy_stats.t.interval(0.95, len(values) - 1, values.mean(), values.sem())
            assert (row["low"], row["high"]) == pytest.approx((low, high))
    test = result.difference("matched", 1)
    row = frame.query("at == 'first' and unembed == 'base' and layer == 1 and effect == 'matched'").iloc[0]
    assert (test.estimate, test.low, test.high) == pytest.approx((row["mean"], row["low"], row["high"]))
    other = frame.query("unembed == 'tuned' and layer == 2").set_index("effect")["mean"]
    assert other["portable"] == pytest.approx(float(effects_of(result.with_other[..., 2])[:, 0].mean()))
    assert (
        result.top(2).interaction.abs().tolist()
        == sorted(at(result.to_df(), 2).interaction.abs().tolist(), reverse=True)[:2]
    )


def test_a_mean_of_one_prompt_has_no_interval(pair):
    found = first_divergence(pair, PROMPTS[1], draws=0)
    assert found.means()[["low", "high"]].isna().all(axis=None)
    two = f"{found.base_token[0]!r}, the tuned model {found.tuned_token[0]!r}"
    said = "".join(found.common[0])
    assert found.told()[0].startswith(
        f"after {said!r} the base chooses {two}" if said else f"the base begins with {two}"
    )
    with pytest.raises(TooFew, match=r"1 prompt\(s\) have a first position"):
        found.difference()
    with pytest.raises(TooFew, match=r"0 prompt\(s\) have a later position"):
        found.difference(at="later")


def test_models_that_do_not_part_are_no_error(models):
    pair = pair_of(models[0], small())
    one = first_divergence(pair, PROMPTS[0], max_new_tokens=3)
    assert (len(one.to_df()), one.agreed) == (0, {"p0": "both choose the same 3 tokens"})
    assert one.to_df().columns.tolist() == COLUMNS
    assert one.means().empty
    assert "part after 0 of 1 prompt" in repr(one)
    assert one.prompts()[["prompt_id", "agreed"]].to_numpy().tolist() == [["p0", "both choose the same 3 tokens"]]
    with pytest.raises(InputError, match="the models part after no prompt"):
        one.beside()
    controlled = first_divergence(pair, PROMPTS[:2], max_new_tokens=3, controls=[pair.control("self", 0)])
    assert controlled.controls.shape[:2] == (1, 0)
    assert controlled.band(2) is None


# how it is read
def test_one_at_a_time_and_together_are_the_same(pair, result):
    prompts = [replace(prompt, id=f"{prompt.id} {n}") for n in range(ROWS) for prompt in PROMPTS[:2]]
    many = first_divergence(pair, prompts, draws=3, progress=False).to_df()
    few = first_divergence(pair, prompts, draws=3, max_bytes=1, progress=False).to_df()
    for prompt in PROMPTS[:2]:
        one = first_divergence(pair, prompt, draws=3).to_df()
        for n in (0, ROWS - 1):
            for frame in (many, few):
                same = frame[frame.prompt_id == f"{prompt.id} {n}"].reset_index(drop=True)
                pd.testing.assert_frame_equal(same.drop(columns="prompt_id"), one.drop(columns="prompt_id"), atol=1e-9)


def test_some_layers_are_those_of_all(pair, result):
    some = first_divergence(pair, PROMPTS, layers=[3, 1], draws=100, progress=False)
    assert some.headline == 3, "of those read the nearest to 0.6 of 4 is 3 or 1"
    whole = result.to_df()
    for layer in (3, 1):
        pd.testing.assert_frame_equal(
            at(some.to_df(), layer).reset_index(drop=True), at(whole, layer).reset_index(drop=True), atol=1e-9
        )
    assert [headline_of(range(n + 1), n) for n in (1, 2, 4, 5, 30)] == [1, 1, 2, 3, 18]


def test_a_pair_that_keeps_one_model_gives_the_same(models, result, tmp_path):
    for name, model in zip(("base", "tuned"), models, strict=True):
        model.save_pretrained(tmp_path / name)
        tokenizer_of().save_pretrained(tmp_path / name)
    pair = load_pair(tmp_path / "base", tmp_path / "tuned", keep="one", **OPTIONS)
    for unembed in ("base", "tuned"):
        found = first_divergence(pair, PROMPTS, draws=100, unembed=unembed, progress=False)
        expected = result.yields if unembed == "base" else result.with_other
        torch.testing.assert_close(found.yields, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.later[:, 0, 0].isnan(), result.later[:, 0, 0].isnan())


def test_single_precision_is_near_double(models, result):
    single = [copy.deepcopy(model).float() for model in models]
    found = first_divergence(pair_of(*single, dtype=torch.float32), PROMPTS, draws=0, progress=False)
    assert found.read == result.read
    torch.testing.assert_close(found.yields, result.yields, atol=1e-2, rtol=1e-3)


def test_vocabularies_in_another_order_change_nothing(models, result):
    other = cycled()
    order = [tokenizer_of().convert_tokens_to_ids(other.convert_ids_to_tokens(i)) for i in range(400)]
    tuned = small()
    state = models[1].state_dict().items()
    tuned.load_state_dict({name: value[order] if value.shape[0] == 400 else value for name, value in state})
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": other}}
    pair = pair_of(models[0], tuned, tokenizer=None, **sides)
    found = first_divergence(pair, PROMPTS, draws=100, progress=False)
    for name in ("yields", "with_other", "later", "earlier"):
        torch.testing.assert_close(getattr(found, name), getattr(result, name), atol=1e-9, rtol=0, equal_nan=True)
    assert (found.base_token, found.tuned_token) == (result.base_token, result.tuned_token)


def test_it_is_saved_and_read_again(result, pair, tmp_path):
    found = result.with_controls([control_divergence(pair.base, pair.tuned, result)])
    again = FirstDivergence.load(found.save(tmp_path / "x.safetensors"))
    pd.testing.assert_frame_equal(again.means(), found.means())
    pd.testing.assert_frame_equal(again.prompts(), found.prompts())
    assert repr(again) == repr(found)
    assert "  beside controls: 1 given; " in repr(found)
    own = found.values("portable").mean()  # the control is the tuned model itself
    assert f"portable: {result.difference('portable').numbers()} (controls {own:+.3g} to {own:+.3g})" in repr(found)
    assert "controls" not in repr(result)
    assert f"portable: {result.difference('portable').numbers()}" in repr(found)


# errors
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [5]}, r"layers=\[5\] given, expected at least one of 0 to 4, each once"),
        ({"layers": []}, r"layers=\[\] given"),
        ({"layers": [1, 1]}, r"layers=\[1, 1\] given"),
        ({"layers": [-1]}, r"layers=\[-1\] given"),
        ({"unembed": "both"}, "unembed='both' is none of base, tuned"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 given, expected a whole number of at least 1"),
        ({"max_bytes": 0}, "max_bytes=0 given, expected a whole number of at least 1"),
        ({"draws": -1}, "draws=-1 given, expected a whole number of at least 0"),
        ({"level": 95.0}, "level=95.0 given, expected a number between 0 and 1"),
    ],
)
def test_options_that_are_none_are_refused(pair, options, message):
    with pytest.raises(InputError, match=message):
        first_divergence(pair, PROMPTS[0], **options)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"effect": "total"}, "effect='total' at 'first' asked for, expected portable, matched or interaction"),
        ({"effect": "portable", "at": "last"}, "expected portable, matched or interaction at first, later or earlier"),
        ({"effect": "portable", "layer": 9}, "layer=9 is asked for at 'first', read were 0, 1, 2, 3, 4"),
        ({"effect": "portable", "layer": 1, "at": "later"}, "layer=1 is asked for at 'later', read were 2"),
    ],
)
def test_values_that_there_are_not_are_refused(result, asked, message):
    with pytest.raises(InputError, match=message):
        result.values(**asked)


def test_prompts_of_other_tokens_fail_alone_and_are_warned_of(models):
    from tests.models.test_pair import with_more_tokens

    sides = {
        "base_options": {"tokenizer": tokenizer_of()},
        "tuned_options": {"tokenizer": with_more_tokens(without="Ġthe")},
    }
    pair = pair_of(*models, tokenizer=None, **sides)
    with pytest.warns(UserWarning, match="prompt '0' failed: the models read the prompt '0' or its response as diff"):
        found = first_divergence(pair, [PROMPTS[0].text, "Apples"], draws=0, progress=False)
    assert list(found.failures) == ["0"]
    assert "1 failed" in repr(found)
    with pytest.raises(InputError, match="as different tokens"):
        first_divergence(pair, PROMPTS[0])


def test_checkpoints_in_folders_do_too(tmp_path: Path):
    folders = [save_checkpoint("qwen2", tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = first_divergence(load_pair(*folders, device="cpu"), ["Apples and", "List three"], progress=False)
    assert len(found.prompt_id) + len(found.agreed) == 2
