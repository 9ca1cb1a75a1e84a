"""Where a checkpoint lies and how many layers it says that it has, against transformers' own reading."""

import json

import pytest
from transformers import AutoConfig

from lensdiff.models.loading.places import place_of, stated_layers
from lensdiff.results import InputError
from tests.checkpoints import FAMILIES, save_checkpoint


@pytest.mark.parametrize("family", FAMILIES)
def test_stated_layers_are_those_that_transformers_reads(family, tmp_path):
    folder = save_checkpoint(family, tmp_path / "model")
    assert stated_layers(folder) == AutoConfig.from_pretrained(folder).get_text_config().num_hidden_layers


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ('{"text_config": {"num_hidden_layers": 6}}', 6),
        ('{"n_layer": 5, "num_hidden_layers": 5}', 5),
        ('{"n_layer": 5, "num_hidden_layers": 6}', None),
        ('{"num_hidden_layers": "6"}', None),
        ('{"num_hidden_layers": true}', None),
        ('{"num_hidden_layers": -1}', None),
        ("{}", None),
        ("[]", None),
        ("no JSON", None),
        ("[" * 100_000, None),
    ],
)
def test_a_config_that_does_not_say_it_once_says_nothing(text, layers, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert stated_layers(tmp_path) == layers


def test_a_folder_without_a_config_says_nothing(tmp_path):
    assert stated_layers(tmp_path) is None


def test_a_place_is_a_folder_with_a_config_a_gguf_file_or_a_hub_name(tmp_path):
    with pytest.raises(InputError, match="so it is no checkpoint"):
        place_of(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    assert place_of(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="no GGUF file at"):
        place_of(tmp_path / "one.gguf")
    (tmp_path / "one.gguf").write_bytes(b"")
    assert place_of(tmp_path / "one.gguf").is_file()
    with pytest.raises(InputError, match="no model folder at"):
        place_of(tmp_path / "gone")
    assert str(place_of("somebody/model")) == "somebody/model"
