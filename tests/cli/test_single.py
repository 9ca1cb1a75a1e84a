"""The commands of one analysis: their tables, their pages, their files."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lensdiff.analyses.attention.shift import AttentionShift
from lensdiff.analyses.claims.measure import Claims
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.instruction_use.measure import instruction_use as analyse
from lensdiff.analyses.instruction_use.section import summary
from lensdiff.analyses.mlp.rotation import Rotation
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.inputs import load_prompts
from lensdiff.models import load_pair
from lensdiff.models.text import generate
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from tests.cli.conftest import Command, assert_refused

FAST = ("--quiet", "--device", "cpu")
PROMPT = ("--prompt", "Repeat the word: moon", "--instruction", "Repeat the word", "--max-new-tokens", 4)

FEW = ("--controls", 2, "--kinds", "norm,spectrum")
COMMANDS = {
    "instruction-use": (
        ("--max-new-tokens", 4, "--draws", 1, *FEW),
        "Instruction use, nats per token",
        ["responses", "control_validity", "instruction_use", "instruction_use_differences"],
    ),
    "knock-out": (
        ("--max-new-tokens", 4, "--draws", 1, *FEW),
        "Instruction cut: loss in nats per token",
        [
            *("responses", "control_validity", "knock_out", "knock_out_prompts"),
            *("knock_out_windows", "knock_out_effects"),
        ],
    ),
    "dose": (
        ("--max-new-tokens", 4, "--amounts", "0.5", "--parts", "layer 1,logits", *FEW),
        "Doses: gain of the tuned model's response",
        ["responses", "dose", "dose_effects", "dose_controls"],
    ),
    "outputs": (PROMPT, "tokens at which the models differ most", ["responses", "outputs"]),
    "first-divergence": (
        (*PROMPT, *FEW, "--max-tokens", 6),
        "First divergence, mean over prompts, logits",
        ["control_validity", "first_divergence", "first_divergence_means", "first_divergence_prompts"],
    ),
    "residual-stream": (
        (*PROMPT, *FEW),
        "Logit lens by layer",
        ["responses", "control_validity", "logit_lens", "logit_lens_shift", "direct_logit_attribution"],
    ),
    "layer-similarity": (
        (*PROMPT, *FEW),
        "Layer similarity, all positions",
        ["responses", "control_validity", "layer_similarity"],
    ),
    "directions": (
        ("--max-new-tokens", 4, "--draws", 1, *FEW),
        "Directions by layer",
        ["responses", "control_validity", "directions", "direction_effects"],
    ),
    "activation-difference": (
        (*FEW, "--layers", "0-1", "--max-texts", 8, "--effect-texts", 3, "--draws", 1),
        "What every text's stream gained",
        [
            *("control_validity", "activation_difference", "activation_difference_words"),
            *("activation_difference_controls", "activation_difference_effects"),
            *(f"activation_difference_{name}" for name in ("patchscope", "steering", "causal")),
        ],
    ),
    "attention": (
        (*PROMPT, *FEW),
        "heads that moved most",
        ["responses", "control_validity", "attention", "attention_shift"],
    ),
    "weights": ((), "Weights that moved most", ["weights"]),
    "heads": (
        (*FEW, "--top-k", 5, "--layers", "0-1", "--layers-per-group", 1),
        "Heads whose word pairs changed most",
        ["control_validity", "heads", "verb_shift", "pair_overlap", "ov_reading"],
    ),
    "patch": (
        (*PROMPT, *FEW),
        "Patches: the largest effects",
        ["responses", "control_validity", "patch"],
    ),
    "mlp": (
        (*FEW, "--components", 6, "--sides", "value, key", "--layers", "1"),
        "Rotation of concepts",
        ["control_validity", "concepts", "coherence", "rotation", "matched_components"],
    ),
    "value-rotation": (
        (*FEW, "--layers", "1"),
        "Share of the values' change that is a rotation",
        ["control_validity", "value_rotation", "value_rotation_controls"],
    ),
}


def with_files(command: str, options: tuple[object, ...], models: Path) -> tuple[object, ...]:
    """The options of a command, and the files that it reads."""
    words = ("--vocabulary", models / "words.tsv") if command in ("heads", "mlp") else ()
    several = ("instruction-use", "knock-out", "dose", "directions")
    prompts = ("--prompts", models / "prompts.jsonl") if command in several else ()
    return (*options, *words, *prompts)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_a_table_and_writes_parquet_and_a_page(lensdiff: Command, models: Path, tmp_path, command):
    options, title, tables = COMMANDS[command]
    out = tmp_path / "out"
    ran = lensdiff(
        command, models / "base", models / "tuned", "--out", out, *with_files(command, options, models), *FAST
    )
    assert (ran.err, ran.code) == ("", 0)
    assert title in ran.out
    paths = [str(out / f"{table}.parquet") for table in tables] + [str(out / f"{command}.html")]
    assert ran.out.rstrip().split("\n")[-len(paths) :] == paths
    store = ResultStore(out)
    assert {state.state for state in store.manifest.steps.values()} == {"done"}
    for table in tables:
        pd.testing.assert_frame_equal(pd.read_parquet(out / f"{table}.parquet"), store.load_table(table))
    page = (out / f"{command}.html").read_text()
    assert f"<title>lensdiff {command}</title>" in page
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
    shown = summary(Found(store)).set_index(["by", "text"])
    for by in ("swap", "deletion"):
        controls = [pair.control("norm", seed) for seed in (3, 4)]
        found = analyse(pair, prompts, texts, by=by, draws=1, seed=3, controls=controls)
        assert found.n_out.max() == 2
        assert set(found.n_draws.tolist()) == {1}
        for text in ("base", "tuned", "mean"):
            effect, beside = found.effects(text)
            row = shown.loc[(by, text)]
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
    page = (tmp_path / "instruction-use.html").read_text()
    assert "How much a response needs its instruction" in page


def test_without_controls_the_use_stands_alone(lensdiff: Command, models: Path, tmp_path):
    options = ("--max-new-tokens", 3, "--draws", 1, "--controls", 0)
    files = ("--prompts", models / "prompts.jsonl", "--out", tmp_path)
    ran = lensdiff("instruction-use", models / "base", models / "tuned", *files, *options, *FAST)
    assert (ran.err, ran.code) == ("", 0)
    assert summary(Found(ResultStore(tmp_path))).controls.tolist() == ["none"] * 6
    assert not (tmp_path / "control_validity.parquet").exists()
    assert ResultStore(tmp_path).load_result("claims", Claims).claims[0].verdict == "too few controls"


def test_one_prompt_alone_is_read_without_its_instruction(lensdiff: Command, models: Path, tmp_path):
    given = (*PROMPT, "--controls", 0, "--out", tmp_path, "--device", "cpu")
    ran = lensdiff("instruction-use", models / "base", models / "tuned", *given)
    assert ran.code == 0, ran.err
    assert "instruction use by swap: not possible" in ran.err
    assert set(summary(Found(ResultStore(tmp_path))).by) == {"deletion"}


@pytest.mark.parametrize("command", ["attention", "heads", "mlp", "value-rotation"])
def test_kinds_and_numbers_of_controls_reach_the_analysis(lensdiff: Command, models: Path, tmp_path, command):
    options = {
        "attention": (*PROMPT, "--layers", "0"),
        "heads": ("--layers", "0", "--top-k", 5),
        "mlp": ("--layers", "0", "--components", 4, "--ranks", "1"),
        "value-rotation": ("--layers", "0"),
    }[command]
    given = with_files(command, (*options, "--kinds", " norm , spectrum", "--controls", 1), models)
    assert lensdiff(command, models / "base", models / "tuned", "--out", tmp_path, *given, *FAST).code == 0
    store = ResultStore(tmp_path)
    if command == "attention":
        made = store.load_result("attention_shift", AttentionShift).provenance.control_kinds
    elif command == "heads":
        made = store.load_result("verb_shift", VerbShift).control_kinds
    elif command == "mlp":
        made = store.load_result("rotation", Rotation).kinds
    else:
        made = store.load_result("value_rotation", ValueRotation).control_kinds
    assert tuple(made) == ("norm", "spectrum")
    assert store.load_table("control_validity")[["kind", "seed"]].values.tolist() == [["norm", 0], ["spectrum", 0]]


def test_options_reach_the_analysis(lensdiff: Command, models: Path, tmp_path):
    words = ("--vocabulary", models / "words.tsv", "--controls", 0)
    pair = (models / "base", models / "tuned")
    assert lensdiff("heads", *pair, "--out", tmp_path / "h", "--layers", "1", "--top-k", 7, *words, *FAST).code == 0
    options = ResultStore(tmp_path / "h").load_result("heads/base", HeadWordPairs).provenance.options
    assert (options["layers"], options["top_k"], options["vocabulary"]) == ([1], 7, "words.tsv")
    mlp = ("--sides", "key", "--components", 6, "--ranks", "2,4", "--layers", "0")
    assert lensdiff("mlp", *pair, "--out", tmp_path / "m", *mlp, *words, *FAST).code == 0
    found = ResultStore(tmp_path / "m").load_result("rotation", Rotation)
    assert (found.layers, found.sides, found.ranks, found.n_controls) == ((0,), ("key",), (2, 4), ())


WRONG_USAGE = {
    "layers": ("heads", ("--layers", "first"), "--layers 'first' is no list of layers like 0,1,5-8"),
    "layers that go back": ("heads", ("--layers", "2-1"), "--layers '2-1' is no list of layers like 0,1,5-8"),
    "ranks": ("mlp", ("--ranks", "one"), "--ranks 'one' is no list of whole numbers like 1,5,10"),
    "no prompt": ("outputs", (), "give either --prompt TEXT or --prompts FILE"),
    "no prompts": ("instruction-use", (), "give either --prompt TEXT or --prompts FILE"),
    "fewer than no controls": ("heads", ("--controls", -1), "Invalid value for '--controls'"),
    "no draws": ("instruction-use", ("--prompts", "p.jsonl", "--draws", 0), "Invalid value for '--draws'"),
    "no tokens": ("instruction-use", ("--prompts", "p.jsonl", "--max-tokens", 0), "Invalid value for '--max-tokens'"),
    "no response": ("outputs", (*PROMPT[:2], "--max-new-tokens", 0), "Invalid value for '--max-new-tokens'"),
    "no number": ("heads", ("--top-k", "many"), "Invalid value for '--top-k'"),
    "another's option": ("weights", ("--layers", "0"), "No such option: --layers"),
}


@pytest.mark.parametrize(("command", "options", "message"), WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_usage_is_said_with_the_usage(lensdiff: Command, tmp_path, command, options, message):
    ran = lensdiff(command, "base", "tuned", "--out", tmp_path / "out", *options, *FAST)
    assert ran.code == 2
    assert ran.err.startswith(f"Usage: lensdiff {command} ")
    assert message in ran.err.split("Error: ")[1]
    assert ran.out == ""
    assert not (tmp_path / "out").exists()


UNUSABLE = {
    "a rank that does not fit": ("mlp", ("--ranks", "500", "--components", 20), "rank 500 is above n_components = 20"),
    "a layer that is not there": ("heads", ("--layers", "9"), "layers=[9] given, expected at least one of 0 to 1"),
    "a layer twice": ("mlp", ("--layers", "0,0"), "mlp.layers is [0, 0], expected distinct layers"),
    "sides": ("mlp", ("--sides", "left"), "mlp.sides[0] is 'left', expected one of"),
    "words": ("heads", ("--vocabulary", "none.tsv"), "no file at none.tsv"),
    "vectors": ("heads", ("--vectors", "none.txt"), "no file of word vectors at none.txt"),
    "sink": ("attention", (*PROMPT, "--sink", "kitchen"), "attention.sink is 'kitchen', expected one of"),
    "a kind twice": ("heads", ("--kinds", "norm,norm"), "kinds ['norm', 'norm']: one comes twice, expected each once"),
    "an unknown kind": ("mlp", ("--kinds", "norm,noise"), "controls.kinds[1] is 'noise', expected one of 'distilled'"),
    "no kind": ("attention", (*PROMPT, "--kinds", ""), "controls.kinds[0] is '', expected one of 'distilled'"),
    "a kind without data": ("heads", ("--kinds", "shuffled"), "shuffled controls need the tuning data: name a file"),
    "no such text": (
        "instruction-use",
        ("--prompts", "p.jsonl", "--texts", "mine"),
        "instruction_use.texts[0] is 'mine', expected one of 'base'",
    ),
    "no such prompts": ("instruction-use", ("--prompts", "none.jsonl"), "no file at none.jsonl"),
}


@pytest.mark.parametrize(("command", "options", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_options_are_refused_in_one_sentence(
    lensdiff: Command, models: Path, tmp_path, command, options, message
):
    words = ("--vocabulary", models / "words.tsv") if command in ("heads", "mlp") else ()
    pair = (models / "base", models / "tuned")
    assert_refused(lensdiff(command, *pair, "--out", tmp_path / "out", *words, *options, *FAST), message)


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


def test_a_run_whose_step_failed_ends_with_1_and_says_so(lensdiff: Command, models: Path, tmp_path, monkeypatch):
    for name in ("door.stated_layers", "prepare.stated_layers", "prepare.n_layers"):
        monkeypatch.setattr(f"lensdiff.pipeline.{name}", lambda *_: None)  # as of a file that must be loaded first
    config = tmp_path / "run.toml"
    config.write_text(
        f'base = "{models / "base"}"\ntuned = "{models / "tuned"}"\nvocabulary = "{models / "words.tsv"}"\n'
        'analyses = ["weights", "heads"]\ndevice = "cpu"\n[heads]\nlayers = [9]\n[controls]\nheads = 0\n'
    )
    ran = lensdiff("run", config, "--out", tmp_path / "out", "--quiet")
    assert ran.code == 1
    assert ran.out.strip() == str(tmp_path / "out" / "report.html")
    assert "lensdiff: heads could not be done: layers=[9] given, expected at least one of 0 to 1" in ran.err
    assert ResultStore(tmp_path / "out").step("weights").state == "done"


@pytest.mark.parametrize(("flag", "expected"), [("--stream", True), ("--no-stream", False)])
def test_weights_are_streamed_where_that_is_asked_for(
    flag: str, expected: bool, models: Path, tmp_path: Path, lensdiff: Command
):
    ran = lensdiff("weights", models / "base", models / "tuned", "--out", tmp_path, flag, *FAST)
    assert ran.code == 0
    assert ResultStore(tmp_path).manifest.pair["stream"] is expected
