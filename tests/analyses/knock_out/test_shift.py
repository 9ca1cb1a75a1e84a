"""What a pair loses over prompts: planted differences, one model at a time beside both, controls."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff import stats
from lensdiff.analyses.knock_out import KnockOutOptions
from lensdiff.analyses.knock_out.beside import with_controls
from lensdiff.analyses.knock_out.both import knock_out_control, knock_out_shift
from lensdiff.analyses.knock_out.cuts import CUTS
from lensdiff.analyses.knock_out.measure import knock_out
from lensdiff.analyses.knock_out.shift import MEASURES, PARTS, KnockOutShift
from lensdiff.analyses.knock_out.steps import STEPS
from lensdiff.inputs import Prompt
from lensdiff.models import load_pair
from lensdiff.models.text import Response
from lensdiff.results import InputError
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.unit import WHOLE
from tests.analyses.knock_out.results import PROMPTS, RISE, SLOPE, WINDOWS, shift
from tests.checkpoints import hf_model, tokenizer_of
from tests.models.test_pair import with_more_tokens

ASKED = [
    Prompt("The moon: write a poem about the sea, using simple words.", ["write a poem"], id="poem"),
    Prompt("List three fruits. Apples are good", ["List three fruits."], id="list"),
    Prompt("Good morning. Repeat the word moon", ["Repeat the word"], id="repeat"),
]
TEXTS: dict[str, list[Any]] = {
    "one": ["Apples and bananas, good morning.", "bonjour, how are you?", "The city council met on Tuesday."],
    "two": ["Good morning, how are you?", None, "The new bridge"],
}


EMPTY = dict.fromkeys((prompt.id for prompt in ASKED), "it is empty")


def pair_of(*seeds: int, **options: Any) -> Any:
    sides = [hf_model("llama", seed=seed, dtype=torch.float64) for seed in seeds]
    made: dict[str, Any] = {"tokenizer": tokenizer_of(), "dtype": "float64", "device": "cpu", "verify": False} | options
    return load_pair(*sides, **made)


def estimate(test: stats.Test | None) -> float:
    assert test is not None
    return test.estimate


# statistics on numbers that are known

STUDENT = 4.302652729911275  # of 2 degrees of freedom, 97.5 %


def band_of_19(values: list[float]) -> tuple[float, float]:
    """Between which values a twentieth is not the one farthest from the median of all 20.

    One above all others makes c10 and c11 the two in the middle, and is farthest where it is farther than c1.
    """
    c = sorted(values)
    assert len(c) == 19
    return min(c[0], c[8] + c[9] - c[18]), max(c[18], c[9] + c[10] - c[0])


def control_differences(frame: Any, text: str, cut: str, measure: str) -> list[list[float]]:
    """Control - base of each control, mean over prompts and over the texts that are meant, by kind."""
    own = frame[(frame["cut"] == cut) & frame["text"].isin(["base", "tuned"] if text == "mean" else [text])]
    means = own.groupby("model")[measure].mean()
    kinds = [[name for name in means.index if kind in str(name)] for kind in ("spectrum", "norm")]
    return [[float(means[name] - means["base"]) for name in names] for names in kinds]


def test_measures_are_paired_over_prompts_and_texts_are_averaged():
    found = shift(controls={"spectrum": 3, "norm": 2})
    rises = [RISE + 0.1 * i for i in range(len(PROMPTS))]
    for text in ("base", "tuned", "mean"):
        start = {"base": 0.0, "tuned": 0.2, "mean": 0.1}[text]
        for cut, times in (("response", 1), ("after", 2)):
            base = [times * (start + 0.1 * i) for i in range(3)]
            assert found.means("drop", text, cut) == pytest.approx(
                (np.mean(base), np.mean(base) + times * np.mean(rises))
            )
            test = found.difference("drop", text, cut)
            assert test is not None
            half = STUDENT * times * 0.1 / np.sqrt(3)  # rises of 1, 1.1 and 1.2: their deviation is 0.1
            mean = times * (RISE + 0.1)
            assert (test.estimate, test.low, test.high) == pytest.approx((mean, mean - half, mean + half))
            assert estimate(found.difference("drop_median", text, cut)) == pytest.approx(times * np.mean(rises) / 2)
            assert estimate(found.difference("slope", text, cut)) == pytest.approx(times * SLOPE)
            assert estimate(found.own("slope", text, cut, 1)) == pytest.approx(times * (SLOPE + 0.1))
            assert estimate(found.own("slope", text, cut, 0)) == pytest.approx(times * 0.1)


def test_effects_stand_beside_every_control_in_the_provenances_order():
    found = shift(controls={"spectrum": 19, "gradient-noise": 24})
    effect, controls = found.effects()
    frame = (
        found.to_df()
        .query("cut == 'response'")
        .pivot_table(index="model", columns=["prompt_id", "text"], values="drop")
    )
    assert effect == pytest.approx(np.mean([RISE + 0.1 * i for i in range(3)]))
    names = [control.name for control in found.provenance.controls]
    assert controls == pytest.approx([float((frame.loc[name] - frame.loc["base"]).mean()) for name in names])
    beside = found.beside()
    assert beside is not None
    assert [(kind.kind, kind.n, kind.side) for kind in beside.kinds] == [
        ("spectrum", 19, "above"),
        ("gradient-noise", 24, "above"),
    ]
    assert [kind.p for kind in beside.kinds] == pytest.approx([1 / 20, 1 / 25])
    assert (beside.effect, beside.direction, beside.p) == (effect, "above", pytest.approx(1 / 20))
    assert shift().beside() is None
    with pytest.raises(InputError, match="text='third' is none of base, tuned, mean"):
        found.effects("third")
    with pytest.raises(InputError, match="cut='all' is none of response, after"):
        found.effects(cut="all")


def test_tables_hold_what_was_found():
    found = shift(controls={"spectrum": 19, "norm": 19})
    frame: Any = found.to_df()
    assert len(frame) == len(found.prompt_id) * len(CUTS)
    assert frame[frame["model"].isin(["base", "tuned"])].notna().all().all()
    assert frame[~frame["model"].isin(["base", "tuned"])]["random_drop"].isna().all()
    summary: Any = found.summary().set_index(["text", "cut", "measure", "model"])
    for text in found.shown:
        for cut in CUTS:
            for measure in MEASURES:
                row = summary.loc[text, cut, measure, "tuned - base"]
                assert row["estimate"] == pytest.approx(found.effects(text, measure, cut)[0])
                bands = [band_of_19(own) for own in control_differences(frame, text, cut, measure)]
                low, high = min(low for low, _ in bands), max(high for _, high in bands)
                assert (row["control_low"], row["control_high"]) == pytest.approx((low, high))
                assert np.isnan(summary.loc[text, cut, measure, "tuned"]["control_low"])
    windows: Any = found.over_windows()
    assert list(zip(windows["window_first"], windows["window_last"], strict=True)) == [*WINDOWS] * (len(windows) // 2)
    tuned = windows.query("text == 'base' and cut == 'after' and model == 'tuned'")
    mean = 2 * np.mean([0.1 * i + RISE + 0.1 * i for i in range(3)])
    assert tuned["drop"].tolist() == pytest.approx([0.75 * mean, 0.25 * mean])
    assert tuned["random_drop"].tolist() == pytest.approx([0.075 * mean, 0.025 * mean])
    assert (tuned["drop_low"] < tuned["drop"]).all()
    tokens: Any = found.tokens()
    assert len(tokens) == 3 * 2 * 2 * len(CUTS) * 3
    assert tokens.query("cut == 'after'")["drop"].sum() == pytest.approx(
        2 * tokens.query("cut == 'response'")["drop"].sum()
    )
    assert set(tokens["model"]) == {"base", "tuned"}
    assert found.top(2)["prompt_id"].tolist() == ["french", "french"]
    assert found.top(1)["difference"].tolist() == pytest.approx([RISE + 0.2])


def test_one_prompt_has_numbers_and_no_interval():
    found = shift(("poem",), controls={"spectrum": 2})
    assert found.difference() is None
    assert found.own() is None
    assert found.effects()[0] == pytest.approx(RISE)
    summary: Any = found.summary()
    assert summary["estimate"].isna().all()
    windows: Any = found.over_windows()
    assert windows[["drop_low", "random_drop_high"]].isna().all().all()


def test_windows_with_and_without_the_instruction_are_of_the_same_prompts():
    found, prompts = shift(), list(PROMPTS)
    few = torch.tensor([name == prompts[0] for name in found.prompt_id])  # it has too few other tokens
    random = found.window_random.masked_fill(few[:, None, None], torch.nan)
    some = replace(found, window_random=random)
    windows: Any = some.over_windows().query("text == 'base' and cut == 'response' and model == 'tuned'")
    mean = np.mean([RISE + 0.2 * i for i in (1, 2)])
    assert windows["n"].tolist() == [2, 2]
    assert windows["drop"].tolist() == pytest.approx([0.75 * mean, 0.25 * mean])
    assert windows["random_drop"].tolist() == pytest.approx([0.075 * mean, 0.025 * mean])
    assert len(some.curve("window_drop", 1)) == len(some.curve("window_random", 1)) == 2
    assert len(some.curve("profile", 1)) == 3
    none = replace(found, window_random=torch.full_like(found.window_random, torch.nan))
    windows = none.over_windows().query("text == 'base' and cut == 'response' and model == 'tuned'")
    mean = np.mean([RISE + 0.2 * i for i in range(3)])
    assert windows["n"].tolist() == [3, 3]
    assert windows["drop"].tolist() == pytest.approx([0.75 * mean, 0.25 * mean])
    assert windows["random_drop"].isna().all()


def test_a_control_alone_has_its_responses_and_no_difference():
    pair = pair_of(0, 1)
    alone = knock_out_control(pair.base, ASKED, TEXTS)
    drops = alone.to_df().query("cut == 'response'").set_index(["prompt_id", "text"])["drop"]
    first = drops.abs().sort_values(ascending=False).index[:2]
    found = alone.top(2)
    assert list(found.columns) == ["prompt_id", "text", "drop"]
    assert list(zip(found["prompt_id"], found["text"], strict=True)) == first.tolist()
    assert found["drop"].tolist() == pytest.approx(drops[first].tolist())
    with pytest.raises(InputError, match=r"there is one model, .*: a difference needs a pair"):
        alone.means()


# passes


def test_a_pair_finds_what_the_function_of_one_model_does():
    pair = pair_of(0, 1)
    found = knock_out_shift(pair, ASKED, TEXTS, draws=3)
    assert (found.models, found.texts, found.windows) == (("base", "tuned"), ("one", "two"), ((0, 0), (1, 1)))
    assert list(found.values("drop", "mean")) == ["poem", "repeat"]
    assert list(found.values("drop", "one")) == ["poem", "list", "repeat"]
    frame = found.to_df().set_index(["prompt_id", "text", "model", "cut"])
    tokens = found.tokens().set_index(["prompt_id", "text", "model", "cut"])
    for side in ("base", "tuned"):
        for name, responses in TEXTS.items():
            for prompt, response in zip(ASKED, responses, strict=True):
                if response is None:
                    continue
                for cut in CUTS:
                    whole = knock_out(getattr(pair, side), prompt, response, cut=cut, draws=3)
                    windows = knock_out(getattr(pair, side), prompt, response, cut=cut, draws=1, layers="windows")
                    first = whole.summary().iloc[0]  # without token 0
                    row = frame.loc[prompt.id, name, side, cut]
                    columns = ["log_prob", "drop", "drop_median", "random_drop", "slope", "n_out"]
                    assert row[columns].tolist() == pytest.approx(first[columns].tolist(), abs=1e-9, nan_ok=True)
                    own = tokens.loc[[(prompt.id, name, side, cut)]]
                    np.testing.assert_allclose(own["drop"], whole.drop[0], atol=1e-9)
                    np.testing.assert_allclose(own["random_drop"], whole.mean_random()[0], atol=1e-9)
                    assert own["token"].tolist() == list(whole.out_tokens)
                    keys = list(zip(found.prompt_id, found.text, found.model.tolist(), strict=True))
                    at = keys.index((prompt.id, name, int(side == "tuned")))
                    kept = [i for i, condition in enumerate(windows.conditions) if not condition.first]
                    np.testing.assert_allclose(
                        found.window_drop[at, CUTS.index(cut)], windows.drop[kept].mean(dim=-1), atol=1e-9
                    )
                    np.testing.assert_allclose(
                        found.window_random[at, CUTS.index(cut)], windows.mean_random()[kept].mean(dim=-1), atol=1e-9
                    )
                    assert float(found.profile[at, CUTS.index(cut)].mean()) == pytest.approx(first["drop"], abs=1e-9)
    assert found.profile.shape[-1] == PARTS


def test_base_against_base_differs_by_exactly_nothing():
    pair = pair_of(0, 0, dtype="float32")
    found = knock_out_shift(pair, ASKED, TEXTS, controls=[pair.control("self")])
    for text in found.shown:
        for cut in CUTS:
            for measure in MEASURES:
                assert found.effects(text, measure, cut) == (0.0, [0.0])
                test = found.difference(measure, text, cut)
                assert test is not None
                assert (test.estimate, test.low, test.high) == (0.0, 0.0, 0.0)
    sides = found.model < 2
    for name in ("window_drop", "window_random", "profile"):
        values = getattr(found, name)[sides]
        assert torch.equal(values[::2].nan_to_num(9.0), values[1::2].nan_to_num(9.0)), name
    summary: Any = found.summary()
    assert summary.query("model == 'tuned - base'")["estimate"].eq(0).all()


def test_controls_read_apart_are_those_of_one_call():
    pair = pair_of(0, 1)
    controls = [pair.control("spectrum", 0), pair.control("norm", 1)]
    whole = knock_out_shift(pair, ASKED, TEXTS, draws=2, controls=controls)
    alone = knock_out_shift(pair, ASKED, TEXTS, draws=2)
    apart = with_controls(alone, [knock_out_control(control, ASKED, TEXTS) for control in controls])
    assert whole.models == apart.models == ("base", "tuned", *(c.name for c in whole.provenance.controls))
    assert whole.provenance.control_kinds == ("spectrum", "norm")
    for one in (*KnockOutShift.PER_ROW, "first_token", "token_drop"):
        torch.testing.assert_close(getattr(whole, one), getattr(apart, one), equal_nan=True, rtol=0, atol=0)
    assert whole.tokens().equals(alone.tokens())
    assert whole.effects()[0] == alone.effects()[0]
    assert whole.effects()[1] != [0.0, 0.0]
    assert not any(control.is_made for control in controls)


def test_a_prompt_that_a_control_lacks_is_left_out_of_all():
    pair = pair_of(0, 1)
    alone, fewer = knock_out_shift(pair, ASKED, TEXTS), {name: texts[:2] for name, texts in TEXTS.items()}
    control = knock_out_control(pair.base, ASKED[:2], fewer)
    both = with_controls(alone, [control])
    assert set(both.prompt_id) == {"poem", "list"}
    assert list(both.failures) == ["repeat"]
    assert "has nothing on text" in both.failures["repeat"]
    kept = alone.tokens()
    assert both.tokens().equals(kept[kept["prompt_id"] != "repeat"].reset_index(drop=True))
    with pytest.raises(InputError, match="no prompt of the pair was read in every control; 'poem': it is empty"):
        with_controls(alone, [replace(control, prompt_id=("x",) * len(control.prompt_id), failures=EMPTY)])
    with pytest.raises(InputError, match="a control of 2 models is given, expected one that was read alone"):
        with_controls(alone, [alone])
    with pytest.raises(InputError, match="was read on the texts three, expected one, two as the pair"):
        with_controls(alone, [replace(control, texts=("three",))])
    with pytest.raises(InputError, match=r"controls are set beside .*, expected a pair"):
        with_controls(control, [control])
    longer = replace(control, n_out=control.n_out + 1)
    with pytest.raises(
        InputError, match=r"control .* read \d+ tokens of text 'one' of prompt 'poem', expected the pair's"
    ):
        with_controls(alone, [longer])


def test_texts_that_are_read_as_other_tokens_fail_their_prompt():
    pair = load_pair(
        *(hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1)),
        base_options={"tokenizer": tokenizer_of()},
        tuned_options={"tokenizer": with_more_tokens(without="Ġword")},
        dtype="float64",
        device="cpu",
        verify=False,
    )
    with pytest.warns(UserWarning, match="prompt 'repeat' failed: .* different tokens"):
        found = knock_out_shift(pair, ASKED[1:], {"one": ["Apples and bananas", "Good morning"]})
    assert set(found.prompt_id) == {"list"}
    with pytest.raises(InputError, match="cannot be forced on both"):
        knock_out_shift(pair, ASKED[2:], {"one": ["Good morning"]})


def test_short_responses_are_left_out_and_prompts_without_an_instruction_fail():
    texts = {"one": [Response("", (5,)), "Good morning", ""]}
    with pytest.warns(UserWarning, match="prompt 'none' failed: prompt 'none' marks no instruction"):
        found = knock_out_shift(pair_of(0, 1), [ASKED[0], Prompt("The sea", id="none"), ASKED[1]], texts)
    assert (found.n_left_out, found.prompt_id) == (1, ())
    assert list(found.failures) == ["none"]
    assert found.top().empty
    summary: Any = found.summary()
    assert summary["estimate"].isna().all()
    with pytest.raises(InputError, match=r"no prompt has a drop on text 'mean' in every model"):
        found.effects()


def test_what_beside_a_control_is_left_out_is_told():
    pair = pair_of(0, 1)
    alone, fewer = knock_out_shift(pair, ASKED, TEXTS), {name: texts[:2] for name, texts in TEXTS.items()}
    control, said = knock_out_control(pair.base, ASKED[:2], fewer), []
    found = SimpleNamespace(one=lambda *_: alone, each=lambda *_: [control])
    inputs: Any = object.__new__(Inputs)
    inputs.found, inputs.say = found, said.append
    (step,) = (step for step in STEPS if step.name == "knock_out")
    both = step.work(inputs, WHOLE, KnockOutOptions())
    assert said == [f"knock-out beside controls: without prompt 'repeat': {both.failures['repeat']}"]
    assert step.lacks is not None
    assert list(step.lacks(both)) == ["repeat"]
