"""Table 5 and Figure 3 from annotations: by hand, planted changes, no change, what seeds cannot say, errors."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from lensdiff.analyses.annotate.annotations import STATUSES, Annotations
from lensdiff.analyses.annotate.shift import GROUP_STATISTICS, STATISTICS, AnnotationShift, annotation_shift
from lensdiff.results import InputError
from tests.analyses.annotate.results import TASKS, annotations, random_annotations


def test_shares_by_hand() -> None:
    # one layer, two components, two seeds; the second component is not explained by the second seed
    task = torch.tensor([[[[1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 1]]]])
    status = torch.tensor([[[0, 0], [0, 1]]])
    level = torch.tensor([[[0, 1], [1, 1]]])
    base = annotations(task, level, status)
    tuned = annotations(torch.ones_like(task), level, torch.zeros_like(status))
    frame = annotation_shift(base, tuned).to_df().set_index("label")
    assert list(frame.columns) == ["side", "kind", *STATISTICS, "verdict"]
    expected = {
        "explainable": (0.75, 0.25, 1.0, 0.0),  # 2 of 2, 1 of 2
        "daily_writing": (0.75, 0.25, 1.0, 0.0),  # 1 of 2, 1 of 1
        "literary_writing": (0.5, 0.5, 1.0, 0.0),
        "coding": (0.0, 0.0, 1.0, 0.0),
        "no task": (0.25, 0.25, 0.0, 0.0),
        "writing": (0.75, 0.25, 1.0, 0.0),
        "morphology": (0.25, 0.25, 0.25, 0.25),
        "semantics": (0.75, 0.25, 0.75, 0.25),
    }
    assert list(frame.index) == list(expected)
    for label, row in expected.items():
        np.testing.assert_allclose(frame.loc[label, list(STATISTICS[:4])].astype(float), row, err_msg=label)
    assert frame.loc["coding", "difference"] == 1.0  # pooled: 0 of 3, 4 of 4
    assert frame.loc["writing", "difference"] == pytest.approx(1 - 2 / 3)
    assert frame.kind.tolist() == ["explainable"] + ["task"] * 4 + ["task group"] + ["level"] * 2


def test_the_papers_test_is_welchs_over_seeds() -> None:
    base, tuned = random_annotations(0.4, 1), random_annotations(0.5, 2)
    frame = annotation_shift(base, tuned, n_resamples=99).to_df().set_index("label")
    shares = [a.task[..., 2].double().mean(dim=(0, 1, 2)).numpy() for a in (base, tuned)]
    expected: Any = scipy_stats.ttest_ind(shares[1], shares[0], equal_var=False)
    assert frame.loc["coding", "paper_p"] == pytest.approx(expected.pvalue)
    assert frame.loc["coding", "base_std"] == pytest.approx(shares[0].std())
    assert np.isnan(frame.loc["explainable", "paper_p"]) or frame.loc["explainable", "paper_p"] == 1.0


def test_a_planted_change_is_found_and_no_change_is_called_so() -> None:
    base = random_annotations(0.3, 1, components=200)
    tuned = random_annotations(0.3, 2, components=200)
    planted = tuned.task.clone()
    planted[..., 2] |= torch.rand(planted.shape[:3], generator=torch.Generator().manual_seed(3))[..., None] < 0.3
    found = annotation_shift(base, replace(tuned, task=planted), bound=0.1).to_df().set_index("label")
    assert found.loc["coding", "verdict"] == "changed"
    assert found.loc["coding", "p_adjusted"] < 1e-6
    assert found.loc["coding", "low"] > 0.1
    assert found.loc["daily_writing", "verdict"] == "did not change (within ±0.1)"
    for label in ("explainable", "semantics"):  # the same for every component of both: nothing to judge a change by
        assert found.loc[label, "verdict"] == "undecided"
        assert np.isnan(found.loc[label, "equivalence_p"])
    narrow = annotation_shift(base, tuned, bound=0.001, n_resamples=99).to_df().set_index("label")
    assert narrow.loc["coding", "verdict"] == "undecided"
    wide = annotation_shift(base, replace(tuned, task=planted), bound=0.9, n_resamples=99).to_df().set_index("label")
    assert wide.loc["coding", "verdict"] == "changed, but within ±0.9"
    assert annotation_shift(base, replace(tuned, task=planted), n_resamples=99).top(1).label.item() in ("coding",)


def test_seeds_call_chance_a_change_and_components_do_not() -> None:
    over_seeds, over_components, held = [], [], []
    for draw in range(60):
        pair = [random_annotations(0.4, 2 * draw + i, layers=1, components=60, flips=0.03) for i in (0, 1)]
        frame = annotation_shift(*pair, n_resamples=99, seed=draw).to_df().set_index("label")
        for label in TASKS:
            row = frame.loc[label]
            over_seeds.append(row.paper_p <= 0.05)
            over_components.append(row.p <= 0.05)
            held.append(row.low <= 0 <= row.high)
    assert np.mean(over_seeds) > 0.5
    assert np.mean(over_components) < 0.10
    assert np.mean(held) > 0.88


def test_levels_by_groups_of_layers(tmp_path) -> None:
    layers = (0, 1, 3, 4, 6)
    task = torch.zeros(5, 30, 2, 3)
    base = annotations(task, layers=layers)
    rises = torch.zeros(5, 30, 2)
    rises[3:, :15] = 1  # the second level, for half of the components of layers 4 and 6
    tuned = annotations(task, rises, layers=layers, model="tuned")
    found = annotation_shift(base, tuned, n_resamples=199)
    frame = found.groups_df()
    assert list(frame.columns) == ["side", "group", "label", "kind", *GROUP_STATISTICS]
    assert found.groups == ("0-3", "4-6")
    rows = frame[frame.label == "semantics"].set_index("group")
    assert rows.tuned_share.tolist() == [0.0, 0.5]
    assert rows.base_share.tolist() == [0.0, 0.0]
    assert rows.difference.tolist() == [0.0, 0.5]
    assert rows.loc["4-6", "low"] > 0.3
    assert 0.3 < rows.loc["4-6", "tuned_low"] < 0.5 < rows.loc["4-6", "tuned_high"] < 0.7
    one = annotation_shift(base, tuned, n_resamples=99, layers_per_group=8)
    assert one.groups == ("0-6",)
    again = AnnotationShift.load(found.save(tmp_path / "s.safetensors"))
    assert again.to_df().equals(found.to_df())
    assert again.groups_df().equals(frame)


def test_what_was_not_answered_is_left_out_and_counted() -> None:
    task = torch.ones(1, 4, 2, 3)
    status = torch.tensor([[[0, 0], [0, STATUSES.index("refused")], [STATUSES.index("malformed")] * 2, [1, 1]]])
    found = annotation_shift(annotations(task, status=status), annotations(task))
    assert found.left_out == (3 / 8, 0.0)
    frame = found.to_df().set_index("label")
    np.testing.assert_allclose(frame.loc["explainable", "base_mean"], (2 / 3 + 1 / 2) / 2)
    assert frame.loc["coding", "base_mean"] == 1.0
    nothing = annotation_shift(annotations(task, status=torch.full((1, 4, 2), 2)), annotations(task))
    row = nothing.to_df().set_index("label").loc["coding"]
    assert np.isnan(row.base_mean)
    assert np.isnan(row.p)
    assert row.verdict == "undecided"
    assert np.isnan(nothing.groups_df().base_share).all()


def test_few_components_cannot_show_that_nothing_changed() -> None:
    few, enough = (
        annotation_shift(*(random_annotations(0.5, s, layers=1, components=n) for s in (1, 2)), bound=0.9).to_df()
        for n in (11, 12)
    )
    assert few.equivalence_p.isna().all()
    assert (enough.set_index("label").equivalence_p[list(TASKS)] < 0.05).all()


def test_errors() -> None:
    task = torch.zeros(2, 3, 2, 3)
    base = annotations(task)
    cases: list[tuple[Annotations, dict, str]] = [
        (annotations(task, layers=(0, 2)), {}, r"have layers \(0, 2\), the base's have \(0, 1\)"),
        (replace(base, tasks=("a", "b", "c")), {}, "have tasks"),
        (annotations(task, annotator="other"), {}, "were made with annotator='other', the base's with 'fake'"),
        (annotations(task, prompts="x"), {}, "prompts='x'"),
        (base, {"layers_per_group": 0}, "layers_per_group=0 given, expected at least 1"),
        (base, {"bound": 0.0}, "bound is 0.0"),
        (base, {"adjustment": "sidak"}, "unknown adjustment 'sidak'"),
        (base, {"level": 2.0}, "level is 2.0"),
        (base, {"n_resamples": 3}, "n_resamples=3 given, expected at least 99"),
    ]
    for tuned, options, message in cases:
        with pytest.raises(InputError, match=message):
            annotation_shift(base, tuned, **options)
