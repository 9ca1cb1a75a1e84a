"""Layer similarity: by a computation that holds every stream, in every family; planted rotations, shifts and edits."""

import inspect
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from experiments.families import exact_rotary, wrappers_of
from lensdiff import Prompt, layer_similarity
from lensdiff.analyses.layer_similarity import passes
from lensdiff.analyses.layer_similarity.measure import control_similarity
from lensdiff.analyses.layer_similarity.passes import Text
from lensdiff.analyses.layer_similarity.result import MEASURES, LayerSimilarity
from lensdiff.models import load_model, load_pair
from lensdiff.models.aligned_text import align_text
from lensdiff.results import InputError, Provenance
from tests.analyses.layer_similarity.planted import OPTIONS, PROMPTS, SAID, held, plainly, turned_pair
from tests.analyses.layer_similarity.results import COUNTS, GROUPS, one, similarity
from tests.analyses.patch.planted import changed_mlp, pair_of
from tests.checkpoints import FAMILIES, MORE, hf_model, save_checkpoint, tokenizer_of

UNSERVED = ("gpt_neox_without_bias", "falcon_grouped", "cohere")  # see tests/models/test_families.py
OWN_WAYS = ("gemma4", "phi3_longrope", "qwen3_next")  # streams that are not read, or to other digits
CASES = [(f, w) for f in [*FAMILIES, *MORE] if f not in (*UNSERVED, *OWN_WAYS) for w in wrappers_of(f)]
SINGLE: dict[str, Any] = OPTIONS | {"dtype": "float32"}
EXACT = {"cka": 1.0, "relative_change": 0.0, "cosine": 1.0, "mean_shift_share": 0.0}


def compared(pair: Any, **options: Any) -> LayerSimilarity:
    return layer_similarity(pair, PROMPTS, SAID, progress=False, **options)


# against a computation that holds everything
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_running_sums_are_what_transformers_streams_give(family: str, wrapper: str):
    models: Any = tuple(hf_model(family, seed=seed, dtype=torch.float64) for seed in (0, 1))
    pair = load_pair(*deepcopy(models), tokenizer=tokenizer_of(True), wrapper=wrapper, **OPTIONS)
    if wrapper == "hooked":
        for model in models:
            exact_rotary(model)
    found = compared(pair)
    plain = held(family, models, pair, PROMPTS, SAID, 2)
    assert found.groups == ("all", "instruction", "context", "prompt", "response")
    for place, group in enumerate(found.groups):
        x, y = plain[group]
        assert int(found.positions[:, place].sum()) == x.shape[1]
        for measure, values in plainly(x, y).items():
            np.testing.assert_allclose(getattr(found, measure)[0, place], values, atol=1e-8, err_msg=(group, measure))
    frame: Any = found.to_df()
    assert list(frame.columns[:7]) == ["group", "layer", "n", "cka", "relative_change", "cosine", "mean_shift_share"]
    assert frame.layer.tolist() == [0, 1, 2] * 5


# planted
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_turned_stream_keeps_cka_and_loses_its_cosine(family: str):
    pair, q, source, turned = turned_pair(family)
    ids = torch.tensor([tokenizer_of(True)(PROMPTS[0].text)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(source(ids).logits, turned(ids).logits, rtol=1e-5, atol=1e-5)
    found = compared(pair)
    assert found.cka[0, 0].tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert float(found.cosine[0, 0].max()) < 0.7
    x, _ = held(family, (source, turned), pair, PROMPTS, SAID, 2)["all"]
    for measure, values in plainly(x, x @ q.numpy()).items():
        np.testing.assert_allclose(getattr(found, measure)[0, 0], values, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_an_edit_leaves_everything_before_it_exactly_as_it_was(wrapper: str):
    found = compared(pair_of(changed_mlp(1), wrapper=wrapper))
    for measure, value in EXACT.items():
        assert bool((getattr(found, measure)[0, :, :2] == value).all()), measure
        assert bool((getattr(found, measure)[0, :, 2] != value).all()), measure


def test_base_against_base_is_exactly_nothing():
    base: Any = hf_model("llama")
    found = compared(load_pair(base, deepcopy(base), tokenizer=tokenizer_of(), **SINGLE))
    for measure, value in EXACT.items():
        assert bool((getattr(found, measure) == value).all()), measure
    frame: Any = found.to_df()
    assert not frame[["relative_change_low", "relative_change_high"]].to_numpy().any()
    assert (frame[["cosine_low", "cosine_high"]].to_numpy() == 1).all()
    assert "have equal weights" in repr(found).split("\n")[0]


def test_one_shift_everywhere_is_a_share_of_one():
    base: Any = hf_model("gpt2", dtype=torch.float64)
    shift = torch.randn(32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    tuned = deepcopy(base)
    tuned.transformer.h[1].mlp.c_proj.bias.data += shift
    pair = load_pair(base, tuned, tokenizer=tokenizer_of(True), **OPTIONS)
    found = compared(pair)
    torch.testing.assert_close(found.mean_shift_share[0, :, 2], torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(found.cka[0, :, 2], torch.ones(5, dtype=torch.float64))
    assert not bool(found.mean_shift_share[0, :, :2].any())
    x, _ = held("gpt2", (base, tuned), pair, PROMPTS, SAID, 2)["response"]
    expected = (shift.norm() / torch.from_numpy(x[2]).norm(dim=-1)).mean()
    assert float(found.relative_change[0, 4, 2]) == pytest.approx(float(expected))


# options
def test_what_does_not_fit_costs_passes_and_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    pair, seen = pair_of(), []
    whole = compared(pair)
    reading = passes.streams
    monkeypatch.setattr(passes, "streams", lambda *given: seen.append(given[2]) or reading(*given))
    for name in ("MAX_SUMS", "MAX_STREAMS"):
        monkeypatch.setattr(passes, name, 1)
    apart = compared(pair)
    for measure in MEASURES:
        torch.testing.assert_close(getattr(apart, measure), getattr(whole, measure), rtol=1e-9, atol=1e-12)
    assert [list(layers) for layers in seen] == [[i] for i in range(3) for _ in range(4)]
    texts = [Text("", {"base": torch.zeros(n, dtype=torch.int64)}, {}) for n in (4, 3, 9)]
    monkeypatch.setattr(passes, "MAX_STREAMS", 80)
    assert list(passes._blocks(texts, 10)) == [[0, 1], [2]]


def test_chosen_layers_are_those_of_all():
    pair = pair_of()
    whole, some = compared(pair), compared(pair, layers=[2, 0])
    assert some.layers == (0, 2)
    torch.testing.assert_close(some.cka, whole.cka[:, :, [0, 2]])


def test_the_first_tokens_are_those_of_a_response_cut_there():
    pair = pair_of()
    text = align_text(pair, PROMPTS[0], SAID[0], max_new_tokens=1, prepend_bos=None)
    cut = Text.of(text, max_tokens=2, first=False)
    assert len(cut.ids["base"]) == text.first + 2
    assert cut.n_compared == text.first + 1, "the last of them is only predicted, position 0 left out"
    found = layer_similarity(pair, PROMPTS[0], SAID[0], max_tokens=2)
    assert int(found.positions[0, 0]) == cut.n_compared
    more = layer_similarity(pair, PROMPTS[0], SAID[0], max_tokens=999)
    assert int(more.positions[0, 0]) == text.n_read - 1


def test_position_0_counts_where_it_is_asked_for():
    pair = pair_of()  # with a BOS in front
    without, with_it = compared(pair), compared(pair, first=True)
    assert (with_it.positions - without.positions).tolist() == [[1, 0, 0, 0, 0]] * 2
    assert not torch.equal(with_it.cka[0, 0], without.cka[0, 0])
    torch.testing.assert_close(with_it.cka[0, 1:], without.cka[0, 1:])


def test_groups_overlap_as_the_prompt_marks_them():
    pair = pair_of()
    both = Prompt("Write a short poem about the moon", ["Write a short poem"], ["poem about"], id="poem")
    found = layer_similarity(pair, both, SAID[0])
    text = align_text(pair, both, SAID[0], max_new_tokens=1, prepend_bos=None)
    sizes = [text.n_read - 1, *(len(text.groups[group]) for group in found.groups[1:])]
    assert found.positions.tolist() == [sizes]
    assert len(set(text.groups["instruction"]) & set(text.groups["context"])) > 0
    unmarked = layer_similarity(pair, "The moon and the sea", SAID[0])
    assert unmarked.groups == ("all", "prompt", "response")


def test_without_a_response_it_is_the_tuned_models_own():
    pair = pair_of()
    found = layer_similarity(pair, PROMPTS[0], max_new_tokens=4)
    text = align_text(pair, PROMPTS[0], None, max_new_tokens=4, prepend_bos=None)
    again = layer_similarity(pair, PROMPTS[0], text.response)
    pd.testing.assert_frame_equal(found.to_df(), again.to_df())


def test_models_that_are_kept_one_at_a_time_give_the_same(tmp_path):
    folders = [save_checkpoint("llama", tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    one, two = (load_pair(*folders, keep=keep, device="cpu", verify=False) for keep in ("one", "both"))
    pd.testing.assert_frame_equal(compared(one).to_df(), compared(two).to_df())


# controls
def test_controls_are_compared_with_the_base_on_the_same_texts():
    base: Any = hf_model("llama", dtype=torch.float64)
    tuned, other = (hf_model("llama", seed=seed, dtype=torch.float64) for seed in (1, 2))
    options: dict[str, Any] = OPTIONS | {"tokenizer": tokenizer_of(True)}
    pair = load_pair(deepcopy(base), tuned, **options)
    found = compared(pair, controls=[load_model(deepcopy(other), **options), pair.control("self", 0)])
    alone = compared(load_pair(base, other, **options))
    for measure, value in EXACT.items():
        torch.testing.assert_close(getattr(found, measure)[1], getattr(alone, measure)[0])
        assert bool((getattr(found, measure)[2] == value).all())
        np.testing.assert_array_equal(found.controls(measure), getattr(found, measure)[1:, 0])
    assert found.provenance.control_kinds == ("given", "self")
    again = control_similarity(pair, pair.control("spectrum", 1), PROMPTS, SAID, compared(pair))
    whole = compared(pair, controls=[pair.control("spectrum", 1)])
    torch.testing.assert_close(again.cka[0], whole.cka[1])
    assert again.provenance.control is not None


def test_a_control_of_another_vocabulary_is_refused():
    other = load_model(hf_model("llama", vocab_size=410), tokenizer=tokenizer_of(), device="cpu", verify=False)
    with pytest.raises(InputError, match="has d_vocab 410, expected the base's 400"):
        compared(pair_of(), controls=[other])


def test_the_band_is_where_one_more_control_would_lie(tmp_path):
    found = similarity({"spectrum": 19})
    curve = found.curve("relative_change")
    controls = found.controls("relative_change")
    assert controls.shape == (19, 3)
    assert (curve["control_low"][1:] <= controls[:, 1:].min(axis=0) + 1e-12).all()
    assert (curve["control_high"][1:] < curve["value"][1:]).all()
    beside = found.beside()
    assert beside is not None
    assert beside.effect == pytest.approx(float(found.relative_change[0, 0].mean()))
    assert (beside.direction, beside.p) == ("above", 0.05)
    frame: Any = found.to_df()
    assert frame["cka_control_high"].max() <= 1.0
    assert "beside controls: 0.2" in repr(found)
    assert found.top(1)["layer"].tolist() == [2]
    pd.testing.assert_frame_equal(LayerSimilarity.load(found.save(tmp_path / "x")).to_df(), frame)
    few = similarity({"spectrum": 3}).to_df()
    assert few.filter(like="_control_").isna().all(axis=None)


def test_an_interval_counts_prompts_by_their_positions():
    found = similarity()
    counts = np.array([count for count, _ in COUNTS], dtype=float)
    own = found.prompt_relative_change[:, 0, 1].numpy()
    whole = (own * counts).sum() / counts.sum()
    # the standard error of a ratio of two means, by its linear approximation
    error = np.std(counts * (own - whole), ddof=1) / counts.mean() / np.sqrt(3)
    curve = found.curve("relative_change")
    np.testing.assert_allclose([curve["low"][1], curve["high"][1]], scipy.stats.t.interval(0.95, 2, whole, error))
    assert np.isnan(found.curve("cka")["low"]).all()
    assert np.isnan(similarity(n=1).curve("cosine")["low"]).all()


def test_where_cka_is_not_defined_there_is_no_band_and_no_mean():
    found = similarity({"spectrum": 19})
    found.cka[0, 1, 1] = torch.nan
    frame: Any = found.to_df()
    row = frame[(frame["group"] == "instruction") & (frame["layer"] == 1)].iloc[0]
    assert np.isnan([row.cka, row.cka_control_low, row.cka_control_high]).all()
    assert frame[frame["group"] == "all"]["cka_control_low"].notna().all()
    assert found.beside("cka", "instruction") is None
    assert similarity().beside() is None


# errors
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, r"layers=\[3\] given, expected at least one of 0 to 2, each once"),
        ({"max_tokens": 0}, "max_tokens=0 given, expected"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 given, expected"),
        ({"level": 1.5}, "level"),
    ],
)
def test_what_cannot_be_is_said(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        compared(pair_of(), **options)


def test_one_model_is_no_pair():
    model: Any = pair_of().base
    with pytest.raises(InputError, match="layer_similarity takes a pair of models, given one model"):
        inspect.unwrap(layer_similarity)(model, PROMPTS, SAID)


def test_a_text_of_one_position_leaves_nothing():
    pair = load_pair(hf_model("llama"), hf_model("llama", seed=1), tokenizer=tokenizer_of(), device="cpu", verify=False)
    with pytest.raises(InputError, match="no position is left to compare"):
        layer_similarity(pair, "e", "a", max_tokens=1)
    found = layer_similarity(pair, "e", "a", max_tokens=1, first=True)
    assert int(found.positions.sum()) == 2, "of all, and of the prompt"
    assert bool(found.cka[0, 0].isnan().all()), "a single position"


def test_a_failing_prompt_is_warned_of_and_the_others_go_on():
    pair = pair_of()
    with pytest.warns(UserWarning, match="prompt 'fruits' failed"):
        found = layer_similarity(pair, PROMPTS, [SAID[0], " "], progress=False)
    assert found.prompt_id == ("poem",)
    assert list(found.failures) == ["fruits"]


def test_there_are_no_other_measures_and_groups():
    found = similarity()
    with pytest.raises(InputError, match="measure='angle' is none of cka, relative_change"):
        found.curve("angle")
    with pytest.raises(InputError, match=f"group='context' is none of {', '.join(GROUPS)}"):
        found.beside("cka", "context")
    with pytest.raises(InputError, match="c was compared on other prompts, positions or layers than a -> b"):
        found.with_controls([one(Provenance("", "c"), 0.1, n=2)])
