"""The shift of attention: scipy's distance row by row, planted edits of one head, synthetic shifts, controls."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import false_discovery_control, ttest_rel

from lensdiff import stats
from lensdiff.analyses.attention.control import ControlAttention, control_attention
from lensdiff.analyses.attention.distances import DISTANCES, head_distances, js_distances
from lensdiff.analyses.attention.patterns import MEASURES, AttentionPatterns, attention
from lensdiff.analyses.attention.shift import STATISTICS, AttentionShift, attention_shift
from lensdiff.inputs import Prompt
from lensdiff.models import load_model
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.results import Control, ControlModel, InputError, Provenance
from tests.checkpoints import TEXT, hf_model, tokenizer_of

PROMPT = Prompt(TEXT[0], ("Write a short poem",), ("a child could understand",), "p0")
RESPONSE = "Good morning, how are you?"


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random attention: causal, rows that sum to 1."""
    scores = 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    causal = torch.ones(shape[-2:], dtype=torch.bool).tril()
    return scores.masked_fill(~causal, -torch.inf).softmax(-1)


def made(
    patterns: torch.Tensor | None = None, *, shares: float | torch.Tensor = 0.5, **changed: Any
) -> AttentionPatterns:
    """A synthetic result of 1 layer, 2 heads, 3 tokens; `shares` fills every measure."""
    patterns = rows(1, 2, 3, 3) if patterns is None else patterns
    n_layers, n_heads, n_pos = patterns.shape[:3] if patterns.numel() else (1, 2, 3)
    values: dict[str, Any] = {
        "provenance": Provenance("attention", "made", options={"sink": "apart"}),
        "prompt_id": "",
        "tokens": ("a", "b", "c", "d", "e", "f", "g")[:n_pos],
        "n_special": 0,
        "n_prompt": 2,
        "layers": tuple(range(n_layers)),
        "parts": torch.zeros(3, n_pos, dtype=torch.bool),
        "patterns": patterns,
    }
    filled = torch.full((n_layers, n_heads), 0.0, dtype=torch.float64) + shares
    given: dict[str, Any] = values | dict.fromkeys(MEASURES, filled) | changed
    return AttentionPatterns(**given)


# kernels


def test_distances_are_scipys_row_by_row():
    p, q = rows(4, 6, 6).numpy(), rows(4, 6, 6, seed=1).numpy()
    expected = [[jensenshannon(p[h, i], q[h, i], base=2) for i in range(6)] for h in range(4)]
    np.testing.assert_allclose(js_distances(p, q), expected, atol=1e-7)


def test_distances_by_hand():
    p = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    q = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.2, 0.3, 0.5], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    # disjoint; the same up to scale; the same; nothing on one side; nothing on either
    assert js_distances(p, q).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    half = js_distances(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    # M = (3/4, 1/4): (log2(4/3) + 1/2 log2(2/3) + 1/2 log2(2)) / 2
    assert half.item() == pytest.approx(np.sqrt((np.log2(4 / 3) + 0.5 * np.log2(2 / 3) + 0.5) / 2))


def test_nearly_equal_rows_are_near_zero_and_never_nan():
    p = rows(50, 20, 20).double().numpy()
    q = p * (1 + 1e-9 * np.random.default_rng(0).standard_normal(p.shape))
    distances = js_distances(p, q)  # scipy alone gives NaN for about half of these
    assert 0 <= distances.min() <= distances.max() < 1e-7


@pytest.mark.parametrize("first_query", [0, 1, 2])
def test_head_distances_with_and_without_the_first_key(first_query):
    p, q = rows(2, 5, 5), rows(2, 5, 5, seed=1)
    found = head_distances(p, q, first_query=first_query)
    for h in range(2):
        whole = [jensenshannon(p[h, i], q[h, i], base=2) for i in range(first_query, 5)]
        rest = [jensenshannon(p[h, i, 1:], q[h, i, 1:], base=2) for i in range(max(1, first_query), 5)]
        np.testing.assert_allclose(found[:, h], [np.mean(whole), np.mean(rest)], atol=1e-7)


def test_a_shift_of_the_sink_alone_is_none_without_it():
    base = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])[None]
    tuned = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.2, 0.0], [0.8, 0.1, 0.1]])[None]
    with_sink, without = head_distances(base, tuned)
    # the rest moves in proportion, so queries 1 and 2 have the distance of two-way choices; query 0 has no choice
    assert with_sink[0] == pytest.approx(2 / 3 * jensenshannon([0.5, 0.5], [0.8, 0.2], base=2))
    assert without[0] < 1e-7


# models


def pair_of(family: str, wrapper: Any, layer: int, head: int) -> tuple[Any, Any]:
    """A model and the same with one head's query weights (and bias) negated."""
    models = []
    for negate in (False, True):
        hf = hf_model(family)
        if negate:
            projection = hf.model.layers[layer].self_attn.q_proj
            d_head = projection.weight.shape[0] // 4
            with torch.no_grad():
                for parameter in projection.parameters():
                    parameter[head * d_head : (head + 1) * d_head] *= -1
        models.append(load_model(hf, tokenizer=tokenizer_of(True), wrapper=wrapper, verify=False))
    return models[0], models[1]


@pytest.mark.parametrize(
    ("family", "wrapper", "layer", "head"),
    [
        ("llama", "hooked", 0, 1),
        ("llama", "bridge", 1, 2),
        ("mistral", "hooked", 1, 0),
        ("qwen2", "hooked", 1, 3),
        ("qwen3", "bridge", 0, 0),
        ("gemma2", "bridge", 1, 1),
        ("olmo2", "bridge", 0, 3),
    ],
)
def test_a_head_with_negated_queries_is_the_most_changed(family, wrapper, layer, head):
    if wrapper == "hooked" and HookedTransformer is None:
        pytest.skip("this transformer-lens has no HookedTransformer")
    base, tuned = pair_of(family, wrapper, layer, head)
    shift = attention_shift(attention(base, PROMPT, RESPONSE), attention(tuned, PROMPT, RESPONSE))
    best = shift.top(1).iloc[0]
    assert (best.layer, best.head_index) == (layer, head)
    others = [h for h in range(4) if h != head]
    if layer == 1:  # nothing after the edited layer: no other head moves
        assert shift.distances[:, 0].eq(0).all()
    assert shift.distances[:, layer, others].eq(0).all()
    assert shift.distances[1, layer, head] > 0.05  # also without the sink


def test_base_against_base_is_exactly_no_shift():
    base, again = (load_model(hf_model("llama"), tokenizer=tokenizer_of(True), verify=False) for _ in range(2))
    prompts = [PROMPT, *(Prompt(text, (text[:12],), (text[-12:],)) for text in TEXT[1:4])]
    runs = [attention(model, prompts, [RESPONSE] * 4) for model in (base, again)]
    shift = attention_shift(*runs, controls=[runs[0]] * 19)
    assert shift.distances.eq(0).all()
    assert shift.distance_band.eq(0).all()
    table = shift.to_df()
    assert table["template_share_difference"].isna().all(), "raw prompts have no template"
    for name in MEASURES[:-1]:
        zero = [f"{name}_{s}" for s in ("difference", "low", "high", "control_low", "control_high")]
        assert (table[zero].to_numpy() == 0).all()
        assert (table[[f"{name}_p", f"{name}_p_adjusted"]].to_numpy() == 1).all()
    assert shift.whole is not None
    assert (shift.whole.effect, shift.whole.p, shift.whole.band) == (0, 1, (0, 0))
    assert shift.n_prompts == (4, 4, 4, 4, 4, 0)


# statistics on made results


def shifted(n: int, by: torch.Tensor, seed: int) -> list[AttentionPatterns]:
    generator = torch.Generator().manual_seed(seed)
    return [made(shares=0.3 + by + 0.01 * torch.randn(1, 2, generator=generator)) for _ in range(n)]


def test_a_planted_shift_of_one_head_is_found_and_the_others_are_not():
    none, planted = torch.zeros(1, 2), torch.tensor([[0.05, 0.0]])
    shift = attention_shift(shifted(12, none, 0), shifted(12, planted, 1))
    table = shift.to_df()
    for name in MEASURES:
        found = table[f"{name}_p_adjusted"].to_numpy()
        assert found[0] < 1e-6
        assert found[1] > 0.05
        base, tuned, difference, low, high = (table[f"{name}_{s}"].to_numpy() for s in STATISTICS[:5])
        assert 0.03 < low[0] < 0.05 < high[0]
        assert low[1] < 0 < high[1]
        assert tuned[0] - base[0] == pytest.approx(difference[0])


def test_p_values_are_scipys_and_adjusted_over_the_whole_table():
    base, tuned = shifted(8, torch.zeros(1, 2), 0), shifted(8, torch.tensor([[0.01, 0.002]]), 1)
    for adjustment in ("holm", "bh", "by"):
        shift = attention_shift(base, tuned, adjustment=adjustment)
        p, adjusted = (shift.measures[:, STATISTICS.index(s)].numpy() for s in ("p", "p_adjusted"))
        for head in range(2):
            after, before = ([float(r.entropy[0, head]) for r in run] for run in (tuned, base))
            test: Any = ttest_rel(after, before)
            np.testing.assert_allclose(p[:, 0, head], test.pvalue)
        holm = stats.holm(p.ravel())
        expected = holm if adjustment == "holm" else false_discovery_control(p.ravel(), method=adjustment)
        np.testing.assert_allclose(adjusted.ravel(), expected)
    assert shift.provenance.options["adjustment"] == "by"


def test_intervals_are_those_of_paired_t_tests():
    base, tuned = shifted(8, torch.zeros(1, 2), 0), shifted(8, torch.tensor([[0.01, 0.002]]), 1)
    shift = attention_shift(base, tuned, level=0.8, seed=4)
    after, before = (np.array([float(r.entropy[0, 1]) for r in run]) for run in (tuned, base))
    test: Any = ttest_rel(after, before)
    low, high = (float(shift.measures[1, STATISTICS.index(s), 0, 1]) for s in ("low", "high"))
    np.testing.assert_allclose((low, high), test.confidence_interval(0.8))
    assert shift.provenance.seed == 4
    assert shift.provenance.options["level"] == 0.8


def test_prompts_that_all_differ_alike_are_tested_by_sign_flips():
    base, tuned = [made(shares=0.25)] * 6, [made(shares=0.5)] * 6
    table = attention_shift(base, tuned).to_df()
    assert table["entropy_p"].tolist() == pytest.approx([2 / 2**6] * 2)
    assert table["entropy_low"].tolist() == [0.25] * 2


def control(seed: int, *, kind: str = "norm", sharp: float = 1.0) -> AttentionPatterns:
    """A control of a kind; the sharper, the further from the base."""
    patterns = (1 - sharp) * rows(1, 2, 3, 3) + sharp * rows(1, 2, 3, 3, seed=seed)
    origin = Provenance("attention", f"made {kind} {seed}", options={"sink": "apart"}, control=Control(kind, seed))
    return made(patterns, shares=0.3 + 0.001 * seed * sharp, provenance=origin)


def test_controls_give_bands_of_the_widest_kind_and_one_number_of_the_whole_model():
    base, tuned = made(shares=0.3), made(torch.eye(3).expand(1, 2, 3, 3), shares=0.4)
    near = [control(i, kind="spectrum", sharp=0.05) for i in range(1, 20)]
    far = [control(i) for i in range(20, 45)]
    shift = attention_shift(base, tuned, [near[0], *far, *near[1:]])
    moved = {
        kind: np.stack([head_distances(base.patterns[0], c.patterns[0]) for c in some])  # [control distance head]
        for kind, some in (("spectrum", near), ("norm", far))
    }
    bands = [stats.rank_band(values) for values in moved.values()]
    band = shift.distance_band[:, :, 0].numpy()
    np.testing.assert_allclose(band[:, 0], np.maximum(np.minimum(*(b.low for b in bands)), 0))
    np.testing.assert_allclose(band[:, 1], np.maximum(*(b.high for b in bands)))
    assert (band[:, 1] > moved["spectrum"].max(axis=0) + 0.05).all(), "one kind alone is much narrower"
    low, high = (float(shift.measures[0, STATISTICS.index(s), 0, 0]) for s in ("control_low", "control_high"))
    own = [[0.001 * 0.05 * i for i in range(1, 20)], [0.001 * i for i in range(20, 45)]]
    limits = [stats.rank_band(values) for values in own]
    assert (low, high) == pytest.approx((min(float(x.low) for x in limits), max(float(x.high) for x in limits)))
    whole = head_distances(base.patterns[0], tuned.patterns[0])[0].mean()
    assert shift.whole is not None
    assert shift.whole.effect == pytest.approx(whole)
    p = [stats.control_rank(whole, values[:, 0].mean(axis=1)).p or 0 for values in moved.values()]
    assert [(kind.kind, kind.n) for kind in shift.whole.kinds] == [("spectrum", 19), ("norm", 25)]
    assert [kind.p for kind in shift.whole.kinds] == pytest.approx(p)
    assert (shift.whole.p, shift.whole.direction) == (pytest.approx(max(p)), "above")
    assert shift.provenance.controls[:2] == (
        ControlModel("made spectrum 1", Control("spectrum", 1)),
        ControlModel("made norm 20", Control("norm", 20)),
    )
    assert shift.provenance.control_kinds == ("spectrum", *("norm",) * 25, *("spectrum",) * 18)


def test_a_narrower_level_gives_a_narrower_band():
    controls = [control(i) for i in range(1, 41)]
    usual, narrow = (attention_shift(made(), made(), controls, level=level) for level in (0.95, 0.5))
    assert (usual.distance_band[:, 1] > narrow.distance_band[:, 1]).all()
    assert usual.whole is not None
    assert narrow.whole is not None
    assert usual.whole.band is not None
    assert narrow.whole.band is not None
    assert usual.whole.band[1] > narrow.whole.band[1]


@pytest.mark.parametrize("numbers", [{"norm": 1}, {"norm": 2}, {"norm": 18}, {"norm": 40, "spectrum": 18}])
def test_with_fewer_than_19_of_a_kind_there_is_no_band(numbers):
    controls = [control(seed, kind=kind) for kind, n in numbers.items() for seed in range(1, n + 1)]
    shift = attention_shift([made()] * 2, [made(shares=0.6)] * 2, [[c, c] for c in controls])
    assert shift.distance_band.isnan().all()
    limits = [STATISTICS.index(s) for s in ("control_low", "control_high")]
    assert shift.measures[:, limits].isnan().all()
    assert shift.measures[:, : limits[0]].isfinite().all()
    assert shift.whole is not None
    assert {kind.kind: kind.n for kind in shift.whole.kinds} == numbers
    assert (shift.whole.p, shift.whole.band, shift.whole.verdict()) == (None, None, "too few")


def test_a_head_that_moved_beyond_all_controls_lies_outside_their_band():
    controls = [control(i, sharp=0.05) for i in range(1, 20)]
    patterns = rows(1, 2, 3, 3)
    patterns[0, 1] = rows(3, 3, seed=7)
    shift = attention_shift(made(), made(patterns), controls)
    distance, high = shift.distances[0, 0], shift.distance_band[0, 1, 0]
    assert (distance > high).tolist() == [False, True]
    assert shift.whole is not None
    assert (shift.whole.p, shift.whole.direction) == (0.05, "above")


# controls that are read apart


def test_controls_that_were_read_apart_give_the_same_as_their_patterns():
    base = [made(shares=0.3), made(rows(1, 2, 4, 4, seed=50), shares=0.5)]
    tuned = [made(rows(1, 2, 3, 3, seed=60), shares=0.4), made(rows(1, 2, 4, 4, seed=61), shares=0.7)]
    none = torch.full((1, 2), torch.nan, dtype=torch.float64)
    base, tuned = ([first, replace(second, context_share=none)] for first, second in (base, tuned))
    longer = {"tokens": ("a", "b", "c", "d"), "parts": torch.zeros(3, 4, dtype=torch.bool), "context_share": none}
    controls = []
    for seed, kind in [(i, kind) for kind in ("norm", "spectrum") for i in range(1, 20)]:
        first = control(seed, kind=kind)
        controls.append([first, replace(first, patterns=rows(1, 2, 4, 4, seed=100 + seed), **longer)])
    together = attention_shift(base, tuned, controls)
    apart = [control_attention(iter(base), iter(own)) for own in controls]
    assert not any("patterns" in vars(own) for own in apart)
    for given in (apart, [*controls[:19], *apart[19:]]):
        found = attention_shift(iter(base), iter(tuned), given)
        assert found.to_df().equals(together.to_df())
        assert found.whole == together.whole
        assert found.provenance == together.provenance
    assert together.distance_band.isfinite().all()


def test_a_control_of_a_model_read_apart():
    base, tuned = pair_of("llama", "auto", 0, 1)
    prompts = [PROMPT, Prompt(TEXT[1], (TEXT[1][:12],), (TEXT[1][-12:],))]
    runs = [attention(model, prompts, [RESPONSE] * 2) for model in (base, tuned)]
    found = control_attention(*runs)
    shift = attention_shift(*runs)
    torch.testing.assert_close(found.distances.mean(dim=0), shift.distances, rtol=0, atol=0)
    for m, name in enumerate(MEASURES):
        expected = torch.stack([getattr(run, name) for run in runs[1]])
        torch.testing.assert_close(found.measures[:, m], expected, rtol=0, atol=0, equal_nan=True)
    assert found.texts == tuple(tuple(run.tokens) for run in runs[0])
    best = found.top(1).iloc[0]
    assert (best.layer, best.head_index) == (0, 1)
    assert (found.provenance.analysis, found.provenance.model) == ("control_attention", runs[1][0].provenance.model)


def test_a_control_read_apart_has_a_table_and_a_file(tmp_path):
    base = [made(shares=0.2), made(shares=0.2)]
    none = torch.full((1, 2), torch.nan, dtype=torch.float64)
    read = [control(3), replace(control(4), context_share=none)]
    found = control_attention(base, read)
    table = found.to_df()
    assert list(table) == ["layer", "head_index", *DISTANCES, *MEASURES]
    assert table[["layer", "head_index"]].to_numpy().tolist() == [[0, 0], [0, 1]]
    np.testing.assert_allclose(table.js_distance, found.distances[:, 0].mean(dim=0).flatten())
    np.testing.assert_allclose(table.entropy, [0.3 + 0.0035] * 2)
    np.testing.assert_allclose(table.context_share, [0.3 + 0.003] * 2)  # of the prompts that have it
    assert found.top(1).js_distance.tolist() == [table.js_distance.max()]
    again = ControlAttention.load(found.save(tmp_path / "control.safetensors"))
    assert again.to_df().equals(table)
    assert (again.texts, again.layers, again.provenance) == (found.texts, found.layers, found.provenance)
    assert again.provenance.control == Control("norm", 4)


def test_controls_read_apart_on_other_texts_or_layers_are_refused():
    apart = control_attention(made(), control(1))
    with pytest.raises(
        InputError, match=r"the control made norm 1 was read on 1 texts in layers \[0\], expected the same"
    ):
        attention_shift([made()] * 2, [made()] * 2, [apart])
    words = made(tokens=("a", "b", "x"))
    with pytest.raises(InputError, match=r"expected the same 1 texts and layers \[0\] as base and tuned"):
        attention_shift(words, words, [apart])
    other = made(layers=(5,))
    with pytest.raises(InputError, match=r"expected the same 1 texts and layers \[5\]"):
        attention_shift(other, other, [apart])
    with pytest.raises(
        InputError, match="there are no attention results to compare, expected at least one of base and"
    ):
        control_attention([], [])
    with pytest.raises(InputError, match="text 0: control read other tokens than base"):
        control_attention(made(), words)
    with pytest.raises(InputError, match="control has 1 attention results, another model has more"):
        control_attention([made()] * 2, [made()])


def test_without_controls_or_with_one_prompt_what_is_missing_is_nan():
    shift = attention_shift(made(), made())
    table = shift.to_df()
    assert shift.whole is None
    missing = ("low", "high", "control_low", "control_high", "p", "p_adjusted")
    for name in MEASURES:
        assert table[[f"{name}_{s}" for s in missing]].isna().to_numpy().all()
        assert table[[f"{name}_{s}" for s in ("base", "tuned", "difference")]].notna().to_numpy().all()
    assert table[[f"{name}_control_{s}" for name in DISTANCES for s in ("low", "high")]].isna().to_numpy().all()


def test_measures_count_the_prompts_that_have_them():
    none = torch.full((1, 2), torch.nan, dtype=torch.float64)
    base = [made(shares=0.2), made(shares=0.4), made(shares=0.9, context_share=none)]
    shift = attention_shift(base, base)
    assert shift.n_prompts == (3, 3, 3, 2, 3, 3)
    table = shift.to_df()
    assert table["context_share_base"].to_numpy()[0] == pytest.approx(0.3)
    assert table["sink_share_base"].to_numpy()[0] == pytest.approx(0.5)
    never = attention_shift([made(context_share=none)] * 2, [made(context_share=none)] * 2)
    assert never.n_prompts[3] == 0
    assert never.to_df()[[f"context_share_{s}" for s in STATISTICS]].isna().to_numpy().all()


@pytest.mark.parametrize("n", [1, 3])
def test_a_measure_that_is_no_number_is_an_error(n):
    bad = made(shares=torch.tensor([[0.5, torch.inf]]))
    good, one = [made()] * n, [*[made()] * (n - 1), bad]
    with pytest.raises(InputError, match=r"effect\[0, 1\] is inf, expected finite values"):
        attention_shift(good, one)
    with pytest.raises(InputError, match=r"controls 'given'\[0, 0, 1\] is inf, expected finite values"):
        attention_shift(good, good, [one])


def test_generators_give_the_same_as_lists():
    base, tuned = shifted(3, torch.zeros(1, 2), 0), shifted(3, torch.ones(1, 2), 1)
    lists = attention_shift(base, tuned, [base] * 3)
    streams = attention_shift(iter(base), iter(tuned), [iter(base) for _ in range(3)])
    assert lists.to_df().equals(streams.to_df())


# results


def test_table_and_most_changed_heads():
    base, tuned = made(rows(2, 2, 4, 4)), made(rows(2, 2, 4, 4, seed=1))
    shift = attention_shift(base, tuned)
    table = shift.to_df()
    expected = ["layer", "head_index"]
    for name in DISTANCES:
        expected += [name, f"{name}_control_low", f"{name}_control_high"]
    for name in MEASURES:
        expected += [f"{name}_{s}" for s in STATISTICS]
    assert list(table) == expected
    assert table[["layer", "head_index"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert table.js_distance_no_sink[2] == float(shift.distances[1, 1, 0])
    assert shift.top(2).js_distance.tolist() == sorted(table.js_distance, reverse=True)[:2]


def test_saved_and_read_back(tmp_path):
    controls = [control(i) for i in range(1, 20)]
    for shift in (attention_shift(made(), made(rows(1, 2, 3, 3, seed=9)), controls), attention_shift(made(), made())):
        again = AttentionShift.load(shift.save(tmp_path / "shift.safetensors"))
        assert again.to_df().equals(shift.to_df())
        assert (again.whole, again.n_prompts, again.provenance) == (shift.whole, shift.n_prompts, shift.provenance)


@pytest.mark.parametrize(
    ("base", "tuned", "options", "message"),
    [
        ([], [], {}, "there are no attention results"),
        (made(), [made(), made()], {}, "base has 1 attention results, another model has more"),
        ([made(), made()], made(), {}, "tuned has 1 attention results, another model has more"),
        (made(), iter([3]), {}, "tuned holds a int, expected results of attention"),
        (
            made(),
            made(tokens=("a", "x", "c")),
            {},
            "text 0: tuned read other tokens than base, 'x' but 'b' at position 1",
        ),
        (made(), made(rows(1, 2, 4, 4)), {}, "'d' but no token at position 3"),
        (made(), made(layers=(5,)), {}, r"tuned has layers \[5\] of 2 heads, base has layers \[0\] of 2 heads"),
        (made(), made(rows(1, 3, 3, 3)), {}, r"tuned has layers \[0\] of 3 heads"),
        ([made(), made(rows(2, 2, 3, 3))], [made(), made(rows(2, 2, 3, 3))], {}, r"text 1 has layers \[0, 1\]"),
        (made(), made(parts=torch.ones(3, 3, dtype=torch.bool)), {}, "another prompt, other spans or another sink="),
        (made(), made(n_prompt=1), {}, "another prompt, other spans or another sink="),
        (made(torch.empty(1, 2, 0, 0)), made(torch.empty(1, 2, 0, 0)), {}, "keep_patterns=False, expected kept"),
        (made(), made(), {"controls": [made(), made(), []]}, "control 2 has 0 attention results"),
        (made(), made(), {"adjustment": "none"}, "unknown adjustment 'none'"),
        ([made()] * 2, [made()] * 2, {"level": 2.0}, "level is 2.0"),
    ],
)
def test_what_cannot_be_compared_is_refused(base, tuned, options, message):
    with pytest.raises(InputError, match=message):
        attention_shift(base, tuned, **options)
