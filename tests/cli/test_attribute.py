"""`lensdiff attribute`: its table, its files, and one sentence for everything that cannot be used."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.section import summary
from lensdiff.inputs import Prompt
from lensdiff.models import load_model, view_of
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.models.response import Response
from lensdiff.models.text import encode, generate
from lensdiff.pipeline.report import Report
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from tests.checkpoints import save_checkpoint
from tests.cli.conftest import Command, Ran, assert_refused

PROMPT = "Write a short poem about the sea."
NO_CONTROLS = ("--max-new-tokens", 4, "--deletion-draws", 2, "--controls", 0, "--device", "cpu")
FAST = (*NO_CONTROLS, "--quiet")


def test_one_prompt_gives_a_table_parquet_and_a_page(lensdiff: Command, models: Path, tmp_path: Path):
    out = tmp_path / "out"
    pair = (models / "base", models / "tuned")
    ran = lensdiff("attribute", *pair, "--prompt", PROMPT, "--instruction", "Write a short poem", "--out", out, *FAST)
    assert (ran.err, ran.code) == ("", 0)
    assert "instruction score" in ran.out
    assert str(out / "attribution.parquet") in ran.out.replace("\n", "")
    frame = pd.read_parquet(out / "attribution.parquet")
    expected = attribute(load_model(models / "tuned", device="cpu"), PROMPT, max_new_tokens=4, deletion_draws=0)
    tuned = frame[frame.model == "tuned"]
    assert list(frame.columns) == ["model", *expected.to_df().columns]
    pd.testing.assert_series_equal(tuned.score.reset_index(drop=True), expected.to_df().score)
    page = (out / "attribute.html").read_text()
    assert "<title>lensdiff attribute</title>" in page
    assert "poem" in page


def test_half_precision_is_attributed_in_float32(lensdiff: Command, models: Path, tmp_path: Path):
    pair = (models / "base", models / "tuned")
    ran = lensdiff("attribute", *pair, "--prompt", PROMPT, "--dtype", "bfloat16", "--out", tmp_path, *FAST)
    assert (ran.err, ran.code) == ("", 0)
    frame = pd.read_parquet(tmp_path / "attribution.parquet")
    half = load_model(models / "tuned", dtype="bfloat16", device="cpu")
    expected = attribute(half, PROMPT, max_new_tokens=4, deletion_draws=0).to_df()
    pd.testing.assert_series_equal(frame[frame.model == "tuned"].score.reset_index(drop=True), expected.score)


def test_controls_stand_beside_the_models_and_words_without_importance_do_not(
    lensdiff: Command, models: Path, tmp_path: Path
):
    given = ("--prompt", PROMPT, "--instruction", "Write a short poem", "--out", tmp_path, *FAST, "--controls", 2)
    ran = lensdiff("attribute", models / "base", models / "tuned", *given)
    assert (ran.err, ran.code) == ("", 0)
    shown = summary(Found(ResultStore(tmp_path))).set_index("model")
    scores = pd.read_parquet(tmp_path / "tables" / "instruction_scores.parquet")
    controls = scores[scores.model == "control"].instruction_score
    assert set(zip(scores.model, scores.kind, scores.seed.fillna(-1), strict=True)) == {
        ("base", "", -1),
        ("tuned", "", -1),
        *(("control", "gradient-noise", seed) for seed in (0, 1)),
    }
    assert shown.loc["2 controls, mean", "instruction score"] == pytest.approx(controls.mean())
    assert f"from {controls.min():.3f} to {controls.max():.3f}" in shown.loc["2 controls, mean", "words that drive it"]
    found = attribute(load_model(models / "tuned", device="cpu"), PROMPT, max_new_tokens=4, deletion_draws=0).words()
    driving = [word for word in shown.loc["tuned", "words that drive it"].split(", ") if word != "(none)"]
    density = dict(zip(found.in_tokens, found.density().tolist(), strict=True))
    assert len(driving) == min(5, sum(value > 0 for value in density.values()))
    assert all(density[word] > 0 for word in driving)


def test_many_prompts_one_of_which_fails(lensdiff: Command, models: Path, tmp_path: Path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text((models / "prompts.jsonl").read_text() + json.dumps({"id": "long", "text": "moon " * 500}))
    out = tmp_path / "out"
    ran = lensdiff("attribute", models / "base", models / "tuned", "--prompts", prompts, "--out", out, *NO_CONTROLS)
    assert ran.code == 1  # not all that was asked for
    assert "responses: base, prompt 'long' failed: prompt 'long'" in ran.err
    assert "the model's context holds 128" in ran.err
    assert list(pd.read_parquet(out / "attribution.parquet").prompt_id.unique()) == ["sea", "fruit", "a/b .."]
    again = lensdiff("attribute", models / "base", models / "tuned", "--prompts", prompts, "--out", out, *FAST)
    assert again.code == 1
    assert again.err.startswith("lensdiff: without prompt 'long': prompt 'long'")
    assert again.err.count("\n") == 1  # once for both models and all that follows from it
    report = Report(ResultStore(out)).html()
    assert "at most 4 tokens" in report
    assert "controls, meaningless changes of the base" not in report  # none were made


def test_a_response_given_as_text_and_another_target(lensdiff: Command, models: Path, tmp_path: Path):
    options = ("--prompt", PROMPT, "--response", "good apples", "--target", "logit", "--method", "reverse")
    out = tmp_path / "out"
    ran = lensdiff("attribute", models / "base", models / "tuned", *options, "--out", out, *FAST)
    assert ran.code == 0, ran.err
    found = pd.read_parquet(out / "attribution.parquet")
    expected = attribute(
        load_model(models / "base", device="cpu"), PROMPT, "good apples", target="logit", method="reverse"
    )
    base = found[found.model == "base"]
    pd.testing.assert_series_equal(base.score.reset_index(drop=True), expected.to_df().score)


def test_a_contrast_of_two_tokens_is_a_target_of_the_command(lensdiff: Command, models: Path, tmp_path: Path):
    out = tmp_path / "out"
    options = ("--prompt", PROMPT, "--response", "good apples", "--target", "contrast: the| a", "--curve-prompts", 1)
    ran = lensdiff("attribute", models / "base", models / "tuned", *options, "--out", out, *FAST)
    assert ran.code == 0, ran.err
    found = pd.read_parquet(out / "attribution.parquet")
    for side in ("base", "tuned"):
        model = load_model(models / side, device="cpu")
        first, second = (model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (" the", " a"))
        target = lambda logits, ids, a=first, b=second: logits[:, a] - logits[:, b]  # noqa: E731
        expected = attribute(model, PROMPT, "good apples", target=target, deletion_draws=0).to_df().score
        own = found[found.model == side].score.reset_index(drop=True)
        pd.testing.assert_series_equal(own, expected)
        assert expected.abs().max() > 0
    assert pd.read_parquet(out / "deletion_curves.parquet").prompt_id.unique().tolist() == ["1"]
    one = ("--prompt", PROMPT, "--target", "contrast: the moon| a")
    ran = lensdiff("attribute", models / "base", models / "tuned", *one, "--out", out, *FAST)
    assert ran.code == 2
    assert "' the moon' is 3 tokens of base" in ran.err
    assert "expected exactly one" in ran.err


def test_choice_sets_both_models_next_tokens_against_each_other(lensdiff: Command, models: Path, tmp_path: Path):
    given = ("--prompt", PROMPT, "--instruction", "poem", "--target", "choice", "--kinds", "spectrum", "--controls", 1)
    limits = ("--max-new-tokens", 5, "--device", "cpu", "--dtype", "float64", "--quiet")
    ran = lensdiff("attribute", models / "base", models / "tuned", *given, "--out", tmp_path, *limits)
    assert (ran.code, ran.err) == (0, "")
    pair = load_pair(models / "base", models / "tuned", device="cpu", dtype="float64")
    own = generate(pair.tuned, PROMPT, max_new_tokens=5)
    expected = pair.compare(attribute, PROMPT, own, target="choice")
    store = ResultStore(tmp_path)
    for side in ("base", "tuned"):
        found = store.load_result(f"attribution/{side}/1", Attribution)
        torch.testing.assert_close(found.scores, getattr(expected, side).scores, atol=1e-12, rtol=1e-9)
        assert found.out_tokens == getattr(expected, side).out_tokens
        assert found.provenance.options["target"] == "choice"
    # a control reads the same text: the same two tokens against each other, of its own logits
    control = pair.control("spectrum", 0)
    (tuned, base), at = choices_by_hand(pair, own), torch.arange(5)
    assert bool((tuned != base).any())
    beside = attribute(control, PROMPT, own, target=lambda logits, ids: logits[at, tuned] - logits[at, base])
    found = store.load_result("attribution/spectrum-0/1", Attribution)
    torch.testing.assert_close(found.scores, beside.scores, atol=1e-12, rtol=1e-9)
    assert store.names("attribution_choices/") == []  # its readers are done
    assert not store.has_table("deletion_curves")
    assert "target choice" in (tmp_path / "attribute.html").read_text()


def choices_by_hand(pair: ModelPair, own: Response) -> torch.Tensor:
    """The most probable next token of the tuned model and of the base, which have one vocabulary."""
    found = []
    for model in (pair.tuned, pair.base):
        view = view_of(model)
        ids = encode(view, Prompt(PROMPT), own).ids[:-1]
        found.append(view.forward.logits(torch.tensor([ids]))[0, -len(own.token_ids) :].argmax(dim=-1))
    return torch.stack(found)


def test_a_choice_without_one_text_for_both_is_not_possible(lensdiff: Command, models: Path, tmp_path: Path):
    save_checkpoint("llama", tmp_path / "tuned", seed=1, bos=True)
    given = ("--prompt", PROMPT, "--target", "choice", "--out", tmp_path / "out", *FAST)
    ran = lensdiff("attribute", models / "base", tmp_path / "tuned", *given)
    assert ran.code == 2
    assert "the base puts 0 and the tuned model 1 special tokens in front of prompt '1'" in ran.err
    ran = lensdiff("attribute", models / "base", models / "tuned", *given, "--retokenise")
    assert_refused(ran, "target choice reads one text in both models: leave retokenise to the other targets")


def test_the_same_again_repeats_nothing_and_other_options_replace(lensdiff: Command, models: Path, tmp_path: Path):
    arguments = ("attribute", models / "base", models / "tuned", "--out", tmp_path / "out", *FAST)
    assert lensdiff(*arguments, "--prompt", PROMPT).code == 0
    first = ResultStore(tmp_path / "out").manifest.steps["attribution"]
    assert first.done == ["base/1", "tuned/1"]
    assert lensdiff(*arguments, "--prompt", PROMPT).code == 0
    assert ResultStore(tmp_path / "out").manifest.steps["attribution"] == first
    assert lensdiff(*arguments, "--prompt", "Repeat: moon").code == 0
    assert "moon" in "".join(pd.read_parquet(tmp_path / "out" / "attribution.parquet").in_token.unique())


def test_what_another_command_found_stays_as_long_as_it_holds(lensdiff: Command, models: Path, tmp_path: Path):
    out = ("--out", tmp_path / "out")
    pair = (models / "base", models / "tuned")
    assert lensdiff("weights", *pair, *out, "--device", "cpu", "--quiet").code == 0
    weights = ResultStore(tmp_path / "out").manifest.steps["weights"]
    assert lensdiff("attribute", *pair, "--prompt", PROMPT, *out, *FAST).code == 0
    store = ResultStore(tmp_path / "out")
    assert store.manifest.command == "attribute"
    assert store.step("weights") == weights
    assert store.has_table("weights")
    # of another pair it does not hold
    assert lensdiff("attribute", *reversed(pair), "--prompt", PROMPT, *out, *FAST).code == 0
    assert not ResultStore(tmp_path / "out").has_table("weights")


BAD = {
    "an empty prompt": (("--prompt", "  "), "prompt '1' has the empty text"),
    "an empty response": (("--prompt", PROMPT, "--response", " "), "the response of prompt '1' is an empty text"),
    "a prompt beyond the context": (("--prompt", "moon " * 500), "the model's context holds 128"),
    "a span that is not there": (("--prompt", PROMPT, "--instruction", "limerick"), "'limerick'"),
    "an unknown target": (("--prompt", PROMPT, "--target", "odds"), "attribute.target is 'odds', expected one of"),
    "an unknown method": (("--prompt", PROMPT, "--method", "both"), "attribute.method is 'both', expected one of"),
    "controls in half precision": (
        ("--prompt", PROMPT, "--dtype", "float16"),
        "a control model cannot be run in float16: give 0, or dtype = 'float32'",
    ),
    "an unknown dtype": (("--prompt", PROMPT, "--dtype", "int8"), "dtype is 'int8', expected one of"),
    "an unknown device": (("--prompt", PROMPT, "--device", "abacus"), "device 'abacus' cannot be used here"),
    "no file of prompts": (("--prompts", "none.jsonl"), "no file at none.jsonl"),
    "a file of another kind": (("--prompts", "none.csv"), "is no prompt file"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_unusable_input_is_one_sentence(lensdiff: Command, models: Path, tmp_path: Path, arguments, message):
    pair = (models / "base", models / "tuned")
    given = (*arguments, *(() if "--device" in arguments else ("--device", "cpu")))
    assert_refused(lensdiff("attribute", *pair, "--out", tmp_path / "out", "--quiet", *given), message)


def test_models_that_cannot_be_loaded(lensdiff: Command, models: Path, tmp_path: Path):
    def with_tuned(path: object) -> Ran:
        return lensdiff("attribute", models / "base", path, "--prompt", PROMPT, "--out", tmp_path / "out", *FAST)

    assert_refused(with_tuned(tmp_path / "missing"), "no model folder at")
    (tmp_path / "empty").mkdir()
    assert_refused(with_tuned(tmp_path / "empty"), "has no config.json")
    assert_refused(with_tuned("lensdiff-test/no-such-model"), "cannot load lensdiff-test/no-such-model")
    broken = shutil.copytree(models / "tuned", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert_refused(with_tuned(broken), "weight model.layers.1.mlp.up_proj.weight of the checkpoint is not finite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --prompt TEXT or --prompts FILE"),
        (("--prompt", "a", "--prompts", "b"), "give either --prompt TEXT or --prompts FILE"),
        (("--prompts", "b", "--instruction", "c"), "--instruction belongs to --prompt"),
        (("--prompts", "b", "--response", "c"), "--response belongs to --prompt"),
        (("--prompt", "a", "--deletion-draws", "-1"), "--deletion-draws"),
        (("--prompt", "a", "--controls", "x"), "Invalid value for '--controls'"),
        (("--prompt", "a", "--controls", "-1"), "Invalid value for '--controls'"),
        (("--prompt", "a", "--wrong"), "--wrong"),
    ],
)
def test_wrong_usage(lensdiff: Command, arguments, message):
    ran = lensdiff("attribute", "base", "tuned", *arguments)
    assert ran.code == 2
    assert message in ran.err
