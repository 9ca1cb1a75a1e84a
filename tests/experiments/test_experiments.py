"""Every experiment runs on the toy pair and on released material, and prints the numbers of its analyses."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments import annotated, common, reproduce
from experiments.figure3_linguistic_levels import run as figure3
from experiments.table1_instruction_following import run as table1
from experiments.table5_concepts import run as table5
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.replication import MIN_TOKENS
from lensdiff.analyses.claims.measure import Claims
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.mlp.coherence import Coherence
from lensdiff.analyses.mlp.rotation import Rotation
from lensdiff.analyses.position.measure import position_profile
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results import InputError, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import Unit
from tests.chat_server import chat_server
from tests.inputs.released import levels, write_attribution, write_clone

ROOT = Path(__file__).parents[2] / "experiments"
PROMPTS = ROOT / "toy_pair" / "prompts.jsonl"
CLAIMS = reproduce.claims()
TINY = ("--max-prompts", "10", "--max-new-tokens", "40", "--controls", "2")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A made-up clone with eight prompts of one set, rated 1 and 4 in turn."""
    ratings = {f"lima_author_{i}": (1, 4)[i % 2] for i in range(8)}
    root = write_clone(tmp_path_factory.mktemp("paper") / "clone", ratings)
    for i, key in enumerate(ratings):
        write_attribution(root, "base", key, levels(i, 12))
        write_attribution(root, "tuned", key, levels(50 + i, 9 + i))
    return root


@pytest.fixture(scope="module")
def everything(tmp_path_factory, clone) -> tuple[Path, str]:
    """Where all results lie after one `make reproduce` with tiny settings, and what it printed."""
    out = tmp_path_factory.mktemp("results")
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (common, reproduce):
            patch.setattr(module, "write", printed.append)
        patch.setattr(annotated, "write", printed.append)
        patch.setattr(common, "print_frame", lambda title, frame, rows: printed.append(f"{title}\n{frame}"))
        reproduce.main([*TINY, "--out", str(out), "--published", str(clone)])
    return out, "\n".join(printed)


def numbers(everything, claim: str, name: str, pair: str = "toy") -> Any:
    return pd.read_csv(everything[0] / claim / pair / f"{name}.csv")


def experiment(claim: str, argv: list[str]) -> common.Experiment:
    more = getattr(reproduce._module(claim), "add_options", None)
    return common.read(str(ROOT / claim / "run.py"), argv, more=more)


def found_in(everything, run: str) -> Found:
    return Found(ResultStore(everything[0] / "runs" / run / "toy"))


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_folder_holds_a_short_program_its_config_and_what_to_expect(claim: str) -> None:
    lines = (ROOT / claim / "run.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80
    text = (ROOT / claim / "README.md").read_text(encoding="utf-8")
    for part in ("## Claim", "## Command", "## Expected", "## A different result"):
        assert part in text
    assert f"python -m experiments.{claim}.run" in text


def test_the_seven_claims_are_there() -> None:
    assert set(CLAIMS) == {
        *("table1_instruction_following", "table2_instruction_recognition", "table3_head_verbs", "table5_concepts"),
        *("figure3_linguistic_levels", "rotation", "lost_in_the_middle"),
    }


def test_claims_that_share_a_run_ask_for_the_same() -> None:
    configs = [common.tomllib.loads((ROOT / claim / "config.toml").read_text(encoding="utf-8")) for claim in CLAIMS]
    for one in configs:
        assert all(one == other for other in configs if other["run"] == one["run"])


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_experiment_ran_and_left_its_report_and_its_tables(everything, claim: str) -> None:
    out, printed = everything
    assert f"== {claim}" in printed
    run = experiment(claim, [])
    assert (out / "runs" / run.config.path(run.config.out).parent.name / "toy" / "report.html").is_file()
    assert list((out / claim / "toy").glob("*.csv"))


def test_table_1_is_of_the_tuned_models_responses_by_exact_match(everything) -> None:
    store = found_in(everything, "attribution").store
    records = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    references = {record["id"]: record["reference"] for record in records}
    table, scores = store.load_table("responses"), store.load_table("instruction_scores")
    own = table[table["model"] == "tuned"].set_index("prompt_id")["text"].str.strip()
    right = [name for name in own.index if own[name] == references[name]]
    assert 0 < len(right) < len(own) == 10
    values = scores[scores["model"] == "tuned"].set_index("prompt_id")["instruction_score"]
    found = numbers(everything, "table1_instruction_following", "table1").set_index("group")
    assert found.loc["followed", "n"] == len(right)
    assert found.loc["followed", "mean"] == pytest.approx(values[right].mean(), rel=1e-4)
    assert found.loc["unfollowed", "mean"] == pytest.approx(values.drop(right).mean(), rel=1e-4)
    tests = numbers(everything, "table1_instruction_following", "tests")
    assert tests["question"].tolist() == ["followed - unfollowed (the paper's test)", "with response length"]


def test_table_2_shows_the_paired_test_the_equal_lengths_and_the_controls(everything) -> None:
    scores = found_in(everything, "instruction").store.load_table("instruction_scores")
    names = scores["model"] + scores["seed"].fillna(-1).astype(str)
    by = scores.assign(name=names).pivot_table(index="prompt_id", columns="name", values="instruction_score")
    table = numbers(everything, "table2_instruction_recognition", "table2").set_index("group")
    base, tuned = by["base-1"], by["tuned-1"]
    assert table["mean"].tolist() == pytest.approx([base.mean(), tuned.mean()], rel=1e-4)
    tests = numbers(everything, "table2_instruction_recognition", "tests")
    d = tuned - base
    assert tests["test"].tolist()[:2] == ["Welch, one-sided", "paired t, one-sided"]
    assert tests["high"][1] - tests["estimate"][1] == pytest.approx(2.262 * d.std() / math.sqrt(len(d)), rel=1e-3)
    (control,) = numbers(everything, "table2_instruction_recognition", "controls").to_dict("records")
    expected = np.median([(by[f"control{i}"] - base).mean() for i in range(2)])
    assert control["median"] == pytest.approx(expected, rel=1e-4)
    assert control["effect"] == pytest.approx(d.mean(), rel=1e-4)
    assert (control["kind"], control["n"]) == ("gradient-noise", 2)
    assert np.isnan([control["low"], control["high"]]).all()  # too few for a band
    again = numbers(everything, "table2_instruction_recognition", "replication")
    lengths = scores[scores["model"] != "control"].pivot_table(index="prompt_id", columns="model", values="n_out")
    long = int((lengths.min(axis=1) >= MIN_TOKENS).sum())  # of the shorter response of each prompt
    assert again["n"].tolist() == [long] * len(again)
    assert again["n_left_out"].tolist() == [10 - long] * len(again)


@pytest.mark.parametrize(
    ("claim", "run", "name"),
    [
        ("table2_instruction_recognition", "instruction", "instruction"),
        ("table3_head_verbs", "heads", "heads"),
        ("rotation", "rotation", "rotation"),
    ],
)
def test_the_answer_is_that_of_the_run_with_a_row_for_each_kind_of_control(everything, claim, run, name) -> None:
    (found,) = [c for c in found_in(everything, run).one("claims", Claims).claims if c.name == name]
    assert f"{found.statement} [{found.verdict}]" in everything[1]
    rows = numbers(everything, claim, "claim_controls")
    assert rows["kind"].tolist() == ([] if found.effect is None else ["gradient-noise", "spectrum"])
    assert rows["made"].tolist() == [2] * len(rows)
    assert rows["effect"].tolist() == pytest.approx([found.effect] * len(rows), rel=1e-4)


def test_controls_stand_in_a_row_for_each_kind() -> None:
    spread = np.linspace(-1, 1, 19).tolist()
    effects, kinds = [*spread, *(2 + x for x in spread)], ["a"] * 19 + ["b"] * 19
    first, second = common.controls(1.5, effects, kinds).to_dict("records")
    assert (first["kind"], first["n"], first["median"]) == ("a", 19, pytest.approx(0, abs=1e-12))
    assert (second["kind"], second["n"], second["median"]) == ("b", 19, pytest.approx(2))
    assert first["p"] == pytest.approx(1 / 20)  # beyond all of a
    assert second["p"] > 0.1  # and among those of b
    assert first["low"] == pytest.approx(-first["high"])
    assert 1 - 1e-9 <= first["high"] < 1.5
    assert (second["low"], second["high"]) == pytest.approx((2 + first["low"], 2 + first["high"]))
    (none,) = common.controls(1.5, [], []).to_dict("records")
    assert (none["effect"], none["kind"], none["n"]) == (1.5, "no controls", 0)


def test_table_3_shows_coverage_beside_the_papers_shares(everything) -> None:
    shift = found_in(everything, "heads").one("verb_shift", VerbShift)
    paper = numbers(everything, "table3_head_verbs", "table3")
    assert paper["mean"].tolist() == pytest.approx(shift.summary()["mean"].tolist(), rel=1e-4)
    beside = numbers(everything, "table3_head_verbs", "matched")
    assert beside["coverage"].tolist() == pytest.approx(shift.summary()["coverage"].tolist(), rel=1e-4)
    assert shift.control_kinds == ("gradient-noise",) * 2 + ("spectrum",) * 2


def test_rotation_is_in_degrees_beside_its_controls(everything) -> None:
    rotation = found_in(everything, "rotation").one("rotation", Rotation)
    layers = numbers(everything, "rotation", "layers")
    assert layers["mean_angle"].mean() == pytest.approx(
        math.degrees(float(rotation.angles.nanmean(dim=-1).mean())), rel=1e-4
    )
    assert (rotation.kinds, rotation.n_controls) == (("gradient-noise", "spectrum"), (2, 2))
    assert layers[["gradient-noise_high", "spectrum_high"]].isna().all(axis=None)  # too few for a band
    shares = found_in(everything, "rotation").one("value_rotation", ValueRotation)
    found = numbers(everything, "rotation", "shares")
    assert found["kind"].tolist() == ["gradient-noise", "spectrum"] * len(shares.layers)
    assert found["share"].tolist() == pytest.approx(np.repeat(shares.shares.numpy(), 2).tolist(), rel=1e-4)


def test_the_profile_over_positions_is_that_of_the_runs_attributions(everything) -> None:
    run = found_in(everything, "attribution")
    base, tuned, *controls = (
        list(run.each("attribution", Attribution, side))
        for side in ("base", "tuned", "gradient-noise-0", "gradient-noise-1")
    )
    found = position_profile(base, tuned)
    profile = numbers(everything, "lost_in_the_middle", "profile")
    assert profile["base"].tolist() == pytest.approx(found.to_df()["base"].tolist(), rel=1e-4)
    row = numbers(everything, "lost_in_the_middle", "controls").iloc[0]
    assert row["effect"] == pytest.approx(found.shapes["U"].difference.estimate, rel=1e-4)
    beside = [position_profile(base, control).shapes["U"].difference.estimate for control in controls]
    assert (row["kind"], row["n"]) == ("gradient-noise", 2)
    assert row["median"] == pytest.approx(np.median(beside), rel=1e-4)
    assert (everything[0] / "lost_in_the_middle" / "toy" / "position.html").is_file()


def test_the_published_material_is_read_where_there_is_any(everything) -> None:
    out, printed = everything
    table1 = numbers(everything, "table1_instruction_following", "table1", "published")
    assert table1["n"].tolist() == [4, 4]
    table2 = numbers(everything, "table2_instruction_recognition", "table2", "published")
    assert table2["n"].tolist() == [8, 8]
    robustness = numbers(everything, "table2_instruction_recognition", "robustness", "published")
    assert robustness["variant"].nunique() == 8
    assert len(numbers(everything, "lost_in_the_middle", "profile", "published")) == 10
    assert "holds no word pairs of llama" in printed
    assert not (out / "rotation" / "published").exists()


def test_without_a_clone_the_published_material_is_skipped_with_a_sentence(monkeypatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(reproduce, "write", printed.append)
    monkeypatch.setattr(reproduce, "claims", list)
    reproduce.main([])
    assert "make reproduce PAPER=DIR" in printed[-1]
    with pytest.raises(InputError, match="no folder at nowhere, expected a clone"):
        reproduce.main(["--published", "nowhere"])


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_pair_gives_every_experiment_a_config(claim: str, tmp_path) -> None:
    pairs = common.tomllib.loads((ROOT / "pairs.toml").read_text(encoding="utf-8"))
    assert {"toy", "smollm2-135m", "smollm2-360m", "qwen2.5-0.5b", "gemma-2-2b", "llama-7b", "mistral-7b"} <= set(pairs)
    for name in pairs:
        argv = ["--pair", name, "--out", str(tmp_path)]
        found = experiment(claim, argv)
        assert found.out == tmp_path / claim / name
        assert found.config.base == pairs[name]["base"]
        if name not in ("toy", "llama-7b", "mistral-7b"):
            assert (found.config.max_prompts, found.config.max_new_tokens) == (12, 64)


def test_the_pair_the_prompts_and_the_limits_can_be_others(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    argv = [
        "--pair",
        "smollm2-135m",
        "--base",
        "model",
        "--tuned",
        "some/hub-name",
        "--prompts",
        "mine.jsonl",
        "--controls",
        "7",
    ]
    (tmp_path / "mine.jsonl").write_text('{"text": "Say hello."}\n', encoding="utf-8")
    found = common.read(str(ROOT / "rotation" / "run.py"), [*argv, "--max-prompts", "3"])
    assert found.config.source("base") == str(tmp_path / "model")
    assert found.config.tuned == "some/hub-name"
    assert found.config.path(found.config.prompts or "") == tmp_path / "mine.jsonl"
    assert (found.config.max_prompts, found.config.controls.count("value_rotation")) == (3, 7)
    asked = experiment("table2_instruction_recognition", ["--controls", "4"]).config.controls
    assert (asked.count("instruction_use"), asked.count("attribute")) == (4, 4)
    none = experiment("table5_concepts", ["--controls", "4"]).config.controls
    assert none.count("mlp") == 0  # a claim that asks for none has none


def test_annotations_come_from_a_server_and_every_question_is_asked_once(everything, capsys) -> None:
    with chat_server() as (server, url):
        argv = [
            *TINY,
            "--out",
            str(everything[0]),
            "--base-url",
            url,
            "--model",
            "fake",
            "--components",
            "3",
            "--seeds",
            "2",
        ]
        table5.main(argv)
        asked = len(server.requests)
        figure3.main(argv)
    assert asked == len(server.requests) == 2 * 2 * 3 * 4 * 2  # questions, models, components, layers, seeds
    assert "requests: at most 96 (12 components, 2 seeds, both models)" in capsys.readouterr().out
    shares = numbers(everything, "table5_concepts", "table5").set_index("label")
    assert shares.loc["coding", ["base_mean", "tuned_mean"]].tolist() == [1, 1]  # what the server always says
    assert shares.loc["translation", "base_mean"] == 0
    levels = numbers(everything, "figure3_linguistic_levels", "figure3")
    assert levels["group"].unique().tolist() == ["0-3"]
    assert levels.set_index("label").loc["semantics", "tuned_share"] == 1
    assert (everything[0] / "figure3_linguistic_levels" / "toy" / "figure3.html").is_file()


def test_without_a_server_table_5_shows_coherence_and_says_what_it_needs(everything) -> None:
    _, printed = everything
    assert printed.count("needs a server: give --base-url") == 2
    frame = numbers(everything, "table5_concepts", "coherence")
    tuned: Any = found_in(everything, "concepts").one("coherence", Coherence, Unit("tuned")).to_df()
    expected = (tuned["p"] <= 0.05).groupby(tuned["layer"]).mean()
    assert frame["tuned"].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_an_unknown_pair_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"no pair 'llama' in pairs\.toml, available: toy, smollm2-135m"):
        common.read(str(ROOT / "rotation" / "run.py"), ["--pair", "llama"])


def test_ratings_come_from_a_table(everything, tmp_path, capsys) -> None:
    table = found_in(everything, "attribution").store.load_table("responses")
    names = table[table["model"] == "tuned"]["prompt_id"].tolist()
    path = tmp_path / "ratings.tsv"
    rows = [f"{name}\t{(1, 3, 0)[i % 3]}" for i, name in enumerate(names)]
    path.write_text("\n".join(["prompt_id\trating", *rows]), encoding="utf-8")
    table1.main([*TINY, "--out", str(everything[0]), "--ratings", str(path)])  # goes on from the run that is there
    found = numbers(everything, "table1_instruction_following", "table1")
    assert found["n"].tolist() == [3, 4]
    assert "rated by" in capsys.readouterr().out


def test_without_ratings_and_references_table_1_says_what_it_needs(everything, tmp_path) -> None:
    prompts = tmp_path / "plain.jsonl"
    prompts.write_text('{"text": "Say hello to me.", "instruction": ["Say hello"]}\n', encoding="utf-8")
    with pytest.raises(InputError, match="Table 1 needs ratings: give --ratings FILE or --base-url URL"):
        table1.main(["--out", str(tmp_path), "--prompts", str(prompts), "--max-new-tokens", "2", "--controls", "0"])


def test_responses_of_one_kind_alone_are_not_testable(everything, tmp_path, capsys) -> None:
    table1.main(["--out", str(tmp_path), "--max-prompts", "1", "--max-new-tokens", "40", "--controls", "0"])
    assert "not testable: 1 of 1 rated responses follow" in capsys.readouterr().out


def test_a_failed_experiment_is_one_sentence(capsys) -> None:
    def fails() -> None:
        raise InputError("no such thing")

    with pytest.raises(SystemExit) as stopped:
        common.start(fails)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "lensdiff: no such thing\n"
