"""Patching: planted edits, whole passes, TransformerLens's own patching, and what must be exactly 0."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lensdiff import contrast, patch, patch_sweep
from lensdiff.analyses.patch.passes import Part, Reader, part_of, patched, read
from lensdiff.analyses.patch.result import Patched
from lensdiff.analyses.patch.runs import Run
from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, Point, load_pair, view_of
from lensdiff.models.aligned_text import align_text
from lensdiff.models.asked import Asked
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.response import Response
from lensdiff.results import InputError
from tests.analyses.patch.planted import (
    HEADS,
    LAYERS,
    OPTIONS,
    PROMPT,
    RESPONSE,
    changed_head,
    changed_mlp,
    pair_of,
    whole_pass,
)
from tests.checkpoints import hf_model, save_checkpoint, tokenizer_of
from tests.models.test_forced_text import cycled

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
WRAPPERS = ["bridge", pytest.param("hooked", marks=NO_HOOKED)]
POINTS = {"head": "z", "attention": "attn_out", "mlp": "mlp_out", "resid": "resid_pre"}
EVERY = tuple(POINTS)


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return pair_of()


def rows_of(found: Patched) -> dict[tuple, float]:
    frame: Any = found.to_df()
    heads = frame["head_index"].fillna(-1).astype(int)
    names = zip(frame["into"], frame["component"], frame["layer"], heads, frame["at"], strict=True)
    return dict(zip(names, frame["effect"], strict=True))


# planted edits


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-5)])
def test_the_edited_head_carries_the_whole_difference(wrapper: str, dtype: str, bound: float):
    found = patch_sweep(pair_of(changed_head(1, 2), wrapper=wrapper, dtype=dtype), PROMPT, RESPONSE)
    frame: Any = found.to_df()
    total = frame["donor"] - frame["clean"]
    assert total.abs().min() > 0.05, "an edit that changes nothing proves nothing"
    for into in ("base", "tuned"):
        own = frame[frame["into"] == into]
        head = own[(own["layer"] == 1) & (own["head_index"].fillna(-1) == 2)].iloc[0]
        assert head["patched"] == pytest.approx(head["donor"], abs=bound)
        assert head["share"] == pytest.approx(1, abs=bound / 0.05)
        assert own.loc[own["effect"].abs().idxmax(), "head_index"] == 2
        rest = own[(own["layer"] == 0) | (own["head_index"].fillna(2) != 2)]
        assert len(rest) == HEADS + 1 + HEADS - 1
        assert rest["effect"].eq(0.0).all(), "what both models share changes nothing, to the last bit"
    assert found.top(1)["head_index"].tolist() == [2]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_edited_mlp_carries_the_whole_difference(wrapper: str):
    frame: Any = patch_sweep(pair_of(changed_mlp(1), wrapper=wrapper), PROMPT, RESPONSE).to_df()
    mlp = frame[(frame["component"] == "mlp") & (frame["layer"] == 1)]
    assert mlp["patched"].tolist() == pytest.approx(mlp["donor"].tolist(), abs=1e-9)
    assert mlp["effect"].abs().min() > 0.05
    assert frame.drop(mlp.index)["effect"].eq(0.0).all()


@pytest.mark.parametrize("matrix", ["k_proj", "v_proj"])
def test_a_key_value_heads_edit_shows_in_its_whole_query_group(matrix: str):
    frame: Any = patch_sweep(pair_of(changed_head(1, 1, matrix=matrix)), PROMPT, RESPONSE, components=["head"]).to_df()
    last = frame[frame["layer"] == 1]
    assert last[last["head_index"] < 2]["effect"].eq(0.0).all()
    assert last[last["head_index"] >= 2]["effect"].abs().min() > 1e-4
    assert frame[frame["layer"] == 0]["effect"].eq(0.0).all()


# other ways to the same numbers


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("places", [None, [0, 3, 9]])
def test_a_pass_that_starts_at_a_layer_is_a_whole_pass(wrapper: str, places: list[int] | None):
    pair = pair_of(wrapper=wrapper)
    found = rows_of(patch_sweep(pair, PROMPT, RESPONSE, components=EVERY, at="all" if places is None else places))
    at = "all" if places is None else "0,3,9"
    assert len(found) == 2 * (LAYERS * (HEADS + 3) + 1)
    for (into, component, layer, head, where), effect in found.items():
        assert where == at
        point = Point("resid_post", 1) if layer == LAYERS else Point(POINTS[component], layer)  # type: ignore[arg-type]
        expected = whole_pass(pair, into, point, head if component == "head" else None, places)
        assert effect == pytest.approx(expected, abs=1e-9), (into, component, layer, head)
        assert abs(expected) > 1e-6 or places is not None


@NO_HOOKED
def test_transformer_lens_patches_the_same():
    from transformer_lens import patching

    pair = pair_of(wrapper="hooked")
    text = align_text(pair, PROMPT, RESPONSE, max_new_tokens=1, prepend_bos=None)
    found = rows_of(patch_sweep(pair, PROMPT, RESPONSE, into="base"))
    at_four = rows_of(patch_sweep(pair, PROMPT, RESPONSE, components=EVERY, at=[4], into="base"))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        log_probs = logits[0, text.first :].log_softmax(dim=-1)
        return log_probs.gather(-1, text.said["base"][:, None]).mean()

    ids = text.ids["base"][None]
    with torch.no_grad():
        _, cache = pair.tuned.run_with_cache(ids)
        clean = float(metric(pair.base(ids)))
        heads = patching.get_act_patch_attn_head_out_all_pos(pair.base, ids, cache, metric) - clean
        at_positions = {
            "mlp": patching.get_act_patch_mlp_out(pair.base, ids, cache, metric) - clean,
            "attention": patching.get_act_patch_attn_out(pair.base, ids, cache, metric) - clean,
            "resid": patching.get_act_patch_resid_pre(pair.base, ids, cache, metric) - clean,
        }
    for layer in range(LAYERS):
        for head in range(HEADS):
            assert found["base", "head", layer, head, "all"] == pytest.approx(float(heads[layer, head]), abs=1e-6)
        for component, effects in at_positions.items():
            expected = float(effects[layer, 4])
            assert at_four["base", component, layer, -1, "4"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-5)])
def test_rows_together_are_rows_one_at_a_time(dtype: str, bound: float):
    pair = pair_of(dtype=dtype)
    together, alone = (patch_sweep(pair, PROMPT, RESPONSE, components=EVERY, max_bytes=n) for n in (2**28, 1))
    assert (together.effect - alone.effect).abs().max() < bound
    some: Any = together.to_df().sample(5, random_state=0)
    for row in some.itertuples():
        head = int(row.head_index) if row.component == "head" else None
        one = patch(pair, PROMPT, RESPONSE, component=row.component, layer=row.layer, head=head, into=row.into)
        assert float(one.effect) == pytest.approx(row.effect, abs=bound)


def test_a_batch_holds_no_more_than_it_may(monkeypatch):
    sizes = []
    unembed = type(view_of(pair_of().base).forward).unembed

    def watched(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return unembed(self, hidden)

    monkeypatch.setattr("lensdiff.models.inside.forward.Forward.unembed", watched)
    patch_sweep(pair_of(), PROMPT, RESPONSE, max_bytes=1)
    assert max(sizes) == 2, "a row, and the unpatched one before it"
    sizes.clear()
    patch_sweep(pair_of(), PROMPT, RESPONSE)
    assert max(sizes) == HEADS + 1 + 1, "all rows of a layer"


# what changes nothing


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_models_own_activation_changes_exactly_nothing_and_zeros_do_something(wrapper: str):
    pair = pair_of(wrapper=wrapper)
    text = align_text(pair, PROMPT, RESPONSE, max_new_tokens=1, prepend_bos=None)
    run = Run(pair, Asked.of(PROMPT), ("base",), "log_prob", 0, 1, None)
    reader = Reader.of(view_of(pair.base), text, "base", run.targets["base"])
    points = [Point(name, layer) for layer in range(LAYERS) for name in ("resid_pre", "z", "mlp_out", "attn_out")]
    own, places = read(reader, points), torch.arange(text.n_read)
    heads = {point: range(HEADS) if point.name == "z" else [None] for point in points}
    rows = [(part_of(point, head, places, own, own),) for point in points for head in heads[point]]
    assert patched(reader, own, rows, max_bytes=2**28, skip=False).eq(0.0).all()
    zeros = [(Part(*row[0][:4], torch.zeros_like(row[0].own)),) for row in rows]
    assert patched(reader, own, zeros, max_bytes=2**28).abs().min() > 1e-6


@pytest.mark.parametrize("method", ["exact", "estimate"])
def test_a_model_against_itself_is_exactly_0_everywhere(method: str):
    same = pair_of(lambda model: None)
    found = patch_sweep(same, PROMPT, RESPONSE, components=EVERY, method=method, controls=[same.control("self")])
    frame: Any = found.to_df()
    assert frame["effect"].fillna(0.0).eq(0.0).all()
    assert frame["share"].isna().all()
    assert found.control_effect[:, :, : len(frame) // 2].nan_to_num(0.0).eq(0.0).all()
    assert method == "exact" or bool(frame["estimate"].eq(0.0).all())
    assert "equal" in repr(found).splitlines()[0]


def test_the_whole_stream_makes_the_whole_difference(pair: ModelPair):
    # the unembedding is the patched model's own, so the bases share it
    with_same_head = pair_of(lambda model: changed_head(0, 1)(model) or changed_mlp(1)(model))
    one = patch(with_same_head, PROMPT, RESPONSE, component="resid", layer=LAYERS).one()
    assert bool(one["share"] == pytest.approx(1, abs=1e-9))
    assert bool(one["total"] == pytest.approx(one["effect"], abs=1e-9))
    first: Any = patch(with_same_head, PROMPT, RESPONSE, component="resid", layer=0).one()
    assert first["effect"] == 0.0, "both models embed alike"


# estimates


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_estimate_tends_to_the_effect_as_the_change_does_to_nothing(wrapper: str):
    def edit(model: Any) -> None:
        for layer in range(LAYERS):
            for head in range(HEADS):
                changed_head(layer, head, size=1e-6)(model)
            changed_mlp(layer, size=1e-6)(model)

    pair = pair_of(edit, wrapper=wrapper)
    found = patch_sweep(pair, PROMPT, RESPONSE, components=EVERY, method="estimate", rerun=100)
    frame: Any = found.to_df()
    moved = frame[frame["effect"].abs() > 1e-9]
    assert len(moved) > 20
    np.testing.assert_allclose(moved["estimate"], moved["effect"], rtol=1e-3)
    assert bool(found.agreement()["correlation"].min() > 0.9999)


def test_the_first_rows_are_run_and_no_others(pair: ModelPair):
    exact = patch_sweep(pair, PROMPT, RESPONSE)
    found = patch_sweep(pair, PROMPT, RESPONSE, method="estimate", rerun=3)
    frame: Any = found.to_df()
    assert found.estimated
    assert not exact.estimated
    assert len(frame) == found.n_rows == exact.n_rows
    for into in ("base", "tuned"):
        own = frame[frame["into"] == into]
        run = own["effect"].notna()
        assert run.sum() == 3
        assert own["estimate"][run].abs().min() >= own["estimate"][~run].abs().max()
    there = ~found.effect.isnan()
    assert torch.equal(found.effect[there], exact.effect[there])
    assert found.agreement()["n"].tolist() == [3, 3]
    assert bool(found.top(20)["effect"].notna().sum() == 6)


# positions, layers, prompts


def test_groups_of_positions_have_rows_of_their_own(pair: ModelPair):
    groups = ("instruction", "context", "prompt", "response")
    found = rows_of(patch_sweep(pair, PROMPT, RESPONSE, components=("resid",), at=groups, into="base"))
    assert len(found) == 4 * (LAYERS + 1)
    text = align_text(pair, PROMPT, RESPONSE, max_new_tokens=1, prepend_bos=None)
    for group in groups:
        expected = whole_pass(pair, "base", Point("resid_pre", 1), None, list(text.groups[group]))
        assert found["base", "resid", 1, -1, group] == pytest.approx(expected, abs=1e-9)
        one = patch(pair, PROMPT, RESPONSE, component="resid", layer=1, at=group)
        assert float(one.effect) == pytest.approx(expected, abs=1e-9)


def test_a_group_that_one_prompt_lacks_is_missing_there(pair: ModelPair):
    plain = Prompt("List three fruits", ["List"], id="list")
    found = patch_sweep(
        pair, [PROMPT, plain], [RESPONSE] * 2, components=["resid"], at=["instruction", "context"], into="base"
    )
    frame: Any = found.to_df()
    assert frame.groupby(["prompt_id", "at"]).size().to_dict() == {
        ("poem", "context"): 3,
        ("poem", "instruction"): 3,
        ("list", "instruction"): 3,
    }
    means: Any = found.means().set_index(["layer", "at"])
    assert means["n"].tolist() == [2, 1] * 3
    alone = frame[(frame["at"] == "context") & (frame["layer"] == 1)].iloc[0]
    assert means.loc[(1, "context"), ["effect", "total"]].tolist() == pytest.approx(
        [alone["effect"], alone["donor"] - alone["clean"]]
    )
    assert np.isnan(means.loc[(1, "context"), "low"])


def test_an_estimate_goes_on_without_positions_that_a_prompt_lacks(pair: ModelPair, monkeypatch):
    plain = Prompt("List three fruits", context=["List"], id="list")
    options: Any = {"components": ["resid"], "into": "base", "layers": [1]}
    prompts, both = [PROMPT, plain], ["instruction", "context"]
    exact = patch_sweep(pair, prompts, [RESPONSE] * 2, at=both, **options)
    found = patch_sweep(pair, prompts, [RESPONSE] * 2, at=both, method="estimate", rerun=1, **options)
    assert found.prompt_id == ("poem", "list")
    row = int(found.effect[0].isnan().logical_not().nonzero())
    assert found.at[row] == "instruction", "of the largest estimate, which one prompt lacks"
    assert float(found.effect[0, row]) == pytest.approx(float(exact.effect[0, row]), abs=1e-9)
    assert found.effect[1].isnan().all()
    assert found.estimate[1].isnan().tolist() == [at == "instruction" for at in found.at]

    def failing(reader: Reader, *arguments: Any, **more: Any) -> Any:
        if len(reader.ids) == length:
            raise InputError("this one cannot be run")
        return patched(reader, *arguments, **more)

    length = align_text(pair, plain, RESPONSE, max_new_tokens=1, prepend_bos=None).n_read
    monkeypatch.setattr("lensdiff.analyses.patch.runs.patched", failing)
    with pytest.warns(UserWarning, match="prompt 'list' failed: this one cannot be run"):
        found = patch_sweep(pair, prompts, [RESPONSE] * 2, at="context", method="estimate", rerun=1, **options)
    assert found.prompt_id == ("poem",)
    assert list(found.failures) == ["list"]


def test_layers_are_those_asked_for(pair: ModelPair):
    assert set(patch_sweep(pair, PROMPT, RESPONSE, layers=[1]).layer.tolist()) == {1}
    assert set(patch_sweep(pair, PROMPT, RESPONSE, layers=[2, 0], components=["resid"]).layer.tolist()) == {0, 2}


def test_a_list_of_prompts_goes_on_without_those_that_fail(pair: ModelPair):
    prompts = [PROMPT, Prompt("List three fruits", id="list"), Prompt("Repeat", ["Repeat"], id="repeat")]
    with pytest.warns(UserWarning, match="'list' failed: .* marks no instruction"):
        found = patch_sweep(pair, prompts, [RESPONSE] * 3, at="instruction")
    assert found.prompt_id == ("poem", "repeat")
    assert list(found.failures) == ["list"]
    alone = patch_sweep(pair, prompts[2], RESPONSE, at="instruction")
    assert torch.equal(found.effect[1], alone.effect[0])
    means: Any = found.means()
    frame: Any = found.to_df()
    own = frame[(frame["component"] == "mlp") & (frame["layer"] == 0) & (frame["into"] == "base")]
    row = means[(means["component"] == "mlp") & (means["layer"] == 0) & (means["into"] == "base")].iloc[0]
    assert row["effect"] == pytest.approx(own["effect"].mean())
    assert row["low"] < row["effect"] < row["high"]


def test_without_a_response_the_tuned_models_own_is_read(pair: ModelPair):
    found = patch_sweep(pair, PROMPT, max_new_tokens=4, components=["mlp"])
    text = align_text(pair, PROMPT, None, max_new_tokens=4, prepend_bos=None)
    given = patch_sweep(pair, PROMPT, text.response, components=["mlp"])
    assert torch.equal(found.effect, given.effect)


def test_a_pair_that_keeps_one_model_finds_the_same(tmp_path):
    sides = [save_checkpoint("llama", tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    options: dict[str, Any] = {"device": "cpu", "verify": False}
    both, one = (load_pair(*sides, keep=keep, **options) for keep in ("both", "one"))
    expected, found = (patch_sweep(pair, PROMPT, RESPONSE, components=["mlp"]) for pair in (both, one))
    assert torch.equal(found.effect, expected.effect)


def test_each_model_is_read_in_its_own_vocabulary():
    sides = [hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1)]
    own = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": cycled()}}
    pair = load_pair(*sides, **own, **OPTIONS)
    said = Response("", (20, 31, 20, 40), pair.ids[1], pair.digests[1])
    text = align_text(pair, PROMPT, said, max_new_tokens=1, prepend_bos=None)
    assert not torch.equal(text.said["base"], text.said["tuned"])
    found = rows_of(patch_sweep(pair, PROMPT, said, components=["mlp"]))
    for (into, _, layer, _, _), effect in found.items():
        assert effect == pytest.approx(whole_pass(pair, into, Point("mlp_out", layer), None, said=said), abs=1e-9)


# metrics


def test_a_contrast_is_a_difference_of_two_logits(pair: ModelPair):
    text = align_text(pair, PROMPT, RESPONSE, max_new_tokens=1, prepend_bos=None)
    a, b = "a", "b"
    ids = [tokenizer_of(True)(x, add_special_tokens=False)["input_ids"][0] for x in (a, b)]

    def by_hand(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return logits[:, ids[0]] - logits[:, ids[1]]

    found, expected = (
        patch_sweep(pair, PROMPT, RESPONSE, metric=m, components=["mlp"]) for m in (contrast(a, b), by_hand)
    )
    assert torch.equal(found.effect, expected.effect)
    logits = view_of(pair.tuned).forward.logits(text.ids["tuned"][None])[0, text.first :]
    assert float(found.clean[0, -1]) == pytest.approx(float((logits[:, ids[0]] - logits[:, ids[1]]).mean()))
    assert (found.metric, expected.metric) == ("contrast('a', 'b')", "by_hand")


def test_a_target_has_the_name_that_attribution_gives_it(pair: ModelPair):
    found, expected = (patch_sweep(pair, PROMPT, RESPONSE, metric=m) for m in ("log_probability", "log_prob"))
    assert torch.allclose(found.effect, expected.effect, atol=1e-12)
    logit = patch_sweep(pair, PROMPT, RESPONSE, metric="logit", components=["mlp"])
    assert not torch.allclose(logit.effect, expected.effect[:, [4, 9, 14, 19]], atol=1e-3)


# beside


def test_another_head_of_the_layer_stands_beside(pair: ModelPair):
    found = patch_sweep(pair, PROMPT, RESPONSE, seed=3)
    frame: Any = found.to_df()
    assert frame[frame["component"] == "mlp"]["other_effect"].isna().all()
    for (_, layer), own in frame[frame["component"] == "head"].groupby(["into", "layer"]):
        effects = own["effect"].tolist()
        for i, other in enumerate(own["other_effect"]):
            assert effects.index(other) != i, layer
    alone = patch(pair, PROMPT, RESPONSE, component="head", layer=1, head=2, seed=3)
    row = frame[(frame["into"] == "base") & (frame["layer"] == 1) & (frame["head_index"].fillna(-1) == 2)].iloc[0]
    assert float(alone.other_effect) == pytest.approx(row["other_effect"], abs=1e-9)
    others = {
        tuple(patch_sweep(pair, PROMPT, RESPONSE, components=["head"], seed=s).other_effect[0].tolist())
        for s in range(4)
    }
    assert len(others) > 1


def test_a_controls_activation_stands_in_the_tuned_models_place(pair: ModelPair):
    control = pair.control("norm")
    found = patch_sweep(pair, PROMPT, RESPONSE, controls=[control])
    n = found.n_rows // 2
    assert found.provenance.control_kinds == ("norm",)
    assert found.control_effect[:, :, n:].isnan().all(), "a control is a change of the base"
    assert not control.is_made, "a control that was made for this is let go of"
    as_tuned = patch_sweep(load_pair(pair.base, control), PROMPT, RESPONSE, into="base")
    assert torch.allclose(found.control_effect[0, :, :n], as_tuned.effect, atol=1e-12)
    self_made = patch_sweep(pair, PROMPT, RESPONSE, controls=[pair.control("self")])
    assert self_made.control_effect[:, :, :n].eq(0.0).all()


def test_bands_need_enough_controls(pair: ModelPair):
    rows = {"component": "mlp", "layer": 1}
    few, enough = (
        patch_sweep(pair, PROMPT, RESPONSE, rows=rows, controls=(pair.control("norm", i) for i in range(n)))
        for n in (2, 19)
    )
    assert bool(few.to_df()["control_low"].isna().all())
    frame: Any = enough.to_df()
    assert frame["control_low"].notna().tolist() == [True, False]
    assert frame["control_low"][0] <= float(enough.control_effect[:, 0, 0].min())
    assert enough.means()["control_high"][0] == frame["control_high"][0]


# rows of other tables


def test_rows_of_other_tables_say_what_is_patched(pair: ModelPair):
    def named(rows: Any) -> list[tuple]:
        frame: Any = patch_sweep(pair, PROMPT, RESPONSE, rows=rows, into="base").to_df()
        return list(zip(frame["component"], frame["layer"], frame["head_index"].fillna(-1), strict=True))

    heads = pd.DataFrame({"layer": [1, 0, 1], "head_index": [3, 0, 3], "js_distance": 0.1})
    assert named(heads) == [("head", 1, 3), ("head", 0, 0)]
    assert named(heads.iloc[1]) == [("head", 0, 0)]
    weights = pd.DataFrame(
        {
            "layer": pd.array([0, 1, 1, 0], dtype="Int64"),
            "matrix": ["W_Q", "W_V", "W_out", "W_O"],
            "head_index": pd.array([2, 1, None, None], dtype="Int64"),
        }
    )
    assert named(weights) == [("head", 0, 2), ("head", 1, 2), ("head", 1, 3), ("mlp", 1, -1), ("attention", 0, -1)]
    assert named({"layer": 1, "side": "value", "component": 4}) == [("mlp", 1, -1)]
    swept = patch_sweep(pair, PROMPT, RESPONSE)
    top: Any = swept.top(3)
    again = patch_sweep(pair, PROMPT, RESPONSE, rows=top, into="base")
    assert again.n_rows == len(top[["component", "layer", "head_index"]].drop_duplicates())
    by_row = rows_of(swept)
    assert all(effect == pytest.approx(by_row[key], abs=1e-12) for key, effect in rows_of(again).items())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"layer": 1, "share": 0.5}, "row {'layer': 1, 'share': 0.5} names neither a head nor an MLP"),
        ({"layer": pd.NA, "matrix": "W_E", "head_index": pd.NA}, "row {'matrix': 'W_E'} names neither"),
        ({"layer": 1, "matrix": "W_pos"}, "names neither a head nor an MLP"),
        ({"group": "0-7", "verb": "write", "share": 0.4}, "names neither a head nor an MLP"),
        ({"layer": 1, "matrix": "W_K", "head_index": 2}, "names a key-value head, expected 0 to 1"),
        ({"layer": 1, "head_index": 9}, "head=9 given, expected 0 to 3"),
        ({"layer": 5, "side": "key"}, "layer=5 of component 'mlp' given, expected 0 to 1"),
        (pd.DataFrame({"layer": []}), "rows has no row"),
        ([1, 2], r"rows=\[1, 2\] given, expected a row or rows of a table"),
    ],
)
def test_rows_that_name_nothing_are_refused(pair: ModelPair, rows: Any, said: str):
    with pytest.raises(InputError, match=said.replace("{", r"\{").replace("}", r"\}")):
        patch_sweep(pair, PROMPT, RESPONSE, rows=rows)


# errors


def flat(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits.sum()


def nothing(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits[:, 0] * torch.nan


PATCHES: list[tuple[dict[str, Any], str]] = [
    ({"component": "neuron", "layer": 0}, "component 'neuron' is none of head, attention, mlp, resid"),
    ({"component": "head", "layer": 0}, "head=None given, expected 0 to 3"),
    ({"component": "head", "layer": 0, "head": 4}, "head=4 given, expected 0 to 3"),
    ({"component": "mlp", "layer": 0, "head": 1}, "head=1 given with component 'mlp', which has no heads"),
    ({"component": "mlp", "layer": 2}, "layer=2 of component 'mlp' given, expected 0 to 1"),
    ({"component": "resid", "layer": 3}, "layer=3 of component 'resid' given, expected 0 to 2"),
    ({"component": "mlp", "layer": -1}, "layer=-1 of component"),
    ({"component": "mlp", "layer": 0, "at": "question"}, "at='question' is none of all, instruction, context"),
    ({"component": "mlp", "layer": 0, "at": [-1]}, r"at=\[-1\] given, expected one of"),
    ({"component": "mlp", "layer": 0, "at": []}, r"at=\[\] given, expected one of"),
    ({"component": "mlp", "layer": 0, "at": [2, 2]}, "holds a position twice"),
    ({"component": "mlp", "layer": 0, "at": [1, 99]}, "position 99 of prompt 'poem' given, the text that is read has"),
    ({"component": "mlp", "layer": 0, "into": "both"}, "into='both' given, expected base, tuned, or both"),
    (
        {"component": "mlp", "layer": 0, "metric": "loss"},
        "metric='loss' is not 'log_prob', and target 'loss' is none of",
    ),
    ({"component": "mlp", "layer": 0, "metric": contrast("a", "bananas and apples")}, "expected exactly one"),
    ({"component": "mlp", "layer": 0, "metric": flat}, r"the metric gives torch.float64 \(\), expected a number for"),
    ({"component": "mlp", "layer": 0, "metric": nothing}, "the metric is not finite on this text"),
]


@pytest.mark.parametrize(("options", "said"), PATCHES, ids=[said[:40] for _, said in PATCHES])
def test_what_cannot_be_patched_is_refused_in_a_sentence(pair: ModelPair, options: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        patch(pair, PROMPT, RESPONSE, **options)


SWEEPS: list[tuple[dict[str, Any], str]] = [
    ({"components": []}, r"components=\[\] given, expected at least one"),
    ({"components": ["mlp", "mlp"]}, "expected at least one of head, attention, mlp, resid, each once"),
    ({"components": ["neuron"]}, "component 'neuron' is none of"),
    ({"layers": [2]}, r"layers=\[2\] given"),
    ({"layers": [2], "components": ["resid", "mlp"]}, r"layers=\[2\] given"),
    ({"at": ["instruction", "instruction"]}, "holds a group twice"),
    ({"at": ["instruction", "question"]}, "at='question' is none of"),
    ({"into": []}, r"into=\[\] given, expected base, tuned, or both"),
    ({"method": "fast"}, "method='fast' is none of exact, estimate"),
    ({"rerun": 0}, "rerun=0, max_bytes=268435456 given, expected positive numbers"),
    ({"max_bytes": 0}, "max_bytes=0 given, expected positive numbers"),
    ({"rows": {"layer": 0, "head_index": 1}, "layers": [0]}, "rows name their heads and MLPs themselves"),
    ({"rows": {"layer": 0, "head_index": 1}, "components": ["mlp"]}, "rows are given with layers or components"),
    ({"into": "tuned", "controls": [1]}, "controls are put into the base, and into='tuned' is given"),
]


@pytest.mark.parametrize(("options", "said"), SWEEPS, ids=[said[:40] for _, said in SWEEPS])
def test_a_sweep_that_cannot_be_made_is_refused_in_a_sentence(pair: ModelPair, options: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        patch_sweep(pair, PROMPT, RESPONSE, **options)


def test_texts_that_cannot_be_patched_are_refused(pair: ModelPair):
    plain = Prompt("List three fruits", id="list")
    with pytest.raises(InputError, match="prompt 'list' marks no instruction, expected a span of it"):
        patch(pair, plain, RESPONSE, component="mlp", layer=0, at="instruction")
    with pytest.raises(InputError, match="prompt 'list' marks no instruction or context"):
        patch_sweep(pair, plain, RESPONSE, at=["instruction", "context"])
    habits = load_pair(
        hf_model("llama", dtype=torch.float64),
        hf_model("llama", seed=1, dtype=torch.float64),
        base_options={"tokenizer": tokenizer_of(True)},
        tuned_options={"tokenizer": tokenizer_of(False)},
        **OPTIONS,
    )
    with pytest.raises(InputError, match="special tokens in front of prompt 'poem'"):
        patch(habits, PROMPT, RESPONSE, component="mlp", layer=0)
