"""The null models are tested, and so is their test: changes that mean nothing, planted ones, statistics and tables."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import beta

from experiments.null_validity import run
from experiments.null_validity.changes import change_of, changed, relative_sizes, rescaled
from experiments.null_validity.groups import FAST_PLANT, Group, base_of, fast_groups, null_groups
from experiments.null_validity.measures import CLAIMS, Measures, Setting
from experiments.null_validity.nulls import basis_changed, distilled, folded, neurons_swapped, noise, scaled
from experiments.null_validity.one_kind import KINDS as ONE_KINDS
from experiments.null_validity.one_kind import gradient_terms, share, value_names
from experiments.null_validity.plants import components_turned, instructed, values_turned, verbs_gained
from experiments.null_validity.table import (
    ALPHA,
    BEGIN,
    CLAIM,
    END,
    markdown,
    p_values,
    rates_table,
    tables,
    write_docs,
    write_tables,
)
from experiments.null_validity.training import IGNORED, samples, trained
from lensdiff import Vocabulary, head_word_pairs, instruction_use, load_prompts, value_rotation, verb_shift
from lensdiff.analyses.value_rotation.procrustes import explained_share
from lensdiff.models import view_of
from lensdiff.results import InputError
from tests import toy_v1

ALLOWED = 3  # of 20 null pairs: at a level of .05 more are called once in 60 runs


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(toy_v1.BASE, toy_v1.PROMPTS, every=8, draws=3, words=500, top_k=60)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(5, 65).reshape(3, 20)
    with torch.no_grad():
        return model(input_ids=ids).logits


# --- the whole, small


@pytest.fixture(scope="module")
def fast(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("null_validity")
    run.main(["--fast", "--out", str(out)])
    return out, pd.read_csv(out / "p.csv")


def test_pairs_tuned_on_nothing_are_not_called(fast) -> None:
    nulls = fast[1][~fast[1].planted]
    assert len(nulls) == 20
    assert (nulls[CLAIM] <= ALPHA).sum() <= ALLOWED
    # and one kind alone, which the claim once rested on, calls nearly all: so pairs like these can be called
    trained_on_own = nulls[nulls.group.str.startswith("self-distilled")]
    assert len(trained_on_own) == 12
    assert (trained_on_own.spectrum <= ALPHA).sum() >= 10


def test_a_planted_rotation_is_called_above(fast) -> None:
    (own,) = fast[1][fast[1].planted].to_dict("records")
    assert own["group"] == FAST_PLANT
    assert own[CLAIM] <= ALPHA
    assert own["side"] == "above"


def test_a_run_goes_on_from_what_is_there(fast, monkeypatch) -> None:
    before = (fast[0] / "null_validity.md").read_text()
    monkeypatch.setattr(run, "rows_of", None)  # nothing is made again
    run.main(["--fast", "--out", str(fast[0])])
    assert (fast[0] / "null_validity.md").read_text() == before


# --- changes that mean nothing


def test_samples_are_the_bases_own_and_go_on_behind_an_end(setting) -> None:
    texts = samples(setting.model, n=48, length=32, start=setting.end, seed=3)
    assert texts.shape == (48, 32)
    # text that stops at its end is padded from there, and padding can be learned
    assert float((texts[:, 1:] == setting.end).float().mean()) < 0.1
    with torch.no_grad():
        log_probs = setting.model(input_ids=texts).logits[:, :-1].double().log_softmax(dim=-1)
    found = log_probs.gather(2, texts[:, 1:, None])[..., 0].mean(dim=1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1).mean(dim=1)
    off = found + entropy  # 0 on average if each token was drawn from the distribution behind it
    assert abs(float(off.mean())) < 4 * float(off.std()) / len(off) ** 0.5


@pytest.mark.parametrize("rank", [None, 4])
def test_self_distillation_moves_weights_a_little(setting, rank) -> None:
    change = distilled(setting.model, setting.end, 0, steps=4, rate=1e-3, rank=rank)
    sizes = relative_sizes(change, setting.model)
    assert all(0 < size < 0.2 for size in sizes.values())
    if rank is None:
        assert len(change) == len(list(setting.model.parameters()))
    else:
        assert set(sizes) == {name for name, p in setting.model.named_parameters() if p.ndim == 2 and "layers" in name}
        assert all(torch.linalg.matrix_rank(change[name], rtol=1e-3) <= rank for name in sizes)


def test_a_seed_means_the_same_change(setting) -> None:
    one, same, other = (distilled(setting.model, setting.end, s, steps=2, rate=1e-3) for s in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


@pytest.mark.parametrize("make", [partial(neurons_swapped, share=0.05), partial(basis_changed, degrees=5.0)])
def test_the_function_stays_while_weights_move(setting, make) -> None:
    base = folded(setting.model)
    change = make(base, setting.end, 0)
    assert max(relative_sizes(change, base).values()) > 0.04
    assert float((logits(changed(base, change)) - logits(base)).abs().max()) < 1e-4
    assert float((logits(base) - logits(setting.model)).abs().max()) < 1e-4


def test_a_basis_cannot_be_changed_under_gains(setting) -> None:
    with pytest.raises(InputError, match=r"needs a base without gains: give folded\(base\)"):
        basis_changed(setting.model, setting.end, 0, degrees=1.0)


def test_noise_and_rescaling_have_their_size(setting) -> None:
    for make in (noise, scaled):
        sizes = relative_sizes(make(setting.model, setting.end, 0, size=0.02), setting.model)
        assert list(sizes.values()) == pytest.approx([0.02] * len(sizes), rel=1e-4)
    change = scaled(setting.model, setting.end, 0, size=0.02)
    ratio = change["lm_head.weight"] / setting.model.lm_head.weight
    assert ratio.abs().max() - ratio.abs().min() < 1e-6


def test_rescaling_gives_the_norms_of_another(setting) -> None:
    one, like = (noise(setting.model, setting.end, s, size=0.01 * (1 + s)) for s in (0, 1))
    found = rescaled(one, like)
    for name, d in found.items():
        assert float(d.norm()) == pytest.approx(float(like[name].norm()), rel=1e-5)
        assert torch.allclose(d / d.norm(), one[name] / one[name].norm(), atol=1e-6)
    assert rescaled(one, {}) == {}


def test_a_change_of_an_unknown_parameter_is_refused(setting) -> None:
    with pytest.raises(InputError, match="the change names 'nothing', which the base does not have"):
        changed(setting.model, {"nothing": torch.zeros(1)})


def test_training_learns_what_is_given(setting) -> None:
    ids = torch.arange(8, 16).repeat(8, 1)
    targets = ids.clone()
    targets[:, :-1] = IGNORED
    model = trained(setting.model, list(ids), targets=list(targets), steps=5, rate=1e-3, seed=0, batch=8)

    def log_prob(model: Any) -> float:
        with torch.no_grad():
            return float(model(input_ids=ids[:1]).logits[0, -2].log_softmax(dim=-1)[15])

    assert log_prob(model) > log_prob(setting.model) + 0.5
    assert change_of(copy.deepcopy(setting.model), setting.model) == {}


# --- planted changes


def test_the_rotations_part_of_the_change_is_as_asked(setting) -> None:
    (name, *_) = value_names(setting.model)
    values = dict(setting.model.named_parameters())[name].detach().double().T
    for make in (values_turned, components_turned):
        whole, half = (make(setting, 0, degrees=20, part=part)[name].double().T for part in (1.0, 0.5))
        assert float(whole.norm() ** 2 / half.norm() ** 2) == pytest.approx(0.5, abs=0.05)
    turned = values_turned(setting, 0, degrees=20, part=1.0)[name].double().T
    assert explained_share(values, values + turned) == pytest.approx(1.0, abs=1e-6)
    gram = (values + turned) @ (values + turned).T
    assert torch.allclose(gram, values @ values.T, atol=1e-5)  # lengths and angles between values are kept


def test_planted_verbs_change_queries_and_keys_of_so_many_heads(setting) -> None:
    change = verbs_gained(setting, 0, heads=3, dims=2)
    alone = noise(setting.model, setting.end, 0, size=0.01)
    rows = [(change[n] - alone[n]).norm(dim=1) > 1e-3 for n in change if "k_proj" in n]
    assert int(torch.stack(rows).sum()) == 3 * 2
    queries = [(change[n] - alone[n]).norm(dim=1) > 1e-3 for n in change if "q_proj" in n]
    assert int(torch.stack(queries).sum()) == 3 * 2 * 2  # two query heads share a key head


def test_instructions_are_learned_on_other_prompts_than_those_read(setting, monkeypatch) -> None:
    seen: list[str] = []
    model = Setting(setting.base, setting.prompts, every=8)
    monkeypatch.setattr("experiments.null_validity.plants._padded", lambda s, rows: seen.extend(p for p, _ in rows))
    with pytest.raises(TypeError):  # what was recorded is no batch
        instructed(model, 0, steps=1)
    read = [p.stripped for p in load_prompts(setting.prompts)[::8]]
    assert len(seen) == 62 - len(read)
    assert not set(seen) & set(read)


# --- the statistics


def test_statistics_are_those_of_the_public_functions(setting) -> None:
    measures = Measures(setting, setting.model)
    pair = measures.pair(changed(setting.model, noise(setting.model, setting.end, 1, size=0.1)))
    found = measures.of_model(pair)
    assert found["rotation"] == value_rotation(pair).share

    prompts, records = load_prompts(setting.prompts), pd.read_json(setting.prompts, lines=True)
    use = instruction_use(pair, prompts, list(records.reference), draws=3, kinds=list(records.kind))
    table = use.to_df()
    rows = table[table.prompt_id.isin([prompt.id for prompt in prompts[::8]])].groupby("model").use.mean()
    assert found["instruction use"] == pytest.approx(rows["tuned"] - rows["base"], abs=1e-5)

    both = [head_word_pairs(m, measures._words, measures._vectors, top_k=60) for m in (pair.base, pair.tuned)]
    whole = verb_shift(*both, frequencies=Vocabulary.default()).whole
    assert whole.label_test is not None
    assert found["verbs"] == pytest.approx(whole.label_test.estimate)
    assert found["verbs, labels"] == whole.label_test.p


def test_a_control_that_is_written_is_the_control(setting) -> None:
    measures = Measures(setting, setting.model)
    pair = measures.pair(changed(setting.model, noise(setting.model, setting.end, 1, size=0.1)))
    control = pair.control("spectrum", 4)
    written, whole = measures.of_control(control), measures._of_whole(control.whole())
    assert set(written) == {*CLAIMS, "verbs, labels"}
    for name, value in whole.items():
        assert written[name] == pytest.approx(value, abs=1e-6)
    view = view_of(measures._scratch)
    ids = torch.arange(5, 25)[None]
    torch.testing.assert_close(view.forward.logits(ids), control.forward.logits(ids))


def test_other_kinds_are_made_here_as_the_formulas_say(setting) -> None:
    terms = gradient_terms(setting.model, setting.end, seed=0)[0]
    values = torch.linspace(3.0, 0.1, 128, dtype=torch.float64)
    for make in ONE_KINDS.values():
        found = make(values, terms, torch.Generator().manual_seed(0))
        assert torch.allclose(torch.linalg.svdvals(found), values, atol=1e-8)
    assert share([torch.eye(4)], [torch.zeros(4, 4)]) == 0.0


# --- groups and tables


def test_the_base_without_gains_is_for_the_groups_that_ask(setting) -> None:
    plain, turned = null_groups({"rescaled": 1, "basis changed": 1})
    assert base_of(plain, setting) is setting
    assert bool((base_of(turned, setting).model.model.norm.weight == 1).all())
    assert "distilled" in plain.kinds
    assert "distilled" not in turned.kinds
    assert [group.planted for group in fast_groups()] == [None, None, "rotation"]
    assert not any(group.reused for group in fast_groups())


def frame(pairs: list[float], kinds: dict[str, Any], group: str = "g", claim: str = "instruction use") -> pd.DataFrame:
    rows = [{"group": group, "role": "pair", "seed": i, claim: x} for i, x in enumerate(pairs)]
    rows += [{"group": group, "role": k, "seed": i, claim: x} for k, xs in kinds.items() for i, x in enumerate(xs)]
    return pd.DataFrame(rows)


def made(name: str = "g", claim: str = "instruction use", **options: Any) -> Group:
    return Group(name, lambda setting, seed: {}, 2, (claim,), **({"kinds": ("distilled", "spectrum")} | options))


def test_a_pair_is_ranked_among_each_kind_and_all() -> None:
    controls = {"distilled": np.arange(19.0), "spectrum": np.arange(100.0, 119.0)}
    found = p_values(made(), frame([50.0, 200.0, -90.0], controls)).set_index(["seed", "kind"])
    assert found.loc[(0, "distilled"), ["p", "side"]].tolist() == [1 / 20, "above"]
    assert found.loc[(0, "spectrum"), ["p", "side"]].tolist() == [1 / 20, "below"]
    assert found.loc[(0, CLAIM), ["p", "side"]].tolist() == [1.0, "between"]
    assert found.loc[(1, CLAIM), ["p", "side"]].tolist() == [1 / 20, "above"]
    assert found.loc[(2, CLAIM), ["p", "side"]].tolist() == [1 / 20, "below"]


def test_a_rotation_is_tested_above_alone() -> None:
    controls = {"distilled": np.arange(19.0), "spectrum": np.arange(19.0)}
    found = p_values(made(claim="rotation"), frame([50.0, -90.0], controls, claim="rotation")).set_index(
        ["seed", "kind"]
    )
    assert found.loc[(0, CLAIM), ["p", "side"]].tolist() == [1 / 20, "above"]
    assert found.loc[(1, CLAIM), ["p", "side"]].tolist() == [1.0, "below"]
    assert found.loc[(1, "spectrum"), "p"] == 1 / 20


def test_labels_are_in_the_maximum() -> None:
    controls = {"distilled": np.arange(19.0), "spectrum": np.arange(19.0)}
    given = frame([50.0, 50.0], controls, claim="verbs").assign(**{"verbs, labels": [0.3, 0.001] + [np.nan] * 38})
    found = p_values(made(claim="verbs"), given)
    assert found[found.kind == CLAIM].p.tolist() == [0.3, 1 / 20]
    assert found[found.kind == "labels"].p.tolist() == [0.3, 0.001]


def test_a_reused_control_is_not_its_own_control() -> None:
    controls = {"distilled": [*np.arange(19.0), 90.0], "spectrum": np.arange(19.0)}
    found = p_values(made(reused=True), frame([5.0], controls))
    own = found[(found.kind == "distilled") & (found.seed == 19)]
    assert own.group.tolist() == ["g: the controls themselves"]
    assert own.p.tolist() == [1 / 20]  # beyond the 19 others; with itself among them it would be 2/20 or more
    assert len(found[found.kind == CLAIM]) == 21


def test_rates_errors_and_bounds_by_hand() -> None:
    controls = {"distilled": np.arange(19.0), "spectrum": np.arange(19.0)}
    called, not_called = 99.0, 9.0
    effects = pd.concat(
        [frame([called, called, -called, not_called], controls, "a"), frame([not_called] * 4, controls, "b")]
    )
    found = tables([made("a"), made("b")], effects)
    row = found.rates.set_index("kind").loc[CLAIM]
    assert [row["n"], row.called, row.called_rate, row.shown, row.shown_rate] == [8, 3, 0.375, 2, 0.25]
    # each group is off by 1.5 of what the common rate gives: sqrt(2 (1.5^2 + 1.5^2)) / 8
    assert row.called_error == pytest.approx(3 / 8)
    assert row.shown_error == pytest.approx(2 / 8)
    assert row.called_bound == pytest.approx(beta.ppf(0.05, 3, 6))
    assert not len(found.power)
    page = markdown(found, controls=19)
    assert f"| 1. instruction use | {CLAIM} | 8 | 3 | **0.375 +- 0.375** | 0.111 | 2 | 0.250 +- 0.250 | 0.046 |" in page
    cell = "2 above, 1 below"
    assert f"| a | 4 | +27.0000 | {cell} | {cell} | {cell} |" in page


def test_power_is_apart_from_rates() -> None:
    controls = {"distilled": np.arange(19.0), "spectrum": np.arange(19.0)}
    effects = pd.concat([frame([9.0, 9.0], controls, "null"), frame([99.0, 9.0], controls, "plant")])
    found = tables([made("null"), made("plant", planted="rotation")], effects)
    assert found.rates.n.tolist() == [2, 2, 2]
    assert found.power.set_index("kind").loc[CLAIM, ["n", "above", "below"]].tolist() == [2, 1, 0]
    assert "| plant | 2 | +54.0000 | 1 above | 1 above | 1 above |" in markdown(found, controls=19)


def test_the_file_has_a_row_per_pair_and_claim(tmp_path) -> None:
    controls = {"distilled": np.arange(19.0), "spectrum": np.arange(100.0, 119.0)}
    found = tables([made()], frame([50.0, 200.0], controls))
    write_tables(found, tmp_path, controls=19)
    rows = pd.read_csv(tmp_path / "p.csv")
    assert list(rows) == ["group", "planted", "claim", "seed", "effect", "side", "distilled", "spectrum", CLAIM]
    assert rows[["effect", "side", "distilled", CLAIM]].to_numpy().tolist() == [
        [50.0, "between", 0.05, 1.0],
        [200.0, "above", 0.05, 0.05],
    ]
    assert (tmp_path / "null_validity.md").read_text() == markdown(found, controls=19)


def test_the_page_of_the_documentation_takes_the_table(tmp_path) -> None:
    found = tables([made()], frame([50.0], {"distilled": np.arange(19.0), "spectrum": np.arange(19.0)}))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_docs(found, page)
    assert page.read_text() == f"before\n{BEGIN}\n{rates_table(found.rates)}\n{END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(InputError, match="has no place for the table"):
        write_docs(found, page)


def test_the_documentation_shows_the_table_that_was_measured() -> None:
    measured = (Path(run.__file__).parent / "null_validity.md").read_text()
    shown = (Path(run.__file__).parents[2] / "docs" / "understand" / "statistics-and-controls.md").read_text()
    assert shown.split(BEGIN)[1].split(END)[0].strip() in measured
