"""The steps in a run: a text that the models read as different tokens fails alone, and so does one without rivals."""

import json
from pathlib import Path

import pytest

from lensdiff.analyses.residual_stream import steps
from lensdiff.analyses.residual_stream.direct import rivals
from lensdiff.analyses.residual_stream.lens_shift import LensShift
from lensdiff.analyses.residual_stream.parts_shift import PartsShift
from lensdiff.pipeline.execute import execute
from lensdiff.results import InputError
from lensdiff.steps.found import Found
from lensdiff.steps.unit import Unit
from tests.checkpoints import save_checkpoint
from tests.models.test_pair import with_more_tokens
from tests.pipeline.conftest import Recorder, config_for

PROMPTS = [
    {"id": "fruit", "text": "List three fruits. Apples are good."},
    {"id": "word", "text": "Repeat the word: moon"},  # of which the tuned tokenizer has no " word"
    {"id": "moon", "text": "The moon and the sea"},
]


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose tokenizers differ in one token."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "tuned")):
        save_checkpoint("llama", folder / name, seed=seed)
    with_more_tokens(without="Ġword").save_pretrained(folder / "tuned")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    (folder / "words.tsv").write_text("moon\t1\nsea\t1\n")
    return folder


@pytest.mark.parametrize("keep", ["both", "one"])
def test_a_text_that_is_read_as_different_tokens_fails_alone(other_tokenizer: Path, tmp_path: Path, keep: str):
    controls = {"controls": {"kinds": ["spectrum"], "residual_stream": int(keep == "both")}}
    config = config_for(other_tokenizer, tmp_path / "out", analyses=["residual_stream"], keep=keep, **controls)
    found = Found(execute(config, listener=Recorder()))
    failed = found.failures("logit_lens")
    assert set(failed) == {Unit("base", "word"), Unit("tuned", "word")}
    assert all("as different tokens" in reason for reason in failed.values())
    assert found.one("logit_lens_shift", LensShift).prompt_id == ("fruit", "moon")
    assert found.one("direct_logit_attribution", PartsShift).prompt_id == ("fruit", "moon")
    assert found.prompts("logit_lens", "base", "tuned") == ["fruit", "moon"]


def test_a_text_without_a_rival_that_both_models_have_is_left_out_of_the_parts_alone(
    other_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def none(choices, said, known):
        asked.append(choices.shape[0])
        if len(asked) in (1, 3):  # the first prompt, in either model
            raise InputError("there is nothing to hold its logit against")
        return rivals(choices, said, known)

    asked: list[int] = []
    monkeypatch.setattr(steps, "rivals", none)
    recorder = Recorder()
    controls = {"controls": {"kinds": ["spectrum"], "residual_stream": 0}}
    config = config_for(other_tokenizer, tmp_path / "out", analyses=["residual_stream"], **controls)
    found = Found(execute(config, listener=recorder))
    assert found.one("logit_lens_shift", LensShift).prompt_id == ("fruit", "moon")
    assert found.one("direct_logit_attribution", PartsShift).prompt_id == ("moon",)
    told = [line for line in recorder.said if "hold its logit" in line]
    assert told == ["parts of logits: without prompt 'fruit': there is nothing to hold its logit against"]
