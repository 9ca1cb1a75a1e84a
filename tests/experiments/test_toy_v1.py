"""The first toy pair, a fixture now, is still what its card says: oracles of other tests stand on it."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lensdiff.analyses.weights.weight_shift import weight_shift
from lensdiff.models import load_pair
from tests import toy_v1

PARAMETERS = 1_524_864


def test_its_card_gives_the_measured_accuracy():
    card = (toy_v1.FOLDER / "MODEL_CARD.md").read_text()
    accuracy = json.loads((toy_v1.FOLDER / "accuracy.json").read_text())
    for kind, row in accuracy["tuned"]["train"].items():
        cells = (accuracy["base"]["train"][kind], row, accuracy["tuned"]["held_out"][kind])
        assert f"| {kind} | " + " | ".join(f"{100 * c['exact']:.0f} %" for c in cells) + " |" in card


@pytest.mark.parametrize(("folder", "right"), [(toy_v1.BASE, 0), (toy_v1.TUNED, 4)], ids=["base", "tuned"])
def test_the_tuned_model_gives_the_first_letter_and_the_base_does_not(folder, right):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() == PARAMETERS
    found = 0
    for line in toy_v1.PROMPTS.read_text().splitlines()[:4]:
        prompt = json.loads(line)
        assert prompt["kind"] == "first_letter"
        inputs = tokenizer(prompt["text"], return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        found += tokenizer.decode(ids, skip_special_tokens=True).strip() == prompt["reference"]
    assert found == right


def test_its_change_is_as_large_as_its_weights():
    table = weight_shift(load_pair(toy_v1.BASE, toy_v1.TUNED, device="cpu")).to_df()
    whole = table[table["head_index"].isna() & table["matrix"].str.startswith("W_")]
    assert whole["relative_norm"].median() > 1
    assert whole["relative_norm"].max() > 3
