"""A command that does less than it was asked says what is lacking, once, and does not end with 0 where it failed."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lensdiff.analyses import ANALYSES
from lensdiff.cli.verbs import _show
from lensdiff.results import InputError, ResultStore
from lensdiff.results.errors import NotThere
from lensdiff.steps.found import Found
from tests.cli.conftest import Command, assert_refused

FAST = ("--device", "cpu", "--quiet")
FEW = ("--max-new-tokens", 2, "--controls", 0)


def prompts_in(folder: Path, *prompts: dict[str, object]) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return path


GOOD = {"id": "ok", "text": "Repeat the word: moon", "instruction": ["Repeat"]}


@pytest.fixture
def mute(models: Path, tmp_path: Path) -> Path:
    """The tuned model without its tokenizer."""
    folder = shutil.copytree(models / "tuned", tmp_path / "mute")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    return folder


@pytest.mark.parametrize("command", ["attribute", "outputs", "attention", "instruction-use", "heads", "mlp"])
def test_a_model_without_its_tokenizer_is_refused(lensdiff: Command, models: Path, mute: Path, tmp_path, command):
    words = command in ("heads", "mlp")
    given = ("--vocabulary", models / "words.tsv") if words else ("--prompts", prompts_in(tmp_path, GOOD))
    out = ("--out", tmp_path / "out")
    ran = lensdiff(command, models / "base", mute, *given, *out, *FAST)
    assert_refused(
        ran, f"no tokenizer of mute was found, and what is asked for reads text ({command.replace('-', '_')})"
    )
    assert ran.out == ""
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_model_without_its_tokenizer_in_a_directory_of_the_pair(lensdiff: Command, models: Path, mute, tmp_path):
    out = ("--out", tmp_path / "out")
    assert lensdiff("weights", models / "base", mute, *out, *FAST).code == 0
    given = ("--vocabulary", models / "words.tsv", "--controls", 0, "--layers", "0")
    ran = lensdiff("heads", models / "base", mute, *given, *out, *FAST)
    assert ran.code == 1
    assert "lensdiff: without tuned, layers 0: model 'mute' has no tokenizer" in ran.err
    assert "verb_shift, pair_overlap not possible: word pairs of heads of tuned, layers 0: model 'mute'" in ran.err


@pytest.mark.parametrize(
    "prompt",
    [
        {"id": "x" * 300, "text": "Say moon"},
        {"id": "half", "text": "Say \ud83d"},
        {"id": "long", "text": "moon " * 500},
    ],
    ids=["id", "half a character", "length"],
)
def test_a_bad_prompt_is_named_and_the_others_are_there(lensdiff: Command, models: Path, tmp_path, prompt):
    given = ("--prompts", prompts_in(tmp_path, prompt, GOOD), "--deletion-draws", 1, *FEW)
    ran = lensdiff("attribute", models / "base", models / "tuned", *given, "--out", tmp_path / "out", *FAST)
    assert ran.code == 1
    assert len(ran.err.strip().split("\n")) == 1
    assert ran.err.startswith(f"lensdiff: without prompt '{prompt['id'][:5]}"[:30])
    frame = pd.read_parquet(tmp_path / "out" / "attribution.parquet")
    assert set(zip(frame.model, frame.prompt_id, strict=True)) == {("base", "ok"), ("tuned", "ok")}
    alone = ("--prompts", prompts_in(tmp_path, prompt), "--deletion-draws", 1, *FEW)
    assert_refused(
        lensdiff("attribute", models / "base", models / "tuned", *alone, "--out", tmp_path / "alone", *FAST), ""
    )


@pytest.mark.parametrize("command", ["heads", "mlp", "value-rotation", "attention"])
@pytest.mark.parametrize("layers", ["99", "", "1,1"])
def test_layers_that_are_none_are_refused_before_anything_is_written(
    lensdiff: Command, models: Path, tmp_path, command, layers
):
    given = ("--prompts", prompts_in(tmp_path, GOOD)) if command == "attention" else ()
    ran = lensdiff(
        command, models / "base", models / "tuned", *given, "--layers", layers, "--out", tmp_path / "out", *FAST
    )
    assert ran.code == 2
    last = ran.err.strip().split("\n")[-1]
    assert "layers" in last
    assert "no result" not in ran.err
    assert not (tmp_path / "out").exists()


def test_an_analysis_that_has_nothing_is_refused_with_the_reason(lensdiff: Command, models: Path, tmp_path):
    unmarked = prompts_in(tmp_path, {"text": "Say moon"}, {"text": "Say sun"})
    given = ("--prompts", unmarked, *FEW, "--out", tmp_path / "out")
    assert_refused(
        lensdiff("instruction-use", models / "base", models / "tuned", *given, *FAST), "no prompt marks an instruction"
    )


def test_what_is_not_possible_is_said_also_quietly(lensdiff: Command, models: Path, tmp_path):
    given = ("--prompts", prompts_in(tmp_path, GOOD), *FEW, "--out", tmp_path / "out")
    ran = lensdiff("instruction-use", models / "base", models / "tuned", *given, *FAST)
    assert ran.code == 0  # of one prompt there is no other instruction; what can be asked was
    assert "instruction_use not possible: prompt 'ok' has no donor" in ran.err


def test_a_run_says_what_is_lacking_and_ends_with_1(lensdiff: Command, models: Path, tmp_path):
    prompts_in(tmp_path, {"id": "long", "text": "moon " * 500}, GOOD)
    (tmp_path / "run.toml").write_text(
        f'base = "{models / "base"}"\ntuned = "{models / "tuned"}"\nprompts = "prompts.jsonl"\nanalyses = ["outputs"]\n'
        'device = "cpu"\nmax_new_tokens = 2\n'
    )
    ran = lensdiff("run", tmp_path / "run.toml", "--out", tmp_path / "out", "--quiet")
    assert ran.code == 1
    assert ran.err.count("lensdiff: ") == 1
    assert "lensdiff: without prompt 'long': prompt 'long'" in ran.err
    assert ResultStore(tmp_path / "out").names("outputs/") == ["outputs/ok"]


def test_a_result_that_is_damaged_is_not_passed_over_as_one_that_is_not_there(tmp_path, monkeypatch):
    analysis = next(analysis for analysis in ANALYSES if analysis.name == "weights")
    raised: list[InputError] = [NotThere("there is none")]

    def summary(found: Found) -> pd.DataFrame:
        raise raised[-1]

    monkeypatch.setattr(type(analysis), "summaries", {"Weights": summary})
    monkeypatch.setattr("lensdiff.pipeline.report.sections_page", lambda *_: "")
    store = ResultStore(tmp_path)
    _show([analysis], store, False)
    with pytest.raises(NotThere):
        _show([analysis], store, True)
    raised.append(InputError("it is damaged"))
    with pytest.raises(InputError, match="it is damaged"):
        _show([analysis], store, False)
