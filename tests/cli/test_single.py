"""The commands of one analysis: their tables, their pages, their files."""

import re
from pathlib import Path

import pandas as pd
import pytest

from lensdiff.analyses.heads import HeadWordPairs
from lensdiff.analyses.rotation import Rotation
from lensdiff.results import ResultStore
from tests.cli.conftest import Command, assert_refused

FAST = ("--quiet", "--device", "cpu")
PROMPT = ("--prompt", "Repeat the word: moon", "--instruction", "Repeat the word", "--max-new-tokens", 4)

COMMANDS = {
    "outputs": (PROMPT, "tokens at which the models differ most", ["outputs"]),
    "attention": ((*PROMPT, "--controls", 3), "heads that moved most", ["attention", "attention_shift"]),
    "weights": ((), "Weights that moved most", ["weights"]),
    "heads": (
        ("--controls", 3, "--top-k", 5, "--layers", "0-1", "--layers-per-group", 1),
        "Heads whose word pairs changed most",
        ["heads", "verb_shift", "pair_overlap", "ov_reading"],
    ),
    "mlp": (
        ("--controls", 3, "--components", 6, "--sides", "value, key", "--layers", "1"),
        "Rotation of concepts",
        ["concepts", "rotation", "matched_components", "coherence"],
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_a_table_and_writes_parquet_and_a_page(lensdiff: Command, models: Path, tmp_path, command):
    options, title, tables = COMMANDS[command]
    if command in ("heads", "mlp"):
        options = (*options, "--vocabulary", models / "words.tsv")
    out = tmp_path / "out"
    ran = lensdiff(command, models / "base", models / "tuned", "--out", out, *options, *FAST)
    assert (ran.err, ran.code) == ("", 0)
    assert title in ran.out
    paths = [str(out / f"{name}.parquet") for name in tables] + [str(out / f"{command}.html")]
    assert ran.out.rstrip().split("\n")[-len(paths) :] == paths
    store = ResultStore(out)
    assert {state.state for state in store.manifest.steps.values()} == {"done"}
    for name in tables:
        pd.testing.assert_frame_equal(pd.read_parquet(out / f"{name}.parquet"), store.load_table(name))
    page = (out / f"{command}.html").read_text()
    assert f"<title>lensdiff {command}</title>" in page
    assert "ld-widget" in page
    assert "data-view" in page


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
        'analyses = ["weights", "heads"]\ndevice = "cpu"\n[heads]\nlayers = [9]\n'
    )
    ran = lensdiff("run", config, "--out", tmp_path / "out", "--quiet")
    assert ran.code == 1
    assert ran.out.strip() == str(tmp_path / "out" / "report.html")
    assert "lensdiff: heads could not be done: layers [9]" in ran.err
    assert ResultStore(tmp_path / "out").step("weights").state == "done"
