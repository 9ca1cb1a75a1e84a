"""Patchscope, steering and the replaced component: transformers with plain hooks, a planted direction, refusals."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.families import exact_rotary, wrappers_of
from lensdiff import activation_difference
from lensdiff.analyses.activation_difference.directions import Directions
from lensdiff.analyses.activation_difference.result import ActivationDifference
from lensdiff.analyses.activation_difference.steering import _targets as targets_of
from lensdiff.models import ModelPair, Point, view_of
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.text import token_strings
from lensdiff.results import InputError
from tests.analyses.activation_difference.pairs import FAMILIES, PLANTED, TEXTS, WRAPPERS, pair_of, planted
from tests.checkpoints import VOCABULARY, hf_model, tokenizer_of
from tests.models.hf_points import patched
from tests.models.test_pair import with_more_tokens

CASES = [(family, wrapper) for family in FAMILIES for wrapper in wrappers_of(family)]
READ = TEXTS[:3]
POINTS = (Point("resid_pre", 0), Point("resid_pre", 1), Point("resid_post", 1))  # of layers 0, 1 and what leaves them


@cache
def models_and_pair(family: str, wrapper: str) -> tuple[list[Any], ModelPair, ActivationDifference]:
    """Two transformers models, a pair of the same, and their difference."""
    models = [hf_model(family, seed=seed, dtype=torch.float64) for seed in (0, 1)]
    pair = pair_of(*(hf_model(family, seed=seed, dtype=torch.float64) for seed in (0, 1)), wrapper=wrapper)
    if wrapper == "hooked":
        for model in models:
            exact_rotary(model)
    return models, pair, activation_difference(pair, TEXTS, positions=2)


def ids_of(text: str, bos: bool = False) -> Tensor:
    return torch.tensor([tokenizer_of(bos)(text)["input_ids"]])


def logits_of(family: str, model: Any, ids: Tensor, layer: int, edit: Callable[[Tensor], Tensor] | None) -> Tensor:
    """The logits of transformers, with an edit of the stream that enters a layer."""
    with torch.no_grad(), double_precision():
        return patched(family, model, ids, POINTS[layer], edit)[1][0]


def stream_of(family: str, model: Any, ids: Tensor, layer: int) -> Tensor:
    with torch.no_grad(), double_precision():
        return patched(family, model, ids, POINTS[layer], None)[0]


# steering
@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_steering_is_a_plain_hook_of_transformers(family: str, wrapper: str, layer: int):
    models, pair, found = models_and_pair(family, wrapper)
    d, words = found.difference[layer, 1], (" the", "a")
    targets = [int(ids_of(word)[0, 0]) for word in words]
    for side, into in enumerate(("base", "tuned")):
        frame: Any = found.steer(pair, layer, 1, into=into, scales=[0.5, -1.0], tokens=words, texts=READ, draws=1)
        table = frame.set_index(["reading", "draw", "scale"])
        for scale in (0.5, -1.0):
            sums = torch.zeros(3, dtype=torch.float64)
            n = 0
            for text in READ:
                ids = ids_of(text)[:, :32]
                steered = logits_of(family, models[side], ids, layer, lambda h, s=scale: h + s * d).log_softmax(-1)
                ends = [logits_of(family, model, ids, layer, None).log_softmax(-1) for model in models]
                kl = [(steered.exp() * (steered - end)).sum() for end in ends]
                sums += torch.stack([steered.exp()[:, targets].sum(), *kl])
                n += ids.shape[1]
            own = table.loc[("difference", 0, scale), ["prob", "kl_to_base", "kl_to_tuned"]].to_numpy(dtype=float)
            np.testing.assert_allclose(own, (sums / n).numpy(), rtol=1e-6, atol=1e-8)
        assert table.loc[("none", 0, 0.0), f"kl_to_{into}"] == 0.0


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_steering_by_a_planted_bias_gives_the_tuned_models_logits(wrapper: str):
    pair, _, _ = planted(wrapper)
    found = activation_difference(pair, TEXTS, positions=2)
    frame: Any = found.steer(pair, PLANTED, 1, scales=[0.5, 1.0], texts=TEXTS, draws=4)
    table = frame.set_index(["reading", "draw", "scale"])
    own, none = table.loc[("difference", 0, 1.0)], table.loc[("none", 0, 0.0)]
    assert own.kl_to_tuned < 1e-15 < table.loc[("difference", 0, 0.5)].kl_to_tuned < none.kl_to_tuned
    assert own.kl_to_base == pytest.approx(
        found.steer(pair, PLANTED, 1, into="tuned", scales=[1.0], texts=TEXTS, draws=0).iloc[0].kl_to_base
    )
    assert own.prob > none.prob
    randoms = table.loc["random vector"].xs(1.0, level="scale")
    assert randoms.kl_to_tuned.min() > 1000 * max(own.kl_to_tuned, 1e-12)
    back = found.steer(pair, PLANTED, 1, into="tuned", scales=[-1.0], texts=TEXTS, draws=0)
    assert back[back.reading == "difference"].kl_to_base.item() < 1e-15


def test_what_stands_beside_has_the_differences_length():
    pair = pair_of()
    controls = [pair.control("norm", seed) for seed in (0, 1)]
    found = activation_difference(pair, TEXTS, controls=controls)
    frame: Any = found.steer(pair, 2, 1, scales=[2.0], texts=READ, draws=3, seed=5)
    assert frame.reading.tolist() == [
        *("none", "difference", "tuned mean", *found.readings[3:]),
        *["random vector"] * 3,
    ]
    assert frame.draw.tolist() == [0, 0, 0, 0, 0, 0, 1, 2]
    view, length = view_of(pair.base), float(found.difference[2, 1].norm())
    vectors = {"tuned mean": found.tuned_mean[2, 1], found.readings[4]: found.control_difference[1, 2, 1]}
    for name, vector in vectors.items():
        total, n = 0.0, 0
        for text in READ:
            ids, given = ids_of(text)[:, :32], 2 * length * vector / vector.norm()
            moved = {POINTS[2]: lambda h, given=given: h + given}
            with torch.no_grad():
                p = view.forward.run(ids, read=[Point("logits")], write=moved)[Point("logits")].log_softmax(-1)
            q = view.forward.logits(ids).log_softmax(-1)
            total, n = total + float((p.exp() * (p - q)).sum()), n + ids.shape[1]
        assert frame[frame.reading == name].kl_to_base.item() == pytest.approx(total / n)
    again: Any = found.steer(pair, 2, 1, scales=[2.0], texts=READ, draws=3, seed=5)
    other: Any = found.steer(pair, 2, 1, scales=[2.0], texts=READ, draws=3, seed=6)
    assert again.equals(frame)
    assert other.iloc[:5].equals(frame.iloc[:5])
    assert not other.equals(frame)
    # all directions that were asked for, at random, are of length 1
    directions = found.directions(pair, 2, 1)
    assert [float(u.norm()) for _, _, u in (*directions.units(), *directions.random(2, 0))] == pytest.approx([1.0] * 6)


def test_targets_are_the_words_that_the_difference_reads_unless_others_are_named():
    pair = pair_of()
    found = activation_difference(pair, TEXTS)
    words = list(token_strings(view_of(pair.tuned), tuple(found.read_ids[0, 0, 1, 1, :5].tolist())))
    by_default = found.steer(pair, 1, 1, texts=READ, scales=[1.0], draws=0)
    ids, view = found.read_ids[0, 0, 1, 1, :5], view_of(pair.base)
    read = torch.cat([view.forward.logits(ids_of(text)[:, :32])[0].softmax(-1) for text in READ])
    assert by_default.prob[0] == pytest.approx(float(read[:, ids].sum(-1).mean())), words
    one = found.steer(pair, 1, 1, texts=READ, scales=[1.0], draws=0, tokens=["a"])
    assert one.prob[0] == pytest.approx(float(read[:, ids_of("a")[0, 0]].mean()))


def test_texts_are_read_one_at_a_time_or_together_and_as_far_as_is_asked():
    pair = pair_of(bos=True)
    found = activation_difference(pair, TEXTS)
    options: dict[str, Any] = {"scales": [1.0], "draws": 0}
    same = [TEXTS[0]] * 2
    together = found.steer(pair, 1, 1, texts=TEXTS[:4], max_tokens=6, **options)
    measures = ["prob", "kl_to_base", "kl_to_tuned"]
    alone = [found.steer(pair, 1, 1, texts=[t] * 2, max_tokens=6, **options)[measures].to_numpy() for t in TEXTS[:4]]
    np.testing.assert_allclose(together[measures].to_numpy(), np.mean(alone, axis=0), rtol=0, atol=1e-9)
    first = found.steer(pair, 1, 1, texts=TEXTS, max_texts=4, max_tokens=6, **options)
    assert first.equals(together)
    bare = found.steer(pair, 1, 1, texts=same, max_tokens=6, prepend_bos=False, **options)
    assert not np.allclose(bare[measures], found.steer(pair, 1, 1, texts=same, max_tokens=6, **options)[measures])
    # what is measured are the text's own tokens, not the BOS that is changed with them
    view = view_of(pair.base)
    ids = ids_of(TEXTS[0], bos=True)[:, :7]
    p = view.forward.logits(ids)[0, 1:].softmax(-1)[:, ids_of("a")[0, 0]].mean()
    by = found.steer(pair, 1, 1, texts=same, max_tokens=6, tokens=["a"], **options)
    assert by.prob[0] == pytest.approx(float(p))


def test_of_vocabularies_that_differ_the_shared_tokens_count():
    tuned = hf_model("llama", seed=1, dtype=torch.float64, vocab_size=VOCABULARY + 10)
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tokenizer": None}
    sides["tuned_options"] = {"tokenizer": with_more_tokens("<one>", "<two>")}
    pair = pair_of(hf_model("llama", dtype=torch.float64), tuned, **sides)
    found = activation_difference(pair, TEXTS)
    frame = found.steer(pair, 1, 1, texts=READ, scales=[1.0], draws=0, tokens=["a"])
    p, q = ([], [])
    for text in READ:
        for view, shared, kept in zip((pair.base, pair.tuned), pair.shared_tokens, (p, q), strict=True):
            kept.append(view_of(view).forward.logits(ids_of(text)[:, :32])[0][:, shared].log_softmax(-1))
    p, q = torch.cat(p), torch.cat(q)
    assert frame.kl_to_tuned[0] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()))
    assert frame.kl_to_base[0] == 0.0
    place = pair.shared_tokens[0].tolist().index(ids_of("a")[0, 0].item())
    assert frame.prob[0] == pytest.approx(float(p.exp()[:, place].mean()))


# the replaced component
@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_the_replaced_component_is_a_plain_hook_of_transformers(family: str, wrapper: str, layer: int):
    models, pair, found = models_and_pair(family, wrapper)
    u = found.difference[layer, 1] / found.difference[layer, 1].norm()
    for into, own in (("base", 0), ("tuned", 1)):
        frame: Any = found.causal(pair, layer, 1, into=into, texts=READ, draws=1)
        losses = []
        for text in READ:
            ids = ids_of(text)[:, :32]
            theirs = stream_of(family, models[1 - own], ids, layer)
            edits = (None, None, lambda h, o=theirs: h + ((o - h) @ u)[..., None] * u)
            readers = (models[own], models[1 - own], models[own])
            rows = []
            for model, edit in zip(readers, edits, strict=True):
                log_probs = logits_of(family, model, ids, layer, edit)[:-1].log_softmax(-1)
                rows.append(-log_probs.gather(-1, ids[0, 1:, None]).mean())
            losses.append(torch.stack(rows))
        expected = torch.stack(losses).mean(dim=0).numpy()
        assert frame.reading.tolist()[:3] == ["none", "other", "difference"]
        np.testing.assert_allclose(frame.cross_entropy[:3], expected, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(frame.change[:3], expected - expected[0], rtol=1e-6, atol=1e-8)
        assert (frame["into"] == into).all()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_planted_bias_is_all_that_its_component_holds(wrapper: str):
    pair, _, _ = planted(wrapper)
    found = activation_difference(pair, TEXTS)
    for into in ("base", "tuned"):
        frame: Any = found.causal(pair, PLANTED, 1, into=into, texts=TEXTS, draws=3)
        by = frame.groupby("reading").change.apply(list)
        assert by["difference"] == pytest.approx(by["other"])
        assert abs(by["other"][0]) > 1e-3
        for name in ("random vector", "random difference"):
            assert len(by[name]) == 3
            assert min(abs(x - by["other"][0]) for x in by[name]) > 1e-4
        assert frame.low[0] == frame.high[0] == 0.0
        rest = frame.iloc[1:]
        assert ((rest.low <= rest.change) & (rest.change <= rest.high)).all()


def test_a_text_counts_once_and_its_first_token_where_something_stands_before_it():
    pair = pair_of(bos=True)
    found = activation_difference(pair, TEXTS)
    texts = [TEXTS[0], "a"]
    frame: Any = found.causal(pair, 1, 1, into="base", texts=texts, draws=0)
    losses = []
    for text in texts:
        ids = ids_of(text, bos=True)[:, :33]
        log_probs = view_of(pair.base).forward.logits(ids)[0, :-1].log_softmax(-1)
        losses.append(float(-log_probs.gather(-1, ids[0, 1:, None]).mean()))
    assert frame.cross_entropy[0] == pytest.approx(np.mean(losses))
    assert frame.low.notna().all()
    bare = pair_of()
    alone: Any = activation_difference(bare, TEXTS).causal(bare, 1, 0, texts=texts, draws=1)
    assert alone.low.isna().all(), "without a BOS one text is left, and of one there is no interval"
    assert alone.reading.tolist()[-1] == "random vector", "nor a difference of two texts"
    with pytest.raises(InputError, match="no text has two tokens: there is none to predict"):
        activation_difference(bare, TEXTS).causal(bare, 1, 0, texts=["a", "b"])
    seeds = [found.causal(pair, 1, 1, texts=TEXTS, draws=2, seed=seed) for seed in (0, 0, 1)]
    assert seeds[0].equals(seeds[1])
    assert not seeds[0].equals(seeds[2])
    assert seeds[0].reading.tolist() == [
        *("none", "other", "difference", "tuned mean"),
        *["random vector"] * 2,
        *["random difference"] * 2,
    ]


# patchscope
@pytest.mark.parametrize("write", ["put", "add"])
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_a_patchscope_is_a_plain_hook_of_transformers(family: str, wrapper: str, write: str):
    models, pair, found = models_and_pair(family, wrapper)
    prompts, layer = ["a a; the the; x", "sea -> sea, x"], 1
    frame: Any = found.patchscope(pair, layer, 1, scales=[0.5, 20.0], prompts=prompts, write=write, k=3)
    d, mean = found.difference[layer, 1], found.tuned_mean[layer, 1]
    for reading, side, vector in (("difference", 1, d), ("difference", 0, d), ("tuned mean", 1, mean)):
        for scale in (0.5, 20.0):
            given = scale * found.lengths[1, layer, 1] * vector / vector.norm()

            def edit(h: Tensor, given: Tensor = given) -> Tensor:
                end = given if write == "put" else h[:, -1] + given
                return torch.cat([h[:, :-1], end.expand(len(h), -1)[:, None]], dim=1)

            after, before = (
                torch.stack(
                    [logits_of(family, models[side], ids_of(p), layer, e)[-1].softmax(-1) for p in prompts]
                ).mean(dim=0)
                for e in (edit, None)
            )
            own = frame[(frame.reading == reading) & (frame.model == ("base", "tuned")[side]) & (frame.scale == scale)]
            top = after.topk(3)
            np.testing.assert_allclose(own.prob, top.values.numpy(), rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(own.prob_before, before[top.indices].numpy(), rtol=1e-6, atol=1e-9)
            assert own.token.tolist() == list(token_strings(view_of(pair.tuned), tuple(top.indices.tolist())))
            assert own["rank"].tolist() == [1, 2, 3]


def test_the_whole_curve_of_tokens_that_are_named():
    pair = pair_of()
    found = activation_difference(pair, TEXTS, controls=[pair.control("norm")])
    frame: Any = found.patchscope(pair, 2, 1, tokens=["a", " the"])
    assert sorted(frame.scale.unique()) == [0.5, 1, 2, 5, 10, 20, 50, 100, 200]
    assert frame.groupby(["model", "reading"]).size().to_dict() == {
        ("base", "difference"): 18,
        ("tuned", "difference"): 18,
        ("tuned", "tuned mean"): 18,
        ("tuned", found.readings[3]): 18,
        ("tuned", "random vector"): 8 * 18,
    }
    assert frame.token.tolist()[:2] == ["a", " the"]
    # behind the last block a direction that is put there is all that is left: its length does not matter
    own = frame[(frame.reading == "difference") & (frame.token == "a") & (frame.model == "tuned")]
    np.testing.assert_allclose(own.prob, own.prob.iloc[0], rtol=1e-4)
    top: Any = found.patchscope(pair, 2, 1, scales=[10.0], k=1)
    first = top[(top.reading == "difference") & (top.model == "tuned")].token.item()
    word = found.read(2, 1, 1)
    assert first == word[(word.reading == "difference") & (word.sign == "+")].word.item()
    again: Any = found.patchscope(pair, 2, 1, scales=[10.0], tokens=[first])
    both = [one[(one.reading == "difference") & (one.model == "tuned")].prob.item() for one in (top, again)]
    assert both[0] == pytest.approx(both[1])


def test_a_control_without_a_change_gives_no_direction():
    pair = pair_of()
    found = activation_difference(pair, TEXTS, controls=[pair.control("self"), pair.control("norm")])
    assert [*found.directions(pair, 1, 0).named] == ["difference", "tuned mean", found.readings[4]]
    assert isinstance(found.directions(pair, 1, 0), Directions)


# errors
CALLS = ("steer", "causal", "patchscope")


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        ("steer", {"scales": []}, r"scales=\[\] given, expected at least one finite number, each once"),
        ("steer", {"scales": [1.0, 1.0]}, r"scales=\[1.0, 1.0\] given"),
        ("steer", {"scales": [float("nan")]}, r"scales=\[nan\] given"),
        ("steer", {"into": "both"}, "into='both' is none of base, tuned"),
        ("steer", {"tokens": []}, r"tokens=\[\] given, expected at least one text, each once"),
        ("steer", {"tokens": ["a", "a"]}, "expected at least one text, each once"),
        (
            "steer",
            {"tokens": ["the sea and the moon"]},
            r"'the sea and the moon' is \d+ tokens of .*, expected exactly one",
        ),
        ("steer", {"max_texts": 1}, "max_texts=1 given, expected at least 2"),
        ("steer", {"max_tokens": 1}, "max_tokens=1 given, expected at least 2"),
        ("steer", {"draws": -1}, "draws=-1 given, expected at least 0"),
        ("steer", {"seed": -1}, "seed=-1 given"),
        ("steer", {"texts": ["a"]}, "1 texts are given, expected at least 2"),
        ("causal", {"into": "neither"}, "into='neither' is none of base, tuned"),
        ("causal", {"draws": -1}, "draws=-1 given, expected at least 0"),
        ("causal", {"seed": -1}, "seed=-1 given"),
        ("causal", {"texts": []}, "0 texts are given"),
        ("patchscope", {"scales": [float("inf")]}, r"scales=\[inf\] given"),
        ("patchscope", {"prompts": []}, r"prompts=\[\] given, expected at least one text, each once"),
        ("patchscope", {"prompts": ["x", "x"]}, "prompts=.* given"),
        ("patchscope", {"write": "set"}, "write='set' is none of put, add"),
        ("patchscope", {"tokens": [""]}, r"tokens=\[''\] given"),
        ("patchscope", {"k": 0}, "k=0 given, expected at least 1"),
        ("patchscope", {"draws": -1}, "draws=-1 given, expected at least 0"),
        ("patchscope", {"seed": -1}, "seed=-1 given"),
    ],
)
def test_options_that_are_none_are_refused(made: Any, call: str, options: dict[str, Any], message: str):
    pair, found = made
    with pytest.raises(InputError, match=message):
        getattr(found, call)(pair, 1, 1, **options)


def test_tokens_that_one_model_lacks_are_refused():
    tuned = hf_model("llama", seed=1, dtype=torch.float64, vocab_size=VOCABULARY + 10)
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tokenizer": None}
    sides["tuned_options"] = {"tokenizer": with_more_tokens("<one>")}
    pair = pair_of(hf_model("llama", dtype=torch.float64), tuned, **sides)
    found = activation_difference(pair, TEXTS)
    with pytest.raises(InputError, match="the token '<one>' is not one that both models have"):
        found.steer(pair, 1, 1, into="tuned", tokens=["a", "<one>"], texts=READ)
    own = found.directions(pair, 1, 1)._replace(targets=torch.tensor([VOCABULARY]))
    with pytest.raises(InputError, match="no word that the difference speaks for is a token of both models"):
        targets_of(pair, own, None, 0)
    pair = pair_of(tokenizer=with_more_tokens("<one>"))  # the embedding has no row for it
    with pytest.raises(InputError, match=f"'<one>' is the token {VOCABULARY}, for which .* has no row"):
        activation_difference(pair, TEXTS).patchscope(pair, 1, 1, tokens=["<one>"])


@pytest.mark.parametrize("call", CALLS)
def test_another_place_and_another_pair_are_refused(made: Any, call: str):
    pair, found = made
    with pytest.raises(InputError, match=r"layer=\[7\] given, expected at least one of 0, 1, 2, each once|0 to 2"):
        getattr(found, call)(pair, 7, 0)
    with pytest.raises(InputError, match=r"position=\[9\] given"):
        getattr(found, call)(pair, 1, 9)
    other = pair_of(hf_model("gpt2", dtype=torch.float64), hf_model("gpt2", seed=1, dtype=torch.float64))
    with pytest.raises(InputError, match=r"the difference is of .* -> .*, the pair is .* -> .*"):
        getattr(found, call)(other, 1, 0)


@pytest.fixture(scope="module")
def made() -> Any:
    pair = pair_of()
    return pair, activation_difference(pair, TEXTS)
