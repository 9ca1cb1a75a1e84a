"""Profiles of importance over relative position: by hand, with planted U shapes, on both kinds of attribution."""

from typing import Any

import numpy as np
import pytest
import torch

from lensdiff.analyses.position.measure import (
    PositionProfile,
    _part_tests,
    _shape_tests,
    position_means,
    position_profile,
    shape_of,
)
from lensdiff.inputs.published import ReleasedAttribution
from lensdiff.results import InputError
from lensdiff.stats import Test
from tests.analyses.attribute.results import attribution

M = 81  # response tokens: a density is a count to the power of 3/4


def counts(shape: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """How many response tokens each of n prompt tokens drives: densities of a planted shape, with noise."""
    x = (np.arange(n) + 0.5) / n
    density = {"U": 5 + 60 * (2 * x - 1) ** 2, "flat": 30 + 0 * x, "slope": 5 + 60 * x, "end": 5 + 60 * (x > 0.8)}[
        shape
    ]
    return np.clip(np.round(density + rng.normal(0, 2, n)), 1, M).astype(int)


def planted(shape: str, seed: int, *, prompts: int = 20, model: str = "tiny"):
    """Attributions of prompts of different lengths in which token i drives the first counts[i] response tokens."""
    rng = np.random.default_rng(seed)
    maps = []
    for i in range(prompts):
        n = int(np.random.default_rng(i).integers(5, 30))  # the same prompts, whatever the shape
        scores = torch.from_numpy(np.arange(M) < counts(shape, n, rng)[:, None]).float()
        tokens = [f" t{j}" for j in range(n)]
        response = ["x"] * M
        maps.append(attribution(tokens, response, scores=scores, model=model, prompt_id=f"p{i}"))
    return maps


def adjusted(test: Test) -> float:
    assert test.p_adjusted is not None
    return test.p_adjusted


def test_means_of_parts_by_hand():
    found = position_means(torch.tensor([1.0, 2.0, 4.0]), np.array([0.0, 0.5, 1.0]))
    assert found == pytest.approx([(1 + 2 / 2) / 1.5, (2 / 2 + 4) / 1.5])


def test_a_profile_that_is_no_number_is_an_error():
    good, bad = np.full((3, 2), 0.5), np.array([[0.5, 0.5], [0.5, np.nan], [0.5, 0.5]])
    for tests in (_part_tests, lambda *both, level: _shape_tests(*(x[:, [1, 1, 1]] for x in both), level=level)):
        for both in ((good, bad), (bad, good)):
            with pytest.raises(InputError, match=r"\[1\] is nan, expected finite values"):
                tests(*both, level=0.95)


def test_profiles_that_are_the_same_in_every_prompt_are_tested_by_sign_flips():
    base, tuned = (np.tile(values, (5, 1)) for values in ([0.25, 0.5], [0.5, 0.5]))
    first, second = _part_tests(base, tuned, level=0.95)
    assert (first.name, first.p, second.name, second.p) == ("sign flip", 2 / 2**5, "paired t", 1.0)
    shapes = _shape_tests(np.tile([0.25, 0.0, -0.25], (5, 1)), np.tile([0.25, 0.0, 0.25], (5, 1)), level=0.95)
    assert [shape.base.p for shape in shapes.values()] == [1 / 2**5, 1.0, 1.0]
    assert [shape.base.name for shape in shapes.values()] == ["sign flip", "one-sample t", "sign flip"]
    assert [shape.difference.p for shape in shapes.values()] == [1.0, 1.0, 2 / 2**5]


def test_parts_have_the_prompts_mean_also_where_there_are_fewer_tokens():
    for n in (1, 3, 10, 17):
        values = torch.rand(n, generator=torch.Generator().manual_seed(n))
        assert position_means(values, np.linspace(0, 1, 11)).mean() == pytest.approx(float(values.mean()))


def test_shape_by_hand():
    values = torch.tensor([3.0, 1.0, 1.0, 1.0, 2.0])
    assert shape_of(values, ends=0.2) == pytest.approx([1.5, 2.0, 1.0])


def test_a_slope_is_no_u():
    for n in (5, 8, 30):
        u, first, last = shape_of(torch.arange(n).double())
        assert u == pytest.approx(0.0, abs=1e-12)
        assert first == pytest.approx(-last)


def test_density_is_that_of_the_attribution():
    one, two = planted("U", 0, prompts=2)
    found = position_profile([one, two], [one, two], n_bins=4)
    density = one.density()
    assert found.base[0].numpy() == pytest.approx(
        position_means(density / density.max(), np.linspace(0, 1, 5)), rel=1e-6
    )


def test_a_planted_u_is_found_and_its_loss_too():
    found = position_profile(planted("U", 1, model="b"), planted("flat", 2, model="t"))
    u, first, last = (found.shapes[name] for name in ("U", "first - middle", "last - middle"))
    for tests in (u, first, last):
        assert tests.base.estimate > 0.3
        assert adjusted(tests.base) < 1e-6
        assert adjusted(tests.tuned) > 0.01
        assert tests.difference.estimate < -0.3
        assert adjusted(tests.difference) < 1e-6
    frame: Any = found.to_df()
    assert (frame["p_adjusted"][[4, 5]] < 1e-6).all()
    assert (frame["difference"][[4, 5]] > 0.5).all()
    assert frame["difference"][[0, 9]].abs().max() < 0.1  # each prompt's largest density is 1: the middle rose instead
    assert found.provenance.model == "b -> t"


def test_one_high_end_is_not_taken_for_a_u():
    found = position_profile(planted("end", 1), planted("slope", 2))
    assert adjusted(found.shapes["U"].base) < 1e-6  # what U alone would call a U
    assert adjusted(found.shapes["first - middle"].base) > 0.05
    assert found.shapes["first - middle"].tuned.estimate < 0


def test_meaningless_differences_are_rarely_significant():
    rejected = []
    for i in range(40):
        found = position_profile(planted("U", i, prompts=6), planted("U", i + 500, prompts=6))
        p = found.shapes["U"].difference.p
        rejected.append(p is not None and p < 0.05)
    assert sum(rejected) <= 8  # 2 expected, more in 0.01 % of runs


def test_a_model_against_itself_is_no_change():
    maps = planted("U", 0)
    found = position_profile(maps, maps)
    assert all(test.estimate == 0 and test.p == 1 for test in found.parts)
    assert found.shapes["U"].difference.p == 1


def test_intervals_cover_the_means_and_the_tables_say_which_is_which():
    found = position_profile(planted("U", 1), planted("flat", 2), level=0.9, n_bins=5)
    frame: Any = found.to_df()
    assert list(frame.columns[:5]) == ["part", "start", "end", "base", "tuned"]
    for name in ("base", "tuned"):
        assert ((frame[f"{name}_low"] < frame[name]) & (frame[name] < frame[f"{name}_high"])).all()
    assert frame["difference"].to_numpy() == pytest.approx((frame["tuned"] - frame["base"]).to_numpy())
    assert found.parts[0].level == 0.9
    assert "over 5" in str(found.parts[0].adjustment)
    summary: Any = found.summary()
    assert summary["model"].tolist() == ["base", "tuned", "tuned - base"] * 3
    assert (summary["n"] == 20).all()
    assert found.top(2)["difference"].abs().min() >= frame["difference"].abs().median()


def released(one) -> ReleasedAttribution:
    return ReleasedAttribution(one.prompt_id, one.in_tokens, one.out_tokens, one.levels().to(torch.int8))


def test_released_attributions_give_the_same_profile():
    base, tuned = planted("U", 1), planted("flat", 2)
    expected = position_profile(base, tuned)
    found = position_profile(map(released, base), map(released, tuned))
    torch.testing.assert_close(found.base, expected.base, rtol=1e-6, atol=1e-6)
    assert found.provenance.model == "released attributions"


def test_equal_length_cuts_both_responses():
    base, tuned = planted("U", 1, prompts=3), planted("U", 1, prompts=3)
    short = [attribution(one.in_tokens, ["x"] * 9, scores=one.scores[:, :9], prompt_id=one.prompt_id) for one in tuned]
    assert not torch.equal(position_profile(base, short).base, position_profile(base, short).tuned)
    found = position_profile(base, short, equal_length=True)
    torch.testing.assert_close(found.base, found.tuned)


def test_prompts_without_importance_are_left_out_and_named():
    base, tuned = planted("U", 1, prompts=4), planted("flat", 2, prompts=4)
    n = len(tuned[1].in_tokens)
    tuned[1] = attribution(tuned[1].in_tokens, [], scores=torch.zeros(n, 0), prompt_id="p1")
    found = position_profile(base[:3], tuned)
    assert found.prompt_ids == ("p0", "p2")
    assert found.left_out == ("p1",)


def test_the_ends_and_the_sparsity_are_options():
    base, tuned = planted("U", 1), planted("flat", 2)
    wide = position_profile(base, tuned, ends=0.4).shapes["U"].base.estimate
    assert wide < position_profile(base, tuned, ends=0.1).shapes["U"].base.estimate
    one = attribution(
        scores=torch.tensor([[1.0, 1.0], [0.5, 0.5], [0.5, 0.5]]), prompt=("a", "b", "c"), response=("x", "y")
    )
    other = attribution(one.in_tokens, one.out_tokens, scores=one.scores, prompt_id="p2")
    assert float(position_profile([one, other], [one, other], n_bins=3).base[0, 1]) == 0  # level 5 is not above 7
    assert float(position_profile([one, other], [one, other], n_bins=3, b=0).base[0, 1]) == pytest.approx(1, rel=1e-6)


def test_constant_differences_fall_back_to_sign_flips():
    base, tuned = planted("U", 1, prompts=1) * 6, planted("flat", 2, prompts=1) * 6
    ids = [f"q{i}" for i in range(6)]

    def copies(maps):
        one = maps[0]
        return [attribution(one.in_tokens, one.out_tokens, scores=one.scores, prompt_id=name) for name in ids]

    found = position_profile(copies(base), copies(tuned))
    assert found.shapes["U"].difference.name == "sign flip"
    assert found.shapes["U"].base.name == "sign flip"
    assert found.shapes["U"].base.p == pytest.approx(1 / 64)


def test_saved_and_loaded(tmp_path):
    found = position_profile(planted("U", 1), planted("flat", 2))
    again = PositionProfile.load(found.save(tmp_path / "position.safetensors"))
    assert again.to_df().equals(found.to_df())
    assert again.summary().equals(found.summary())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_bins": 1}, "n_bins=1 given"), ({"ends": 0.5}, "ends=0.5 given"), ({"ends": 0.0}, "ends=0.0 ")],
)
def test_numbers_out_of_range_are_refused(options, message):
    maps = planted("U", 0, prompts=2)
    with pytest.raises(InputError, match=message):
        position_profile(maps, maps, **options)


def test_too_few_prompts_are_refused():
    maps = planted("U", 0, prompts=2)
    with pytest.raises(InputError, match="1 of 1 shared prompts have importance in both models, expected at least 2"):
        position_profile(maps[:1], maps)
    with pytest.raises(InputError, match="0 of 0 shared prompts"):
        position_profile(maps[:1], maps[1:])
