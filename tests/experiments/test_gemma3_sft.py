"""The tuning of a real base, on a tiny one: what is held out, what a text is, and that a stopped training goes on."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from experiments.gemma3_sft import train
from lensdiff import load_prompts
from lensdiff.pipeline.toml import load_config
from tests.checkpoints import hf_model, save_checkpoint, tokenizer_of
from tests.inputs.released import write_clone

IDS = {f"lima_author_{i}": 1 for i in range(14)}


def test_every_sixth_is_held_out():
    trained, held_out = train.split([str(i) for i in range(14)])
    assert held_out == ["5", "11"]
    assert trained == [str(i) for i in range(14) if i not in (5, 11)]


def test_a_text_ends_with_its_end_token_unless_it_is_cut(monkeypatch):
    tokenizer = tokenizer_of(bos=True)
    prompt, response = train.encode(tokenizer, "Write.", "the sea ")
    assert prompt == tokenizer("Write.")["input_ids"]
    assert prompt[0] == tokenizer.bos_token_id
    assert response == [*tokenizer(" the sea", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    monkeypatch.setattr(train, "RESPONSE_TOKENS", 2)
    assert train.encode(tokenizer, "Write.", "the sea ")[1] == response[:2]


def test_losses_are_those_of_the_response_alone():
    model = hf_model("llama")
    prompt, response = [1, 5, 7], [9, 11, 2]
    found = train.losses(model, (prompt, response))
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
    expected = -torch.stack([logits[2 + i].log_softmax(-1)[token] for i, token in enumerate(response)])
    torch.testing.assert_close(found, expected)


def test_the_rate_rises_and_falls_to_zero():
    rates = [train.rate_at(step, 60, 1.0) for step in range(61)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[train.WARM_UP] == 1.0
    assert rates[60] == pytest.approx(0.0, abs=1e-12)


def test_a_training_that_was_stopped_gives_what_one_in_one_go_gives(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(train, "KEEP", 1)
    clone = write_clone(tmp_path / "clone", IDS)
    base = save_checkpoint("llama", tmp_path / "base")
    options = {"published": clone, "epochs": 2, "rank": 2, "n_held_out": 2}
    train.main(str(base), out=tmp_path / "whole", **options)
    train.main(str(base), out=tmp_path / "stopped", max_steps=2, **options)
    assert not (tmp_path / "stopped" / "adapter").exists()
    train.main(str(base), out=tmp_path / "stopped", **options)
    told = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "stopped")]
    assert told[0] == told[1]
    assert len(told[0]["loss"]) == 2 * (12 // train.BATCH)
    assert len(told[0]["held_out"]) == 3
    one, other = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(bool(value.any()) for key, value in one.items() if "lora_B" in key)
    prompts = load_prompts(tmp_path / "whole" / "held_out.jsonl")
    assert [prompt.id for prompt in prompts] == ["lima_author_5", "lima_author_11"]
    assert all(prompt.instruction and prompt.reference for prompt in prompts)
    assert isinstance(PeftModel.from_pretrained(hf_model("llama"), tmp_path / "whole" / "adapter"), PeftModel)


@pytest.mark.parametrize("name", ["gemma3_sft/whole.toml", "gemma3_sft/held_out.toml", "lora_smollm2/run.toml"])
def test_the_configs_of_real_pairs_are_configs(name):
    config = load_config(Path(train.__file__).parents[1] / name)
    assert Path(config.out).name == ("held_out" if "held_out" in name else "run")
    assert config.path(config.out).resolve().parents[1].name == "results"
