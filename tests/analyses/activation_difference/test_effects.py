"""All interventions at one place: the calls that they are made of, bands by hand, a planted direction, the place."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lensdiff import activation_difference, stats
from lensdiff.analyses.activation_difference import starts
from lensdiff.analyses.activation_difference.effects import DifferenceEffects
from lensdiff.analyses.activation_difference.measure import control_difference
from lensdiff.models import view_of
from lensdiff.models.text import token_strings
from lensdiff.results import InputError
from tests.analyses.activation_difference.pairs import PLANTED, TEXTS, WRAPPERS, pair_of, planted
from tests.analyses.activation_difference.results import effects
from tests.checkpoints import hf_model, tokenizer_of
from tests.models.test_pair import reordered, with_more_tokens

LONG = [text for text in TEXTS if len(text) > 30]  # of more than five tokens each
GIVEN: dict[str, Any] = {"texts": TEXTS[:3], "max_tokens": 8}


def test_tables_are_those_of_the_three_calls(tmp_path):
    pair = pair_of()
    found = activation_difference(pair, LONG, controls=[pair.control("norm", seed) for seed in (0, 1)])
    made = found.effects(pair, scales=[1.0, 5.0], amounts=[0.5, 1.0], draws=3, seed=4, **GIVEN)
    at, asked = (1, 4), {"draws": 3, "seed": 4}
    expected = {
        "patchscope": found.patchscope(pair, *at, scales=[1.0, 5.0], k=3, **asked),
        "steering": found.steer(pair, *at, scales=[0.5, 1.0], **asked, **GIVEN),
        "causal": pd.concat([found.causal(pair, *at, into=side, **asked, **GIVEN) for side in ("tuned", "base")]),
    }
    for name, frame in expected.items():
        table = made.table(name)
        pd.testing.assert_frame_equal(table[[*frame.columns]], frame.reset_index(drop=True), check_dtype=False)
    assert (made.layer, made.position, made.chosen) == (1, 4, False)
    assert made.words == tuple(token_strings(view_of(pair.tuned), tuple(found.read_ids[0, 0, 1, 4, :5].tolist())))
    assert made.provenance.control_kinds == ("norm", "norm")
    assert made.provenance.options["draws"] == 3
    again = DifferenceEffects.load(made.save(tmp_path / "effects"))
    pd.testing.assert_frame_equal(again.to_df(), made.to_df())
    assert repr(again) == repr(made)
    other = made.table("causal").set_index(["into", "reading"]).change
    assert made.other("base") == other["base", "other"]


def test_the_place_is_half_of_the_layers_and_the_last_position_that_every_text_has():
    pair = pair_of()
    found = activation_difference(pair, LONG)
    assert found.usual_place() == (1, 4)
    assert found.usual_place(0, 2) == (0, 2)
    assert found.usual_place(layer=2) == (2, 4)
    assert activation_difference(pair, LONG, layers=[2, 0]).usual_place() == (0, 4), "of two as near the lower one"
    assert activation_difference(pair, [*LONG, "a"]).usual_place() == (1, 0), "one text has a single token"
    one = found.effects(pair, position=1, scales=[1.0], amounts=[1.0], draws=1, **GIVEN)
    assert (one.layer, one.position, one.chosen) == (1, 1, True)
    for place, message in (((7, None), r"layer=\[7\] given"), ((None, 9), r"position=\[9\] given")):
        with pytest.raises(InputError, match=message):
            found.effects(pair, *place)


def test_bands_are_those_of_random_vectors_random_differences_and_each_kind_of_control():
    pair = pair_of()
    control = control_difference(pair, pair.control("norm"), LONG)
    names = [replace(control.provenance, model=f"control {i}") for i in range(19)]
    many = [
        replace(control, provenance=names[i], difference=control.difference + 0.05 * i * control.difference.roll(1, -1))
        for i in range(19)
    ]
    found = activation_difference(pair, LONG).with_controls(many)
    made = found.effects(pair, scales=[2.0], amounts=[1.0], **GIVEN)
    frame: Any = made.to_df().set_index(["intervention", "into", "measure"])
    assert [*frame.index] == [
        ("patchscope", "tuned", "prob_read"),
        *(("steer", "base", measure) for measure in ("kl_to_tuned", "kl_to_base", "prob")),
        *(("causal", side, "change") for side in ("tuned", "base")),
    ]
    of_controls = [one.model for one in names]
    for (intervention, into, measure), row in frame.iterrows():
        table: Any = made.table({"steer": "steering"}.get(intervention, intervention))
        own = table[(table["into"] == into) if "into" in table else (table["model"] == into) & (table["rank"] == 1)]
        by = own.groupby("reading")[measure].apply(list)
        assert row["difference"] == by["difference"][0]
        assert row["tuned_mean"] == by["tuned mean"][0]
        limits = (0.0, 1.0) if measure.startswith("prob") else (0.0, np.inf) if "kl" in measure else (-np.inf, np.inf)
        drawn = {"random": by["random vector"], "control": [by[name][0] for name in of_controls]}
        if intervention == "causal":
            drawn["random_difference"] = by["random difference"]
            whole = own[own["reading"] == "difference"].iloc[0]
            assert (row["low"], row["high"]) == (whole["low"], whole["high"])
        else:
            assert math.isnan(row["low"])
            assert math.isnan(row["random_difference_low"])
        for name, values in drawn.items():
            assert len(values) == 19
            band = stats.rank_band(values)
            assert row[f"{name}_low"] == pytest.approx(np.clip(band.low, *limits))
            assert row[f"{name}_high"] == pytest.approx(np.clip(band.high, *limits))
    few = found.with_controls(many[:18]).effects(pair, scales=[2.0], amounts=[1.0], draws=18, **GIVEN).to_df()
    assert few.filter(regex="random|control").isna().all(axis=None)
    assert "random" not in repr(few)
    assert "random" in repr(made)
    assert made.top(2).measure.tolist() == ["kl_to_tuned", "kl_to_base"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_planted_direction_is_beyond_everything_beside_it(wrapper: str):
    pair, _, token = planted(wrapper)
    found = activation_difference(pair, LONG)
    made = found.effects(pair, PLANTED, 1, amounts=[1.0], texts=TEXTS)
    frame: Any = made.to_df().set_index(["intervention", "into", "measure"])
    steer = frame.loc[("steer", "base", "kl_to_tuned")]
    assert steer["difference"] < 1e-15 < steer["random_low"]
    for side in ("tuned", "base"):
        assert abs(frame.loc[("causal", side, "change"), "difference"] - made.other(side)) < 1e-10
        causal: Any = made.table("causal")
        rest = causal[(causal["into"] == side) & ~causal["reading"].isin(["difference", "other"])]
        assert (rest["change"] - made.other(side)).abs().min() > 1e-6
    (word,) = token_strings(view_of(pair.base), (token,))
    assert made.words[0] == word


def test_rows_that_do_not_fit_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch):
    pair = pair_of()
    found = activation_difference(pair, LONG)
    whole = found.effects(pair, draws=2, texts=TEXTS)
    monkeypatch.setattr(starts, "MAX_LOGITS", 1)
    apart = found.effects(pair, draws=2, texts=TEXTS)
    for name in ("steering", "causal"):
        pd.testing.assert_frame_equal(apart.table(name), whole.table(name), rtol=0, atol=1e-9)


# the words whose probability is measured
def test_the_words_that_are_read_are_measured_all_together():
    pair = pair_of()
    found, words = activation_difference(pair, LONG), tuple("aeost")
    ids = torch.tensor([tokenizer_of()(word)["input_ids"][0] for word in words])
    found = replace(
        found, read_ids=torch.cat([ids.expand(*found.read_ids.shape[:-1], -1), found.read_ids[..., 5:]], -1)
    )
    assert found.effects(pair, scales=[1.0], amounts=[1.0], draws=1, **GIVEN).words == words
    named: Any = found.patchscope(pair, 1, 4, scales=[1.0, 5.0], tokens=words, draws=2)
    for _, own in named.groupby(["reading", "model", "draw", "scale"]):
        assert own.prob_read.to_numpy() == pytest.approx(own.prob.sum())
        assert own.prob_read_before.to_numpy() == pytest.approx(own.prob_before.sum())
    drawn = named[named.reading == "random vector"]
    assert sorted(drawn.draw.unique()) == [0, 1]
    assert drawn.prob.nunique() == len(drawn), "each draw is another vector"
    again: Any = found.patchscope(pair, 1, 4, scales=[1.0, 5.0], tokens=words, draws=2, seed=1)
    assert not np.allclose(again[again.reading == "random vector"].prob, drawn.prob)
    assert again[again.reading == "difference"].equals(named[named.reading == "difference"])


def test_they_are_the_same_words_where_ids_differ_and_none_where_one_model_lacks_them():
    base, swapped = (hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1))
    pair = pair_of(base, hf_model("llama", seed=1, dtype=torch.float64))
    plain = activation_difference(pair, LONG)
    first, second = plain.read_ids[0, 0, 1, 4, :2].tolist()
    with torch.no_grad():
        for name in ("model.embed_tokens", "lm_head"):
            weight: Any = swapped.get_submodule(name).weight
            weight[[first, second]] = weight[[second, first]].clone()
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tokenizer": None}
    other = pair_of(None, swapped, **sides, tuned_options={"tokenizer": reordered(first, second)})
    turned = activation_difference(other, LONG)
    one, two = (found.patchscope(of, 1, 4, scales=[1.0], draws=0) for found, of in ((plain, pair), (turned, other)))
    np.testing.assert_allclose(two.prob_read, one.prob_read, rtol=1e-9)
    lost = tokenizer_of().convert_ids_to_tokens(plain.read_ids[0, 0, 1, 4, :5].tolist())
    lacking = pair_of(None, None, **sides, tuned_options={"tokenizer": with_more_tokens(without=lost[0])})
    read = plain.directions(pair, 1, 4).words(lacking, 0)
    assert len(read) == 4
    assert first not in read


def test_a_word_that_no_model_shares_has_no_probability(monkeypatch: pytest.MonkeyPatch):
    pair = pair_of()
    found = activation_difference(pair, LONG)
    of = type(found.directions(pair, 1, 4))
    monkeypatch.setattr(of, "words", lambda *_: torch.zeros(0, dtype=torch.int64))
    frame = found.patchscope(pair, 1, 4, scales=[1.0], draws=0)
    assert frame.prob_read.isna().all()
    assert frame.prob.notna().all()


def test_a_measure_that_does_not_exist_has_no_band():
    made = effects(controls=19, draws=19)
    frame: Any = made.table("patchscope").assign(prob_read=np.nan)
    own = frame[(frame["rank"] == 1) & (frame["model"] == "tuned") & (frame["scale"] == 0.5)]
    assert all(math.isnan(value) for value in made.beside(own, "prob_read").values())


def test_a_pair_that_does_not_differ_there_is_refused():
    pair = pair_of(hf_model("llama", dtype=torch.float64), hf_model("llama", dtype=torch.float64))
    with pytest.raises(InputError, match="nothing differs at layer 1, position 4: there is no direction to set"):
        activation_difference(pair, LONG).effects(pair)
