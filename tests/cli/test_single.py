"""The commands of one analysis: their tables, their pages, their files."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from lensdiff.cli.products import instruction_use_summary

from lensdiff.analyses.attention.shift import AttentionShift
from lensdiff.analyses.claims.measure import Claims
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.instruction_use.measure import instruction_use as analyse
from lensdiff.analyses.mlp.rotation import Rotation
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.inputs import load_prompts
from lensdiff.models import load_pair
from lensdiff.models.text import generate
from lensdiff.results import ResultStore
from tests.cli.conftest import Command, assert_refused

FAST = ("--quiet", "--device", "cpu")
PROMPT = ("--prompt", "Repeat the word: moon", "--instruction", "Repeat the word", "--max-new-tokens", 4)

FEW = ("--controls", 2, "--kinds", "norm,spectrum")
COMMANDS = {
    "instruction-use": (
        ("--max-new-tokens", 4, "--draws", 1, *FEW),
        "Instruction use, nats per token",
        ["instruction_use", "instruction_use_differences", "control_validity"],
    ),
    "outputs": (PROMPT, "tokens at which the models differ most", ["outputs"]),
    "attention": ((*PROMPT, *FEW), "heads that moved most", ["attention", "attention_shift"]),
    "weights": ((), "Weights that moved most", ["weights"]),
    "heads": (
        (*FEW, "--top-k", 5, "--layers", "0-1", "--layers-per-group", 1),
        "Heads whose word pairs changed most",
        ["heads", "verb_shift", "pair_overlap", "ov_reading"],
    ),
    "mlp": (
        (*FEW, "--components", 6, "--sides", "value, key", "--layers", "1"),
        "Rotation of concepts",
        ["concepts", "value_rotation", "rotation", "matched_components", "coherence"],
    ),
}


def with_files(command: str, options: tuple[object, ...], models: Path) -> tuple[object, ...]:
    """The options of a command, and the files that it reads."""
    words = ("--vocabulary", models / "words.tsv") if command in ("heads", "mlp") else ()
    return (*options, *words, *(("--prompts", models / "prompts.jsonl") if command == "instruction-use" else ()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_a_table_and_writes_parquet_and_a_page(lensdiff: Command, models: Path, tmp_path, command):
    options, title, tables = COMMANDS[command]
    out, name = tmp_path / "out", command.replace("-", "_")
    ran = lensdiff(
        command, models / "base", models / "tuned", "--out", out, *with_files(command, options, models), *FAST
    )
    assert (ran.err, ran.code) == ("", 0)
    assert title in ran.out
    paths = [str(out / f"{table}.parquet") for table in tables] + [str(out / f"{name}.html")]
    assert ran.out.rstrip().split("\n")[-len(paths) :] == paths
    store = ResultStore(out)
    assert {state.state for state in store.manifest.steps.values()} == {"done"}
    for table in tables:
        pd.testing.assert_frame_equal(pd.read_parquet(out / f"{table}.parquet"), store.load_table(table))
    page = (out / f"{name}.html").read_text()
    assert f"<title>lensdiff {name}</title>" in page
    assert "ld-widget" in page
    assert "data-view" in page


def test_instruction_use_prints_what_the_analysis_finds(lensdiff: Command, models: Path, tmp_path):
    options = ("--max-new-tokens", 4, "--draws", 1, "--max-tokens", 2, "--seed", 3, "--kinds", "norm", "--controls", 2)
    files = ("--prompts", models / "prompts.jsonl", "--out", tmp_path)
    ran = lensdiff("instruction-use", models / "base", models / "tuned", *files, *options, *FAST)
    assert (ran.err, ran.code) == ("", 0)
    store = ResultStore(tmp_path)
    pair = load_pair(models / "base", models / "tuned", device="cpu", verify=False)
    prompts = load_prompts(models / "prompts.jsonl")
    own = {side: [generate(getattr(pair, side), p, max_new_tokens=4) for p in prompts] for side in ("base", "tuned")}
    texts = {side: [replace(r, token_ids=r.token_ids[:2]) for r in found] for side, found in own.items()}
    summary = instruction_use_summary(store).set_index(["by", "text"])
    for by in ("swap", "deletion"):
        controls = [pair.control("norm", seed) for seed in (3, 4)]
        found = analyse(pair, prompts, texts, by=by, draws=1, seed=3, controls=controls)
        assert found.n_out.max() == 2
        assert set(found.n_draws.tolist()) == {1}
        for text in ("base", "tuned", "mean"):
            effect, beside = found.effects(text)
            row = summary.loc[(by, text)]
            assert (row.base, row.tuned) == pytest.approx(found.means(text), abs=1e-5)
            assert row.difference == pytest.approx(effect, abs=1e-5)
            assert row.controls == f"{min(beside):.3g} to {max(beside):.3g} (2)"
            assert row.controls in ran.out
            assert f"{row.difference:.4f}" in ran.out
    assert store.load_table("control_validity")["seed"].tolist() == [3, 4]
    assert len(pd.read_parquet(tmp_path / "instruction_use.parquet")) == 2 * 2 * 4 * len(prompts)
    (claim, *others) = store.load_result("claims", Claims).claims
    assert "instruction use, tuned less base," in claim.statement
    assert {other.verdict for other in others} == {"not testable"}
    page = (tmp_path / "instruction_use.html").read_text()
    assert "How much a response needs its instruction" in page


def test_without_controls_the_use_stands_alone(lensdiff: Command, models: Path, tmp_path):
    options = ("--max-new-tokens", 3, "--draws", 1, "--controls", 0)
    files = ("--prompts", models / "prompts.jsonl", "--out", tmp_path)
    ran = lensdiff("instruction-use", models / "base", models / "tuned", *files, *options, *FAST)
    assert (ran.err, ran.code) == ("", 0)
    assert instruction_use_summary(ResultStore(tmp_path)).controls.tolist() == ["none"] * 6
    assert not (tmp_path / "control_validity.parquet").exists()
    assert ResultStore(tmp_path).load_result("claims", Claims).claims[0].verdict == "too few controls"


@pytest.mark.parametrize("command", ["attention", "heads", "mlp"])
def test_kinds_and_numbers_of_controls_reach_the_analysis(lensdiff: Command, models: Path, tmp_path, command):
    options = {
        "attention": (*PROMPT, "--layers", "0"),
        "heads": ("--layers", "0", "--top-k", 5),
        "mlp": ("--layers", "0", "--components", 4, "--ranks", "1"),
    }[command]
    given = with_files(command, (*options, "--kinds", " norm , spectrum", "--controls", 1), models)
    assert lensdiff(command, models / "base", models / "tuned", "--out", tmp_path, *given, *FAST).code == 0
    store = ResultStore(tmp_path)
    if command == "attention":
        made = store.load_result("attention_shift", AttentionShift).provenance.control_kinds
    elif command == "heads":
        made = store.load_result("verb_shift", VerbShift).control_kinds
    else:
        assert store.load_result("rotation", Rotation).kinds == ("norm", "spectrum")
        made = store.load_result("value_rotation", ValueRotation).control_kinds
    assert tuple(made) == ("norm", "spectrum")
    assert store.load_table("control_validity")[["kind", "seed"]].values.tolist() == [["norm", 0], ["spectrum", 0]]


def test_options_reach_the_analysis(lensdiff: Command, models: Path, tmp_path):
    words = ("--vocabulary", models / "words.tsv", "--controls", 0)
    pair = (models / "base", models / "tuned")
    assert lensdiff("heads", *pair, "--out", tmp_path / "h", "--layers", "1", "--top-k", 7, *words, *FAST).code == 0
    options = ResultStore(tmp_path / "h").load_result("heads/base", HeadWordPairs).provenance.options
    assert (options["layers"], options["top_k"], options["vocabulary"]) == ([1], 7, "words.tsv")
    mlp = ("--sides", "key", "--components", 6, "--ranks", "2,4,50", "--layers", "0")
    assert lensdiff("mlp", *pair, "--out", tmp_path / "m", *mlp, *words, *FAST).code == 0
    found = ResultStore(tmp_path / "m").load_result("rotation", Rotation)
    assert (found.layers, found.sides, found.ranks, found.n_controls) == ((0,), ("key",), (2, 4), ())


BAD = {
    "layers": ("heads", ("--layers", "first"), "'first' is no list of layers"),
    "layers that go back": ("heads", ("--layers", "2-1"), "'2-1' is no list of layers"),
    "no rank that fits": ("mlp", ("--ranks", "500", "--components", "20"), "names no rank up to --components 20"),
    "a layer that is not there": ("heads", ("--layers", "9"), "layers [9]"),
    "ranks": ("mlp", ("--ranks", "one"), "'one' is no list of numbers"),
    "sides": ("mlp", ("--sides", "left"), "mlp.sides[0] is 'left', expected one of"),
    "words": ("heads", ("--vocabulary", "none.tsv"), "no file at none.tsv"),
    "vectors": ("heads", ("--vectors", "none.txt"), "no file of word vectors at none.txt"),
    "sink": ("attention", (*PROMPT, "--sink", "kitchen"), "attention.sink is 'kitchen', expected one of"),
    "no prompt": ("outputs", (), "give either --prompt TEXT or --prompts FILE"),
    "a kind twice": ("heads", ("--kinds", "norm,norm"), "a kind comes twice (norm, norm), expected each once"),
    "an unknown kind": ("mlp", ("--kinds", "norm,noise"), "controls.kinds[1] is 'noise', expected one of 'distilled'"),
    "no kind": ("attention", (*PROMPT, "--kinds", ""), "controls.kinds[0] is '', expected one of 'distilled'"),
    "a kind without data": ("heads", ("--kinds", "shuffled"), "shuffled controls need the tuning data: name a file"),
    "fewer than no controls": ("heads", ("--controls", -1), "Invalid value for '--controls'"),
    "no prompts": ("instruction-use", (), "Missing option '--prompts'"),
    "no draws": ("instruction-use", ("--prompts", "p.jsonl", "--draws", 0), "Invalid value for '--draws'"),
    "no tokens": ("instruction-use", ("--prompts", "p.jsonl", "--max-tokens", 0), "Invalid value for '--max-tokens'"),
    "no such prompts": ("instruction-use", ("--prompts", "none.jsonl"), "no file at none.jsonl"),
}


@pytest.mark.parametrize(("command", "options", "message"), BAD.values(), ids=BAD)
def test_unusable_options_are_refused(lensdiff: Command, models: Path, tmp_path, command, options, message):
    words = ("--vocabulary", models / "words.tsv") if command in ("heads", "mlp") else ()
    ran = lensdiff(command, models / "base", models / "tuned", "--out", tmp_path / "out", *words, *options, *FAST)
    assert ran.code == 2
    assert message in ran.err.replace("\n", " ")
    if "BadParameter" not in ran.err and ran.err.startswith("lensdiff"):
        assert_refused(ran, message)


def test_the_report_again(lensdiff: Command, models: Path, tmp_path):
    pair = (models / "base", models / "tuned")
    assert lensdiff("weights", *pair, "--out", tmp_path / "out", *FAST).code == 0
    ran = lensdiff("report", tmp_path / "out")
    assert (ran.code, ran.out.strip()) == (0, str(tmp_path / "out" / "report.html"))
    ran = lensdiff("report", tmp_path / "out", "--out", tmp_path / "elsewhere" / "page.html")
    assert ran.code == 0
    pages = (tmp_path / "elsewhere" / "page.html", tmp_path / "out" / "report.html")
    first, second = (re.sub(r'id="ld-\d+"', "", page.read_text()) for page in pages)
    assert first == second


def test_a_run_whose_step_failed_ends_with_1_and_says_so(lensdiff: Command, models: Path, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        f'base = "{models / "base"}"\ntuned = "{models / "tuned"}"\nvocabulary = "{models / "words.tsv"}"\n'
        'analyses = ["weights", "heads"]\ndevice = "cpu"\n[heads]\nlayers = [9]\n[controls]\nheads = 0\n'
    )
    ran = lensdiff("run", config, "--out", tmp_path / "out", "--quiet")
    assert ran.code == 1
    assert ran.out.strip() == str(tmp_path / "out" / "report.html")
    assert "lensdiff: heads could not be done: layers [9]" in ran.err
    assert ResultStore(tmp_path / "out").step("weights").state == "done"
