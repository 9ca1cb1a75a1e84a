"""The difference: means by hand and of transformers' own streams, a planted direction, the toy pairs, refusals."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.families import exact_rotary, wrappers_of
from lensdiff import activation_difference
from lensdiff.analyses.activation_difference.control import ControlDifference
from lensdiff.analyses.activation_difference.directions import READINGS
from lensdiff.analyses.activation_difference.measure import control_difference
from lensdiff.analyses.activation_difference.result import ActivationDifference
from lensdiff.analyses.activation_difference.starts import batches, starts_of
from lensdiff.analyses.activation_difference.sums import Sums, constant_share
from lensdiff.inputs import toy_pair
from lensdiff.models import Point, load_pair, view_of
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.text import encode_start, token_strings
from lensdiff.results import InputError
from tests import toy_v1
from tests.analyses.activation_difference.pairs import (
    FAMILIES,
    OPTIONS,
    PLANTED,
    TEXTS,
    WRAPPERS,
    own_token,
    pair_of,
    planted,
)
from tests.checkpoints import VOCABULARY, hf_model, tokenizer_of
from tests.models.hf_points import patched
from tests.models.test_pair import reordered, with_more_tokens

CASES = [(family, wrapper) for family in FAMILIES for wrapper in wrappers_of(family)]


# kernels
def test_the_constant_share_by_hand():
    difference = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    size = torch.tensor([1.0, 1.0, 1.0, 0.0])  # twice the same, there and back, at a right angle, nothing
    share = constant_share(difference, size)
    np.testing.assert_allclose(share.numpy(), [1.0, 0.0, math.sqrt(0.5), math.nan])


def test_sums_are_the_means_of_all_at_once():
    generator = torch.Generator().manual_seed(0)
    base, tuned = (torch.randn(2, 7, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    sums = Sums(2, 3, 4)
    sums.add(base[:, :3], tuned[:, :3])
    sums.add(base[:, 3:5], tuned[:, 3:5])
    sums.add(base[:, 5:, :1], tuned[:, 5:, :1])  # two texts of one token
    found = sums.means(torch.float64)
    assert found.n.tolist() == [7, 5, 5]
    d = tuned - base
    torch.testing.assert_close(found.difference[:, 0], d[:, :, 0].mean(dim=1))
    torch.testing.assert_close(found.difference[:, 1:], d[:, :5, 1:].mean(dim=1))
    torch.testing.assert_close(found.size[:, 1:], d[:, :5, 1:].norm(dim=-1).mean(dim=1))
    torch.testing.assert_close(found.tuned[:, 1:], tuned[:, :5, 1:].mean(dim=1))
    torch.testing.assert_close(found.lengths[0, :, 0], base[:, :, 0].norm(dim=-1).mean(dim=1))
    torch.testing.assert_close(found.lengths[1, :, 0], tuned[:, :, 0].norm(dim=-1).mean(dim=1))
    assert not bool(Sums(1, 2, 3).means(torch.float32).difference.any())


# against transformers
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_means_and_words_are_of_transformers_own_streams(family: str, wrapper: str):
    models: list[Any] = [hf_model(family, seed=seed, dtype=torch.float64) for seed in (0, 1)]
    pair = pair_of(*(hf_model(family, seed=seed, dtype=torch.float64) for seed in (0, 1)), wrapper=wrapper)
    if wrapper == "hooked":
        for model in models:
            exact_rotary(model)
    found = activation_difference(pair, TEXTS, positions=3)
    tokenizer, points = tokenizer_of(), [Point("resid_pre", 0), Point("resid_pre", 1), Point("resid_post", 1)]
    streams: list[list[Any]] = []
    with torch.no_grad(), double_precision():
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text)["input_ids"]])  # whole: what follows changes nothing
            streams.append([torch.stack([patched(family, m, ids, p, None)[0][0] for p in points]) for m in models])
    for position in range(3):
        sides = [torch.stack([s[i][:, position] for s in streams if s[i].shape[1] > position]) for i in (0, 1)]
        d = sides[1] - sides[0]
        assert int(found.n[position]) == len(d)
        torch.testing.assert_close(found.difference[:, position], d.mean(dim=0), rtol=0, atol=1e-8)
        torch.testing.assert_close(found.size[:, position], d.norm(dim=-1).mean(dim=0), rtol=0, atol=1e-8)
        torch.testing.assert_close(found.tuned_mean[:, position], sides[1].mean(dim=0), rtol=0, atol=1e-8)
        share = d.mean(dim=0).norm(dim=-1) / d.norm(dim=-1).mean(dim=0)
        torch.testing.assert_close(found.constant_share[:, position], share, rtol=0, atol=1e-8)
        for side in (0, 1):
            lengths = sides[side].norm(dim=-1).mean(dim=0)
            torch.testing.assert_close(found.lengths[side, :, position], lengths, rtol=0, atol=1e-8)
    # the words of one place: the final norm and the unembedding of transformers on the direction, less those on nothing
    layer, position = 1, 2
    for reading, (model, vector) in enumerate(
        ((models[1], found.difference), (models[0], found.difference), (models[1], found.tuned_mean))
    ):
        given = vector[layer, position] / vector[layer, position].norm() * found.lengths[1, layer, position]
        with torch.no_grad(), double_precision():
            ids, end = torch.zeros(1, 1, dtype=torch.int64), Point("resid_post", 1)
            finals = []
            for v in (given, -given, 0 * given):
                kept: list[Any] = []
                handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, a, k=kept: k.append(a[0]))
                patched(family, model, ids, end, lambda _, v=v: v[None, None])
                handle.remove()
                finals.append(kept[0][0, 0])
            logits = [(final - finals[2]) @ model.get_output_embeddings().weight.T for final in finals[:2]]
        for sign in (0, 1):
            top = logits[sign].topk(10)
            kept_logits = found.read_logits[reading, sign, layer, position]
            torch.testing.assert_close(kept_logits, top.values.float(), rtol=1e-5, atol=1e-6)
            assert found.read_ids[reading, sign, layer, position].tolist() == top.indices.tolist()
            words = [found.words[i] for i in found.read_words[reading, sign, layer, position].tolist()]
            assert words[0] == tokenizer.decode([int(top.indices[0])]) or "\ufffd" in tokenizer.decode(top.indices[:1])


def test_texts_read_together_are_those_read_one_at_a_time():
    pair = pair_of()
    whole = activation_difference(pair, TEXTS, positions=4)
    starts = starts_of(pair, TEXTS, 4, None)
    assert {len(start.ids[0]) for start in starts} >= {1, 4}
    assert sorted(n for b in batches(starts, 1) for n in b.numbers) == list(range(len(TEXTS)))
    assert all(len(b.numbers) == 1 for b in batches(starts, 10, max_bytes=1)), "one at a time, at least"
    sums = Sums(3, 4, 32)
    for text in TEXTS:
        one = activation_difference(pair, [text, text], positions=4)
        has = int((one.n > 0).sum())
        sums.n[:has] += 1
        sums.difference[:, :has] += one.difference[:, :has]
        sums.size[:, :has] += one.size[:, :has]
    found = sums.means(torch.float64)
    torch.testing.assert_close(found.difference, whole.difference, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.size, whole.size, rtol=0, atol=1e-9)
    # the first tokens do not depend on what follows them
    short = activation_difference(pair, TEXTS, positions=2)
    torch.testing.assert_close(short.difference, whole.difference[:, :2], rtol=0, atol=1e-9)


def test_positions_count_from_a_texts_own_first_token():
    pair = pair_of(bos=True)
    found = activation_difference(pair, TEXTS, positions=2)
    without = activation_difference(pair, TEXTS, positions=2, prepend_bos=False)
    plain = activation_difference(pair_of(), TEXTS, positions=2)
    torch.testing.assert_close(without.difference, plain.difference)
    assert not torch.allclose(found.difference, plain.difference), "the first tokens see the BOS"
    assert float(found.constant_share[0, 0]) < 0.99, "a BOS would be the same in every text"
    assert found.provenance.options["prepend_bos"] is None
    assert without.provenance.options["prepend_bos"] is False


# planted
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_planted_bias_is_nothing_before_and_constant_at_it(wrapper: str):
    pair, added, token = planted(wrapper)
    found = activation_difference(pair, TEXTS, positions=3)
    assert not bool(found.difference[:PLANTED].any())
    assert not bool(found.size[:PLANTED].any())
    assert bool(found.constant_share[:PLANTED].isnan().all()), "0/0 is undefined"
    expected = added.expand(3, -1)
    torch.testing.assert_close(found.difference[PLANTED], expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.constant_share[PLANTED].numpy(), 1.0, atol=1e-12)
    for reading in (0, 1):  # both heads are the same
        assert found.read_ids[reading, 0, PLANTED, :, 0].tolist() == [token] * 3
    frame = found.read(PLANTED, 1, k=2)
    first = frame[(frame.reading == "difference") & (frame.sign == "+") & (frame["rank"] == 1)]
    (word,) = token_strings(view_of(pair.base), (token,))
    assert first.word.item() == word
    assert set(frame.reading) == set(READINGS)
    # against: the word whose product with the token's is the lowest
    W_U = view_of(pair.base).weights.W_U
    assert int(found.read_ids[0, 1, PLANTED, 0, 0]) == int((W_U[:, token] @ W_U).argmin())
    table = found.to_df().set_index(["layer", "position"])
    assert table.constant_share.isna().tolist()[: 3 * PLANTED] == [True] * 3 * PLANTED
    assert (table["size"].loc[0] == 0).all()
    assert found.top(1).layer.tolist() == [PLANTED]
    assert found.top(1)["reads"].item().startswith(repr(word))


def test_the_opposite_of_a_direction_speaks_for_the_opposite():
    pair = pair_of(hf_model("gpt2", dtype=torch.float64), hf_model("gpt2", seed=1, dtype=torch.float64))
    found = activation_difference(pair, TEXTS, positions=2)
    # the norm has a bias, which is in neither sign: all logits of -d are those of d, turned
    view = view_of(pair.tuned)
    last = found.difference[2, 1] / found.difference[2, 1].norm() * found.lengths[1, 2, 1]
    centred = last - last.mean()
    scaled = centred / (centred.square().mean() + view.model.cfg.eps).sqrt()
    logits = (scaled * view.weights.gain("final")) @ view.weights.W_U
    torch.testing.assert_close(found.read_logits[0, 0, 2, 1], logits.topk(10).values.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.read_logits[0, 1, 2, 1], (-logits).topk(10).values.float(), rtol=1e-5, atol=1e-6)


def test_a_pair_of_one_model_differs_by_nothing():
    pair = pair_of(hf_model("llama", dtype=torch.float64), hf_model("llama", dtype=torch.float64))
    found = activation_difference(pair, TEXTS, controls=[pair.control("self"), pair.control("norm")])
    assert not bool(found.difference.any())
    assert not bool(found.control_shares.any())
    assert math.isnan(found.share)
    assert found.beside() is None
    assert found.to_df().constant_share.isna().all()
    assert not bool(found.read_logits[:2].any())
    assert bool(found.read_logits[2].any()), "its own mean speaks all the same"
    assert "nothing differs: the constant share is undefined" in repr(found)
    with pytest.raises(InputError, match=r"nothing differs at layer 1, position 0: there is no direction"):
        found.steer(pair, 1, 0)


# controls
def test_controls_stand_beside_as_if_they_were_read_alone():
    pair = pair_of()
    controls = [pair.control(kind, seed) for kind in ("spectrum", "norm") for seed in (0, 1)]
    alone = activation_difference(pair, TEXTS, positions=2)
    found = activation_difference(pair, TEXTS, positions=2, controls=(control for control in controls))
    given = [control_difference(pair, control, TEXTS, positions=2) for control in controls]
    again = alone.with_controls(given)
    pd.testing.assert_frame_equal(again.reads(), found.reads())
    assert found.provenance.control_kinds == ("spectrum", "spectrum", "norm", "norm")
    for i, control in enumerate(controls):
        both = load_pair(pair.base, control.model, **OPTIONS)
        own = activation_difference(both, TEXTS, positions=2)
        torch.testing.assert_close(found.control_difference[i], own.difference)
        torch.testing.assert_close(found.control_shares[i], own.constant_share)
        frame = found.reads()
        mine = frame[frame.reading == control.info.id].drop(columns="reading").reset_index(drop=True)
        theirs = own.reads()
        theirs = theirs[theirs.reading == "difference"].drop(columns="reading").reset_index(drop=True)
        assert mine.word.tolist() == theirs.word.tolist()
    assert found.with_controls([]).readings == READINGS
    pd.testing.assert_frame_equal(found.with_controls([]).to_df(), alone.to_df())
    assert given[0].to_df().columns.tolist() == ["layer", "position", "constant_share", "size"]
    assert given[0].top(2).constant_share.is_monotonic_decreasing
    for other in (control_difference(pair, controls[0], TEXTS[:4], positions=2),
                  control_difference(pair, controls[0], TEXTS, positions=2, layers=[1])):  # fmt: skip
        with pytest.raises(InputError, match=r"was read in layers \[.*\] on \[.*\] texts by position, expected"):
            alone.with_controls([other])


def test_a_band_takes_nineteen_controls():
    pair = pair_of()
    control = control_difference(pair, pair.control("norm"), TEXTS, positions=2)
    alone = activation_difference(pair, TEXTS, positions=2)
    many = []
    for i in range(19):  # mean differences shorter and shorter, of the same size
        many.append(replace(control, difference=control.difference * (1 - i / 20)))
    found, few = alone.with_controls(many), alone.with_controls(many[:18])
    band = found.to_df()
    shares = found.control_shares.numpy()
    # 19 evenly spaced: one more of them lies a step beyond either end at most
    step = (shares.max(axis=0) - shares.min(axis=0)) / 18
    np.testing.assert_allclose(band.control_low, (shares.min(axis=0) - step).reshape(-1))
    np.testing.assert_allclose(band.control_high, (shares.max(axis=0) + step).reshape(-1))
    assert few.to_df().control_low.isna().all()
    beside = found.beside()
    assert beside is not None
    assert beside.effect == pytest.approx(found.share)
    assert beside.kinds[0].median == pytest.approx(float(np.median(shares.mean(axis=(1, 2)))))
    assert "mean share beside controls" in repr(found)
    table = found.controls()
    assert len(table) == 19 * 3 * 2
    assert table.constant_share.to_numpy() == pytest.approx(shares.reshape(-1))


# pairs whose vocabularies differ
def test_both_models_read_the_same_tokens_each_with_its_own_ids():
    base = hf_model("llama", dtype=torch.float64)
    tuned, other = hf_model("llama", seed=1, dtype=torch.float64), reordered(300, 301)
    swapped = hf_model("llama", seed=1, dtype=torch.float64)
    with torch.no_grad():
        for name in ("model.embed_tokens", "lm_head"):
            weight: Any = swapped.get_submodule(name).weight
            weight[[300, 301]] = weight[[301, 300]].clone()
    plain = activation_difference(pair_of(base, tuned), TEXTS)
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": other}, "tokenizer": None}
    found = activation_difference(pair_of(hf_model("llama", dtype=torch.float64), swapped, **sides), TEXTS)
    torch.testing.assert_close(found.difference, plain.difference, rtol=0, atol=1e-9)
    assert found.reads().word.tolist() == plain.reads().word.tolist()


def test_texts_that_are_read_as_different_tokens_are_left_out():
    lost = tokenizer_of().convert_ids_to_tokens(tokenizer_of()(TEXTS[0])["input_ids"])[0]
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tokenizer": None}
    sides["tuned_options"] = {"tokenizer": with_more_tokens(without=lost)}
    pair = pair_of(**sides)
    with pytest.warns(UserWarning, match=r"\d+ of 8 texts are left out; the models read text 0 .* as different tokens"):
        found = activation_difference(pair, TEXTS)
    assert found.n_texts < len(TEXTS)
    with pytest.raises(InputError, match=r"0 of 2 texts can be read, expected at least 2; the models read text 0"):
        activation_difference(pair, [TEXTS[0]] * 2)
    uneven = pair_of(base_options={"tokenizer": tokenizer_of(True)}, tuned_options={"tokenizer": tokenizer_of()},
                     tokenizer=None)  # fmt: skip
    with pytest.raises(InputError, match=r"the models put 1 and 0 special tokens in front of text 0.*give prepend_bos"):
        activation_difference(uneven, TEXTS)
    assert activation_difference(uneven, TEXTS, prepend_bos=False).n_texts == len(TEXTS)


# toy pairs
def test_what_the_first_toy_pair_adds_is_constant_and_reads_as_its_own_mean():
    """Letters are what its tasks ask for; nothing of that is told apart from what the tuned model's own mean says."""
    pair = load_pair(toy_v1.BASE, toy_v1.TUNED, device="cpu")
    controls = [pair.control("spectrum", seed) for seed in range(9)]
    found = activation_difference(pair, max_texts=256, controls=controls)
    means = found.constant_share.mean(dim=1)
    np.testing.assert_allclose(means.numpy(), MEASURED_V1, atol=0.01)
    within = found.constant_share[1:4, 3:]  # behind layers 0 to 2, where a text's first tokens are no more alike
    assert 0.5 < float(within.min()) < float(within.max()) < 0.7
    beside = found.control_shares[:, 1:4, 3:]
    assert 0.15 < float(beside.max()) < 0.25
    said = {
        name: [w.strip() for w in own.word] for name, own in found.read(2, 2).query("sign == '+'").groupby("reading")
    }
    letters = [word for word in said["difference"] if len(word) == 1 and word.isalpha()]
    assert len(letters) >= 5
    assert len({*said["difference"]} & {*said["tuned mean"]}) >= 6
    assert max(len({*said["difference"]} & {*said[name]}) for name in found.readings[3:]) <= 3
    # its words come out, but the base steered by it is no nearer to the tuned model than steered by noise
    steered: Any = found.steer(pair, 2, 2, scales=[1.0], draws=4, max_texts=8)
    by = steered.groupby("reading").mean(numeric_only=True)
    assert by.kl_to_tuned["difference"] > by.kl_to_tuned["random vector"]
    assert by.prob["difference"] > 2 * by.prob["none"]
    assert by.prob["tuned mean"] > 2 * by.prob["none"], "as its own mean, without any difference, does"


MEASURED_V1 = [0.235, 0.612, 0.717, 0.687, 0.605]


def test_the_shipped_pair_is_within_what_random_gradients_do():
    pair = load_pair(toy_pair.BASE, toy_pair.TUNED, device="cpu")
    controls = [pair.control(kind, seed) for kind in ("spectrum", "gradient-noise") for seed in range(2)]
    found = activation_difference(pair, max_texts=256, controls=controls)
    np.testing.assert_allclose(found.constant_share.mean(dim=1).numpy(), MEASURED_SHIPPED, atol=0.01)
    spectrum, gradients = found.control_shares[:2, 1:], found.control_shares[2:, 1:]
    assert bool((found.constant_share[1:] < gradients.amin(dim=0)).float().mean() > 0.8)
    assert float(gradients.mean()) > float(spectrum.mean())


MEASURED_SHIPPED = [0.176, 0.513, 0.466, 0.433, 0.404]


# results
def test_it_is_saved_and_read_again(tmp_path):
    pair = pair_of()
    found = activation_difference(pair, TEXTS, controls=[pair.control("norm")], layers=[2, 0], positions=2, level=0.9)
    again = ActivationDifference.load(found.save(tmp_path / "x.safetensors"))
    for table in ("to_df", "reads", "controls", "top"):
        pd.testing.assert_frame_equal(getattr(again, table)(), getattr(found, table)())
    assert repr(again) == repr(found)
    assert found.layers == (2, 0)
    options = found.provenance.options
    assert (options["layers"], options["positions"], options["texts"], options["level"]) == ([2, 0], 2, "8 given", 0.9)
    assert found.level == 0.9
    whole = activation_difference(pair, TEXTS, positions=2)
    torch.testing.assert_close(found.difference, whole.difference[[2, 0]])
    assert found.to_df().columns.tolist() == [
        *("layer", "position", "constant_share", "control_low", "control_high", "size", "relative_size", "n")
    ]
    assert found.to_df().relative_size.tolist() == pytest.approx((found.size / found.lengths[0]).flatten().tolist())
    assert len(found.reads()) == 4 * 2 * 2 * 2 * 10
    assert len(found.read(0, 1, k=3)) == 4 * 2 * 3
    control = control_difference(pair, pair.control("norm"), TEXTS, layers=[1])
    back = ControlDifference.load(control.save(tmp_path / "y.safetensors"))
    pd.testing.assert_frame_equal(back.to_df(), control.to_df())


def test_texts_of_a_file_and_the_first_of_them(tmp_path):
    pair, path = pair_of(), tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    whole, first = activation_difference(pair, path), activation_difference(pair, str(path), max_texts=3)
    torch.testing.assert_close(whole.difference, activation_difference(pair, TEXTS).difference)
    torch.testing.assert_close(first.difference, activation_difference(pair, TEXTS[:3]).difference)
    assert (whole.n_texts, first.n_texts) == (8, 3)
    assert first.provenance.options["texts"] == str(path)
    assert activation_difference(pair, max_texts=4).provenance.options["texts"] == "default"
    long = activation_difference(pair, [" ".join(TEXTS * 20)] * 2, positions=2)  # longer than any context
    assert long.n.tolist() == [2, 2]


def test_the_first_tokens_of_a_text():
    view = view_of(pair_of(bos=True).base)
    ids = view.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    found = encode_start(view, f" {TEXTS[0]} ", 3)
    assert (found.ids, found.n_special, found.n_prompt) == ((1, *ids[:3]), 1, 3)
    assert encode_start(view, TEXTS[0], 3, prepend_bos=False).ids == tuple(ids[:3])
    written = encode_start(view, f"<s>{TEXTS[0]}", 3)
    assert (written.ids, written.n_added, written.n_special) == ((1, *ids[:3]), 0, 1)
    assert len(encode_start(view, "a", 3).ids) == 2
    for text, n, message in (
        ("<s>", 3, "is read as the BOS alone, expected words"),
        (" ", 3, "is read as no token, expected words"),
        ("a\ud800", 3, "holds half a character"),
        (" ".join(TEXTS * 9), 500, "501 tokens of a text are asked for, the model's context holds 128"),
    ):
        with pytest.raises(InputError, match=message):
            encode_start(view, text, n)


# errors
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, r"layers=\[3\] given, expected at least one of 0 to 2, each once"),
        ({"layers": []}, r"layers=\[\] given"),
        ({"positions": 0}, "positions=0 given, expected at least 1"),
        ({"positions": 500}, "500 tokens of a text are asked for|0 of 8 texts can be read"),
        ({"max_texts": 1}, "max_texts=1 given, expected at least 2"),
        ({"level": 95.0}, "level is 95.0, expected a number between 0 and 1"),
        ({"texts": ["a"]}, "1 texts are given, expected at least 2"),
        ({"texts": "none.txt"}, "no file at none.txt"),
        ({"prepend_bos": True, "texts": ["a", "b"]}, "BOS"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], message: str):
    tokenizer = copy.deepcopy(tokenizer_of())  # other tests have the same one
    if "prepend_bos" in options:
        tokenizer.bos_token = None
    long = [" ".join(TEXTS * 9)] * 8
    texts = options.pop("texts", long if "positions" in options else TEXTS)
    with pytest.raises(InputError, match=message):
        activation_difference(pair_of(tokenizer=tokenizer), texts, **options)


def test_pairs_and_controls_that_do_not_do_are_refused(tmp_path):
    pair = pair_of()
    larger = pair_of(*(hf_model("llama", vocab_size=VOCABULARY + 2, dtype=torch.float64),) * 2)
    with pytest.raises(InputError, match=r"control .* has d_vocab 402, expected the base's 400"):
        activation_difference(pair, TEXTS, controls=[larger.base])
    for name in ("base", "tuned"):
        hf_model("llama").save_pretrained(tmp_path / name)
        tokenizer_of().save_pretrained(tmp_path / name)
    one = load_pair(tmp_path / "base", tmp_path / "tuned", keep="one", device="cpu", verify=False)
    with pytest.raises(InputError, match='reads both models at once: load the pair with keep="both"'):
        activation_difference(one, TEXTS)
    found = activation_difference(pair, TEXTS, layers=[1], positions=2)
    for layer, position, message in ((0, 0, r"layer=\[0\] given"), (1, 2, r"position=\[2\] given")):
        with pytest.raises(InputError, match=message):
            found.read(layer, position)
    with pytest.raises(InputError, match="k=0 given"):
        found.read(1, 0, k=0)


def test_a_token_of_its_own_is_found():
    W_U = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    assert own_token(W_U) == 2
