"""Pairs: what they check, what they say differs, adapters, one model at a time, and the same analysis of both."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lensdiff.models import load_model, load_pair, pair, view_of
from lensdiff.models.given import check_pair
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.results import InputError
from tests.checkpoints import TEXT, hf_model, save_checkpoint, tokenizer_of

OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False}


def tokens() -> torch.Tensor:
    return torch.tensor([tokenizer_of()(TEXT[0])["input_ids"][:16]])


def with_more_tokens(*more: str, without: str = "") -> PreTrainedTokenizerFast:
    """The test tokenizer with tokens added at its end; one ordinary token can be renamed, which is another string."""
    whole = json.loads(tokenizer_of().backend_tokenizer.to_str())
    vocabulary = whole["model"]["vocab"]
    if without:
        vocabulary["renamed"] = vocabulary.pop(without)
        whole["model"]["merges"] = [m for m in whole["model"]["merges"] if without not in ("".join(m), *m)]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(whole))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.add_tokens(list(more))
    return fast


def reordered(first: int, second: int) -> PreTrainedTokenizerFast:
    """The test tokenizer with two tokens' ids exchanged."""
    from tokenizers import Tokenizer

    whole = json.loads(tokenizer_of().backend_tokenizer.to_str())
    names, vocabulary = {i: t for t, i in whole["model"]["vocab"].items()}, whole["model"]["vocab"]
    vocabulary[names[first]], vocabulary[names[second]] = second, first
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return save_checkpoint("llama", tmp_path / "base"), save_checkpoint("llama", tmp_path / "tuned", seed=1)


# loading


def test_a_pair_loads_when_it_is_first_asked(folders, monkeypatch):
    loaded: list[object] = []
    honest = pair.load_model
    monkeypatch.setattr(
        pair, "load_model", lambda source, **options: loaded.append(source) or honest(source, **options)
    )
    sides = dict(zip(("base", "tuned"), folders, strict=True))
    found = pair.ModelPair(sides, {"base": OPTIONS, "tuned": OPTIONS}, "both")
    assert loaded == []
    assert found.ids == ("base", "tuned")
    assert set(loaded) == set(folders)
    found.differences(), found.base, found.tuned
    assert len(loaded) == 2


def test_both_models_are_loaded_and_differ(folders):
    both = load_pair(*folders, **OPTIONS)
    assert view_of(both.base).info.id == "base"
    assert view_of(both.tuned).info.id == "tuned"
    for side, seed in (("base", 0), ("tuned", 1)):
        with torch.no_grad():
            expected = hf_model("llama", seed=seed)(tokens()).logits
        torch.testing.assert_close(
            view_of(getattr(both, side)).forward.logits(tokens()), expected, rtol=1e-4, atol=1e-4
        )


def test_a_pair_and_a_model_are_told_apart(folders):
    both = load_pair(*folders, **OPTIONS)
    check_pair(both, "weight_shift")
    with pytest.raises(InputError, match=r"weight_shift takes a pair of models, given one model: load_pair"):
        check_pair(both.base, "weight_shift")
    with pytest.raises(InputError, match=r"expected one model, got a pair: give pair\.base or pair\.tuned"):
        view_of(both)


def test_options_of_one_model_go_to_it_alone(folders):
    found = load_pair(*folders, tuned_options={"dtype": "float64"}, **OPTIONS)
    assert (view_of(found.base).dtype, view_of(found.tuned).dtype) == (torch.float32, torch.float64)
    found = load_pair(*folders, base_options={"wrapper": "bridge"}, tuned_options={"wrapper": "bridge"}, **OPTIONS)
    assert view_of(found.base).info.wrapper == view_of(found.tuned).info.wrapper == "bridge"


def test_one_at_a_time_holds_one_and_gives_the_same(folders):
    one, both = (load_pair(*folders, keep=keep, **OPTIONS) for keep in ("one", "both"))
    assert (one.keep, both.keep) == ("one", "both")
    for side in ("base", "tuned", "base"):
        found, expected = (view_of(getattr(p, side)).forward.logits(tokens()) for p in (one, both))
        assert torch.equal(found, expected)
        assert len(one._loaded) == 1
    assert torch.equal(one.shared_tokens[0], both.shared_tokens[0])


def test_one_at_a_time_loads_each_once_for_a_comparison(folders, monkeypatch):
    loaded: list[str] = []

    def counted(source: Path, **options: Any) -> Any:
        loaded.append(source.name)
        return load_model(source, **options)

    monkeypatch.setattr(pair, "load_model", counted)
    found = load_pair(*folders, keep="one", **OPTIONS)
    found.compare(lambda model: view_of(model).info.id)
    assert loaded == ["tuned", "base", "tuned"]  # the first look at both, then tuned again


def test_a_control_can_be_the_other_model(folders):
    found = load_pair(*folders, **OPTIONS)
    control = found.control("norm", 0)
    again = load_pair(found.base, control)
    assert view_of(again.tuned) is control
    assert again.shared_tokens[0].shape == found.shared_tokens[0].shape


# adapters


def adapter(tmp_path: Path, names: str = "") -> tuple[Path, torch.Tensor]:
    """A LoRA adapter on the tiny Llama, and the logits of the two together."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    tuned = peft.get_peft_model(hf_model("llama"), config)
    with torch.no_grad():
        expected = tuned(tokens()).logits
    tuned.peft_config["default"].base_model_name_or_path = names
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return tmp_path / "adapter", expected


@pytest.mark.parametrize("wrapper", ["auto", "bridge"])
@pytest.mark.parametrize("given", ["folder", "module"])
def test_an_adapter_goes_on_the_pairs_base(given, wrapper, tmp_path):
    folder, expected = adapter(tmp_path, names="somebody/elses-model")
    base = save_checkpoint("llama", tmp_path / "base") if given == "folder" else hf_model("llama")
    found = load_pair(base, folder, tokenizer=tokenizer_of(), wrapper=wrapper, **OPTIONS)
    torch.testing.assert_close(view_of(found.tuned).forward.logits(tokens()), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        untouched = hf_model("llama")(tokens()).logits
    torch.testing.assert_close(view_of(found.base).forward.logits(tokens()), untouched, rtol=1e-4, atol=1e-4)
    changed = {w.name for w in view_of(found.base).weights.known() if len(found.change().singular_values(w))}
    assert changed == {"W_Q", "W_out"}
    assert all(len(v) <= 2 for v in found.change()._values.values()), "a merged adapter has its rank"


def test_an_adapters_own_base_can_be_asked_for(tmp_path):
    other = save_checkpoint("llama", tmp_path / "other")
    folder, expected = adapter(tmp_path, names=str(other))
    base = save_checkpoint("llama", tmp_path / "base", seed=5)
    found = load_pair(base, folder, tuned_options={"base": other}, **OPTIONS)
    torch.testing.assert_close(view_of(found.tuned).forward.logits(tokens()), expected, rtol=1e-4, atol=1e-4)
    wrapped = load_pair(load_model(base, **OPTIONS), folder, **OPTIONS)
    torch.testing.assert_close(view_of(wrapped.tuned).forward.logits(tokens()), expected, rtol=1e-4, atol=1e-4)


def test_merging_leaves_a_base_in_memory_as_it_is(tmp_path):
    folder, expected = adapter(tmp_path)
    base = hf_model("llama")
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    merged = load_model(folder, base=base, tokenizer=tokenizer_of(), **OPTIONS)
    torch.testing.assert_close(view_of(merged).forward.logits(tokens()), expected, rtol=1e-4, atol=1e-4)
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(base.state_dict()[name], tensor) for name, tensor in before.items())


# what the models share


def test_vocabularies_are_matched_by_token_string():
    more = with_more_tokens("<|user|>", "<|reply|>", without="Ġthe")
    tuned = hf_model("llama", vocab_size=402)
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": more}}
    found = load_pair(hf_model("llama"), tuned, **sides, **OPTIONS)
    base, tuned = found.shared_tokens
    mine, theirs = tokenizer_of().get_vocab(), more.get_vocab()
    assert {(int(i), int(j)) for i, j in zip(base, tuned, strict=True)} == {
        (i, theirs[t]) for t, i in mine.items() if t in theirs
    }
    assert mine["Ġthe"] not in base.tolist()
    table = found.differences().set_index("what")
    assert table.loc["d_vocab", ["base", "tuned"]].tolist() == [400, 402]
    assert table.loc["tokenizer", ["base", "tuned"]].tolist() == ["1 token of its own", "3 tokens of its own"]


def test_without_tokenizers_rows_are_matched_by_number():
    found = load_pair(hf_model("llama"), hf_model("llama", vocab_size=410), **OPTIONS)
    assert all(torch.equal(ids, torch.arange(400)) for ids in found.shared_tokens)


def test_equal_models_have_no_differences(folders):
    table = load_pair(folders[0], folders[0], **OPTIONS).differences()
    assert table["what"].tolist() == ["equal weights"]
    assert "zero by construction" in table["meaning"].item()


def test_differences_are_named():
    plain, chatty = tokenizer_of(True), tokenizer_of(False)
    tuned = hf_model("llama", seed=1)
    tuned.generation_config.eos_token_id = [2, 9]
    chatty.chat_template = "{{ messages }}"
    try:
        sides = {"base_options": {"tokenizer": plain}, "tuned_options": {"tokenizer": chatty, "dtype": "float64"}}
        found = load_pair(hf_model("llama"), tuned, **sides, **OPTIONS)
    finally:
        chatty.chat_template = None
    table = found.differences().set_index("what")
    expected = {
        "bos": ["prepended", "none"],
        "dtype": ["float32", "float64"],
        "eos": ["2", "2, 9"],
        "chat_template": ["none", "14 characters"],
    }
    for what, values in expected.items():
        assert table.loc[what, ["base", "tuned"]].tolist() == values
    assert table.loc["norm gains", "tuned"].startswith("changed by ")
    assert set(table.index) == {*expected, "norm gains"}
    assert table["meaning"].str.len().gt(0).all()


# both models


def test_compare_runs_one_analysis_on_both(folders):
    found = load_pair(*folders, **OPTIONS)
    diff = found.compare(lambda model, power, *, scale: (view_of(model).info.id, power * scale), 2, scale=3)
    assert (diff.base, diff.tuned) == (("base", 6), ("tuned", 6))


def test_provenance_names_both_models(folders):
    found = load_pair(*folders, **OPTIONS).provenance("weights", {"top": 3}, seed=4)
    assert found.model == "base -> tuned"
    assert found.options == {"top": 3, "base": "base"}
    assert (found.analysis, found.seed, found.weights) == ("weights", 4, "raw")


# refusals


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("mistral", {}, "architecture is LlamaForCausalLM in the base and MistralForCausalLM in the tuned model"),
        ("llama", {"hidden_size": 64}, "d_model is 32 in the base and 64 in the tuned model"),
        ("llama", {"num_hidden_layers": 3}, "n_layers is 2 in the base and 3"),
        ("llama", {"intermediate_size": 64}, "d_mlp is 48 in the base and 64"),
        ("llama", {"num_key_value_heads": 4}, "n_key_value_heads is 2 in the base and 4"),
    ],
)
def test_another_shape_is_refused(family, change, message):
    with pytest.raises(InputError, match=f"the models cannot be compared: {message}"):
        load_pair(hf_model("llama"), hf_model(family, **change), tokenizer=tokenizer_of(), **OPTIONS)


def test_another_tokenizer_is_refused():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {"<s>": 0, "</s>": 1} | {f"word{i}": i + 2 for i in range(300)}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="<s>")), bos_token="<s>")
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": other}}
    with pytest.raises(InputError, match="tokenizers share 1% of the smaller vocabulary, at least 90% is needed"):
        load_pair(hf_model("llama"), hf_model("llama"), **sides, **OPTIONS)


def test_unusable_ways_to_keep_models_are_refused(folders):
    with pytest.raises(InputError, match="keep='none' is none of both, one"):
        load_pair(*folders, keep="none")
    with pytest.raises(InputError, match=r'keep="one" .*: tuned must be a name or a path, got LlamaForCausalLM'):
        load_pair(folders[0], hf_model("llama"), keep="one")
    with pytest.raises(InputError, match="comparing weights takes both models at once"):
        load_pair(*folders, keep="one", **OPTIONS).control()


@pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
def test_folded_beside_raw_weights_are_not_compared(folders):
    found = load_pair(*folders, tuned_options={"weights": "folded"}, **OPTIONS)
    assert found.differences().set_index("what").loc["weights", "tuned"] == "folded"
    with pytest.raises(InputError, match="those of the base are raw, those of the tuned model folded"):
        found.control()
