import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from lensdiff.analyses.published.tables import (
    PublishedTables,
    following,
    level_score,
    published_tables,
    recognition,
    robustness,
)
from lensdiff.inputs import load_published
from lensdiff.results import InputError
from tests.inputs.released import REAL, levels, write_attribution, write_clone

SENTENCE = [0, 1, 2]  # tokens of "Say it.", which the span "it" widens to
WORD = [1]

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the authors' released material is not beside the project")


def plain_score(explain, tokens, *, b=7, p=4.0, normalise=True, eps=1e-9) -> float:
    """The formula again, in numpy and loops."""
    if explain.shape[1] == 0:
        return 0.0
    density = []
    for row in explain:
        kept = [float(level) for level in row if level > b]
        density.append(sum(kept) / (sum(level**p for level in kept) ** (1 / p) + eps))
    top = max(density) + eps if normalise else 1.0
    return sum(density[token] / top for token in tokens) / np.log2(2 + len(tokens))


@pytest.fixture
def clone(tmp_path):
    """Twelve LIMA prompts with ratings -1..4, and two of MT-Bench that both follow; responses of 4 to 14 tokens."""
    ratings = {f"lima_author_{i}": (1, 1, 2, 3, 4, -1, 0)[i % 7] for i in range(12)}
    ratings |= {"mtbench_math_1": 2, "mtbench_math_2": 4}
    root = write_clone(tmp_path / "clone", ratings)
    maps = {"base": {}, "tuned": {}}
    for i, key in enumerate(ratings):
        maps["tuned"][key] = levels(i, 4 + i % 11)
        maps["base"][key] = levels(100 + i, 0 if i == 3 else 6 + i % 5)
        for model, by_prompt in maps.items():
            write_attribution(root, model, key, by_prompt[key])
    return root, ratings, maps


def lima(values: dict) -> list:
    return [value for key, value in values.items() if key.startswith("lima")]


def test_a_score_by_hand() -> None:
    explain = torch.tensor([[10, 8, 0], [10, 0, 7], [8, 8, 8]])
    a = [18 / (10**4 + 8**4) ** 0.25, 1.0, 24 / (3 * 8**4) ** 0.25]
    expected = (a[0] + a[1]) / a[2] / 2  # log2(2 + 2)
    assert level_score(explain, torch.tensor([True, True, False])) == pytest.approx(expected, abs=1e-8)
    assert level_score(explain, torch.zeros(3, dtype=torch.bool)) == 0
    assert level_score(explain[:, :0], torch.tensor([True, True, False])) == 0


def test_a_row_without_a_test_is_a_gap_and_a_row_with_a_mistake_is_an_error() -> None:
    for row in (recognition([1.0], [2.0]), recognition([1.0] * 4, [2.0] * 4)):
        assert (row.welch, row.paired) == (None, None)
    scores, followed = [1.0, 2.0, 3.0, 5.0, 4.0], [True, False, True, False, True]
    for lengths in ([7] * 5, [8, 7, 8, 7, 8]):  # equal lengths, and lengths that tell the groups apart
        row = following(scores, followed, lengths)
        assert row is not None
        assert row.welch is not None
        assert row.equal_length is None
    few = following(scores[:3], followed[:3], [5, 6, 7])
    assert few is not None
    assert (few.welch, few.equal_length) == (None, None)
    for base, tuned, message in (
        ([1.0, np.nan], [1.0, 2.0], r"base\[1\] is nan"),
        ([np.nan], [1.0], r"base\[0\] is nan"),
        ([1.0], [np.nan, 1.0], r"tuned\[0\] is nan"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "paired data need equal lengths, given 3 tuned and 2 base observations"),
    ):
        with pytest.raises(InputError, match=message):
            recognition(base, tuned)
    with pytest.raises(InputError, match=r"base\[0\] is nan"):
        following([1.0, np.nan], [True, False], [7, 7])
    with pytest.raises(InputError, match="lengths differ: 5 outcomes, 5 group labels and 4 covariate values"):
        following(scores, followed, [5, 6, 7, 8])


OPTIONS = [{}, {"b": 0}, {"b": 5}, {"p": 2.0}, {"p": 8.0}, {"normalise": False}, {"eps": 0.1}, {"widen": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_table_2_equals_the_formula_and_scipy(clone, options: dict) -> None:
    root, _, maps = clone
    row = published_tables(load_published(root), **options).table2["LIMA"]
    tokens = SENTENCE if options.get("widen", True) else WORD
    plain = {k: v for k, v in options.items() if k != "widen"}
    base, tuned = (
        [plain_score(explain, tokens, **plain) for explain in lima(maps[model])] for model in ("base", "tuned")
    )
    assert base[3] == 0
    assert (row.base.n, row.tuned.n) == (12, 12)
    assert (row.base.mean, row.base.std) == pytest.approx((np.mean(base), np.std(base)))
    assert (row.tuned.mean, row.tuned.std) == pytest.approx((np.mean(tuned), np.std(tuned)))
    assert row.welch is not None
    assert row.paired is not None
    welch: Any = stats.ttest_ind(tuned, base, equal_var=False, alternative="greater")
    paired: Any = stats.ttest_rel(tuned, base, alternative="greater")
    assert (row.welch.statistic, row.welch.p) == pytest.approx((welch.statistic, welch.pvalue))
    assert (row.paired.statistic, row.paired.p) == pytest.approx((paired.statistic, paired.pvalue))


def test_equal_length_cuts_both_responses_of_table_2_only(clone) -> None:
    root, _, maps = clone
    published = load_published(root)
    tables = published_tables(published, equal_length=True)
    lengths = [min(b.shape[1], t.shape[1]) for b, t in zip(lima(maps["base"]), lima(maps["tuned"]), strict=True)]
    cut = [[m[:, :n] for m, n in zip(lima(maps[model]), lengths, strict=True)] for model in ("base", "tuned")]
    means = [np.mean([plain_score(explain, SENTENCE) for explain in side]) for side in cut]
    assert (tables.table2["LIMA"].base.mean, tables.table2["LIMA"].tuned.mean) == pytest.approx(means)
    assert tables.table1 == published_tables(published).table1


def test_table_1_drops_unrated_and_short_responses(clone) -> None:
    root, ratings, maps = clone
    tables = published_tables(load_published(root))
    row = tables.table1["LIMA"]
    kept = {k: m for k, m in maps["tuned"].items() if k.startswith("lima") and ratings[k] > 0 and m.shape[1] >= 5}
    assert maps["tuned"]["lima_author_0"].shape[1] == 4  # rated 1, dropped
    followed = [plain_score(m, SENTENCE) for k, m in kept.items() if ratings[k] >= 2]
    unfollowed = [plain_score(m, SENTENCE) for k, m in kept.items() if ratings[k] == 1]
    assert (row.followed.n, row.unfollowed.n) == (len(followed), len(unfollowed)) == (5, 3)
    assert (row.followed.mean, row.followed.std) == pytest.approx((np.mean(followed), np.std(followed)))
    assert (row.unfollowed.mean, row.unfollowed.std) == pytest.approx((np.mean(unfollowed), np.std(unfollowed)))
    assert row.welch is not None
    welch: Any = stats.ttest_ind(followed, unfollowed, equal_var=False, alternative="greater")
    assert row.welch.p == pytest.approx(welch.pvalue)
    assert list(tables.table1) == ["LIMA"]  # MT-Bench has no response that does not follow
    assert list(tables.table2) == ["LIMA", "MT-Bench"]


def test_equal_length_of_table_1_is_a_regression_on_the_length(clone) -> None:
    root, ratings, maps = clone
    test = published_tables(load_published(root)).table1["LIMA"].equal_length
    assert test is not None
    kept = [k for k, m in maps["tuned"].items() if k.startswith("lima") and ratings[k] > 0 and m.shape[1] >= 5]
    y = np.array([plain_score(maps["tuned"][k], SENTENCE) for k in kept])
    columns = [[1, ratings[k] >= 2, maps["tuned"][k].shape[1]] for k in kept]
    x = np.array(columns, dtype=float)
    (_, effect, _), (residual,), *_ = np.linalg.lstsq(x, y, rcond=None)
    error = np.sqrt(residual / (len(kept) - 3) * np.linalg.inv(x.T @ x)[1, 1])
    assert (test.estimate, test.statistic) == pytest.approx((effect, effect / error))


def test_a_set_with_too_few_responses_has_no_test(tmp_path) -> None:
    root = write_clone(tmp_path / "clone", {"lima_author_1": 1, "lima_author_2": 2, "user_oriented_task_1": 3})
    for model, key in (("tuned", "lima_author_1"), ("tuned", "lima_author_2"), ("base", "lima_author_2")):
        write_attribution(root, model, key, levels(0, 6))
    tables = published_tables(load_published(root))
    assert (tables.table1["LIMA"].welch, tables.table1["LIMA"].equal_length) == (None, None)
    assert (tables.table2["LIMA"].welch, tables.table2["LIMA"].paired) == (None, None)
    assert tables.table2["LIMA"].base.n == 1  # prompts that both models have
    assert json.loads(tables.to_json())["table2"]["LIMA"]["p"] is None
    assert tables.to_df().p.isna().all()


def test_spans_that_the_pieces_lack_are_counted(tmp_path) -> None:
    root = write_clone(tmp_path / "clone", {"lima_author_1": 1}, "Say it now|||it")
    write_attribution(root, "tuned", "lima_author_1", levels(0, 6))
    assert published_tables(load_published(root), widen=False).not_found == 1
    assert published_tables(load_published(root)).not_found == 0


def test_without_attributions_there_are_no_tables(tmp_path) -> None:
    root = write_clone(tmp_path / "clone", {"lima_author_1": 1})
    with pytest.raises(InputError, match="clone holds no released attributions, expected results/"):
        published_tables(load_published(root))
    write_attribution(root, "tuned", "lima_author_1", levels(0, 6))
    (root / "datasets" / "AnnotatedDataset.tsv").unlink()
    tables = published_tables(load_published(root))
    assert tables.table1 == tables.table2 == {}
    assert tables.to_df().empty


def test_json_has_the_published_form(clone) -> None:
    root, _, _ = clone
    tables = published_tables(load_published(root))
    read = json.loads(tables.to_json())
    assert read.keys() == {"table1", "table2"}
    row = tables.table1["LIMA"]
    assert row.welch is not None
    assert read["table1"]["LIMA"] == {
        "followed": {"mean": row.followed.mean, "std": row.followed.std, "n": 5},
        "unfollowed": {"mean": row.unfollowed.mean, "std": row.unfollowed.std, "n": 3},
        "p": row.welch.p,
    }
    assert read["table2"]["MT-Bench"].keys() == {"base", "tuned", "n", "p"}
    assert read["table2"]["MT-Bench"]["base"].keys() == {"mean", "std", "n"}
    assert read["table2"]["MT-Bench"]["n"] == 2


def test_the_table_and_the_saved_file(clone, tmp_path) -> None:
    root, _, _ = clone
    tables = published_tables(load_published(root), b=5)
    frame = tables.to_df()
    assert frame[["table", "set", "group"]].values.tolist() == [
        [1, "LIMA", "followed"],
        [1, "LIMA", "unfollowed"],
        [2, "LIMA", "base"],
        [2, "LIMA", "tuned"],
        [2, "MT-Bench", "base"],
        [2, "MT-Bench", "tuned"],
    ]
    assert frame.beside.tolist() == ["equal length"] * 2 + ["paired"] * 4
    assert tables.table2["LIMA"].paired is not None
    assert frame.t[2] == tables.table2["LIMA"].paired.statistic
    assert tables.top(3).equals(frame.head(3)[["table", "set", "group", "mean", "std", "n", "p"]])
    assert tables.provenance.options == {
        "b": 5,
        "p": 4.0,
        "normalise": True,
        "equal_length": False,
        "widen": True,
        "eps": 1e-9,
    }
    again = PublishedTables.load(tables.save(tmp_path / "tables.safetensors"))
    assert (again.table1, again.table2, again.not_found) == (tables.table1, tables.table2, tables.not_found)


def test_robustness_repeats_table_2_under_each_choice(clone) -> None:
    root, _, _ = clone
    published = load_published(root)
    frame = robustness(published).set_index(["variant", "set"])
    choices = {
        "as released": {},
        "b = 0": {"b": 0},
        "b = 5": {"b": 5},
        "p = 2": {"p": 2.0},
        "p = 8": {"p": 8.0},
        "equal lengths": {"equal_length": True},
        "no max-normalisation": {"normalise": False},
        "spans not widened": {"widen": False},
    }
    assert list(frame.index) == [(variant, name) for variant in choices for name in ("LIMA", "MT-Bench")]
    for variant, options in choices.items():
        row = published_tables(published, **options).table2["LIMA"]
        assert row.welch is not None
        found = frame.loc[(variant, "LIMA")]
        assert (found.base, found.tuned, found.p, found.n) == (row.base.mean, row.tuned.mean, row.welch.p, 12)
        assert found.difference == pytest.approx(row.tuned.mean - row.base.mean)


# ---- the published numbers ----


@pytest.fixture(scope="module")
def real():
    return load_published(REAL)


def three_digits(p: float) -> str:
    return f"{p:.2e}"


@needs_real
def test_the_lima_rows_are_the_published_ones(real) -> None:
    tables = json.loads(published_tables(real).to_json())
    row = tables["table1"]["LIMA"]
    assert {k: round(v, 4) for k, v in row["followed"].items()} == {"mean": 1.6173, "std": 0.4715, "n": 249}
    assert {k: round(v, 4) for k, v in row["unfollowed"].items()} == {"mean": 1.2799, "std": 0.4416, "n": 50}
    assert three_digits(row["p"]) == "3.64e-06"
    row = tables["table2"]["LIMA"]
    assert {k: round(v, 4) for k, v in row["base"].items()} == {"mean": 1.2683, "std": 0.4310, "n": 300}
    assert {k: round(v, 4) for k, v in row["tuned"].items()} == {"mean": 1.5579, "std": 0.4851, "n": 300}
    assert (row["n"], three_digits(row["p"])) == (300, "2.53e-14")


@needs_real
def test_what_the_paper_did_not_show(real) -> None:
    tables = published_tables(real)
    assert tables.table2["LIMA"].paired is not None
    assert tables.table1["LIMA"].equal_length is not None
    assert tables.table2["LIMA"].paired.p == pytest.approx(2e-19, rel=0.1)
    assert tables.table1["LIMA"].equal_length.statistic == pytest.approx(4.76, abs=0.01)
    assert tables.not_found == 0


@needs_real
def test_the_lima_rows_of_the_robustness_table(real) -> None:
    frame = robustness(real)
    frame = frame[frame.set == "LIMA"].set_index("variant")
    expected = {"as released": "3e-14", "b = 0": "3e-03", "b = 5": "2e-12", "p = 2": "9e-12", "p = 8": "2e-14"}
    assert {k: f"{frame.p[k]:.0e}" for k in expected} == expected
    assert f"{frame.p['equal lengths']:.0e}" == "9e-10"
    assert frame.difference["no max-normalisation"] < 0
    assert frame.p["no max-normalisation"] > 0.999
    assert (round(frame.base["spans not widened"], 3), round(frame.tuned["spans not widened"], 3)) == (1.067, 1.350)
