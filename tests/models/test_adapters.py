"""Adapters: what is merged says what the unmerged peft model says, and what does not fit is refused by name."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensdiff.models import load_model, load_pair, view_of
from lensdiff.models.loading import adapters, opening
from lensdiff.models.loading.load import quiet
from lensdiff.models.loading.probe import probe_tokens
from lensdiff.results import InputError
from tests.checkpoints import TEXT, VOCABULARY, hf_model, save_checkpoint, tokenizer_of

peft = pytest.importorskip("peft")

PARTS = {"llama": ["q_proj", "down_proj"], "gemma2": ["q_proj", "down_proj"], "gpt2": ["c_attn", "mlp.c_proj"]}
EMBEDDING = {"llama": "embed_tokens", "gemma2": "embed_tokens", "gpt2": "wte"}
BASES = [("llama", True), ("llama", False), ("gpt2", True), ("gemma2", True)]
Q_PROJ = "base_model.model.model.layers.1.self_attn.q_proj"


def tokens() -> torch.Tensor:
    return torch.tensor([tokenizer_of()(TEXT[0])["input_ids"][:24]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(tokens()).logits


def grown(model: Any) -> Any:
    model.resize_token_embeddings(VOCABULARY + 10, mean_resizing=False)
    return model


def adapted(config: Any, model: Any) -> Any:
    """A peft model whose adapter has been trained: every number of it is moved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        tuned = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return tuned


def save(tuned: Any, tmp_path: Path, family: str = "llama", tie: bool = False) -> Path:
    """Save the adapter beside its base, under its name."""
    base = save_checkpoint(family, tmp_path / "base", tie_word_embeddings=tie)
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def lora(family: str = "llama", *also: str, **options: Any) -> Any:
    return peft.LoraConfig(r=2, target_modules=[*PARTS[family], *also], **options)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return folder


KINDS: dict[str, Callable[[str], Any]] = {
    "lora": lora,
    "rslora": lambda family: lora(family, use_rslora=True),
    "dora": lambda family: lora(family, use_dora=True),
    "patterns": lambda family: lora(
        family, rank_pattern={PARTS[family][0]: 4}, alpha_pattern={PARTS[family][1]: 16}, lora_alpha=3
    ),
    "bias": lambda family: lora(family, bias="all"),
    "ia3": lambda family: peft.IA3Config(target_modules=PARTS[family], feedforward_modules=PARTS[family][1:]),
    "adalora": lambda family: peft.AdaLoraConfig(target_modules=PARTS[family], total_step=10),
    "vera": lambda family: peft.VeraConfig(target_modules=PARTS[family][:1], r=2),
    "norms": lambda family: peft.LNTuningConfig(target_modules=["ln_1" if family == "gpt2" else "input_layernorm"]),
    "head": lambda family: lora(family, "lm_head"),
    "embedding": lambda family: lora(family, EMBEDDING[family]),
    "both": lambda family: lora(family, EMBEDDING[family], "lm_head"),
    "both as one": lambda family: lora(family, EMBEDDING[family], ensure_weight_tying=True),
    "head whole": lambda family: lora(family, modules_to_save=["lm_head"]),
    "embedding whole": lambda family: lora(family, modules_to_save=[EMBEDDING[family]]),
    "both whole": lambda family: lora(family, modules_to_save=[EMBEDDING[family], "lm_head"]),
    "some tokens": lambda family: lora(family, trainable_token_indices={EMBEDDING[family]: tokens()[0, :3].tolist()}),
    "only tokens": lambda family: peft.TrainableTokensConfig(
        target_modules=[EMBEDDING[family]], token_indices=tokens()[0, :3].tolist()
    ),
}


@pytest.mark.parametrize(("family", "tie"), BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_merged_says_what_the_unmerged_model_says(kind, family, tie, tmp_path):
    tuned = adapted(KINDS[kind](family), hf_model(family, tie_word_embeddings=tie))
    expected = logits(tuned)
    assert not torch.allclose(expected, logits(hf_model(family, tie_word_embeddings=tie)), atol=1e-3)
    found = view_of(load_model(save(tuned, tmp_path, family, tie), device="cpu"))
    torch.testing.assert_close(found.forward.logits(tokens()), expected, rtol=1e-4, atol=1e-4)
    if kind == "both as one" and tie and family != "gpt2":
        with pytest.raises(InputError, match="PeftModel cannot be copied: save it, and give the folder"):
            load_model(tuned, tokenizer=tokenizer_of(), device="cpu")
        return
    as_object = view_of(load_model(tuned, tokenizer=tokenizer_of(), device="cpu"))
    torch.testing.assert_close(as_object.forward.logits(tokens()), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(tuned), expected)  # the user's object is as it was


@pytest.mark.parametrize(("family", "tie"), BASES)
@pytest.mark.parametrize("kind", ["lora", "both whole", "some tokens", "embedding"])
def test_added_tokens_come_with_the_adapter(kind, family, tie, tmp_path):
    tuned = adapted(KINDS[kind](family), grown(hf_model(family, tie_word_embeddings=tie)))
    folder = save(tuned, tmp_path, family, tie)
    if kind == "embedding" and not tie:  # peft saves no row of the grown unembedding
        with pytest.raises(InputError, match="gives the embedding 410 tokens and the unembedding 400"):
            load_model(folder, device="cpu")
        return
    view = view_of(load_model(folder, device="cpu"))
    assert view.d_vocab == VOCABULARY + 10
    torch.testing.assert_close(view.forward.logits(tokens()), logits(tuned), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "tie"), BASES)
@pytest.mark.parametrize("kind", ["lora", "head"])
def test_only_what_an_adapter_of_the_embeddings_took_apart_is_untied(kind, family, tie, tmp_path):
    base = hf_model(family, tie_word_embeddings=tie)
    tuned = adapted(KINDS[kind](family), base)
    with quiet():
        merged, _ = adapters.merge_peft(tuned)
    head, embedding = merged.get_output_embeddings().weight, merged.get_input_embeddings().weight
    assert (head is embedding) == (tie and kind == "lora")
    assert merged.config.tie_word_embeddings == (tie and kind == "lora")
    assert torch.equal(embedding, hf_model(family, tie_word_embeddings=tie).get_input_embeddings().weight)
    merged.tie_weights()  # as a wrapper may do
    assert (merged.get_output_embeddings().weight is embedding) == (tie and kind == "lora")
    assert base.config.tie_word_embeddings == tie


def test_all_active_adapters_of_a_model_are_merged():
    tuned = adapted(lora(), hf_model("llama"))
    tuned.add_adapter("second", peft.LoraConfig(r=3, target_modules=["v_proj"], init_lora_weights=False))
    one = logits(tuned)
    found = view_of(load_model(tuned, tokenizer=tokenizer_of(), device="cpu"))
    torch.testing.assert_close(found.forward.logits(tokens()), one, rtol=1e-4, atol=1e-4)
    tuned.base_model.set_adapter(["default", "second"])
    two = logits(tuned)
    assert not torch.allclose(one, two, atol=1e-3)
    found = view_of(load_model(tuned, tokenizer=tokenizer_of(), device="cpu"))
    torch.testing.assert_close(found.forward.logits(tokens()), two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_an_adapter_is_merged_in_the_dtype_asked_for(dtype, tmp_path):
    tuned = adapted(lora(), hf_model("llama"))
    view = view_of(load_model(save(tuned, tmp_path), dtype=dtype, device="cpu"))
    bound = 1e-1 if dtype == "bfloat16" else 1e-5
    difference = (view.forward.logits(tokens()).float() - logits(tuned)).abs().max()
    assert float(difference / logits(tuned).abs().max()) < bound


def test_pickled_adapters_load_and_run_nothing(tmp_path):
    tuned = adapted(lora(), hf_model("llama"))
    folder = save(tuned, tmp_path)
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter_model.bin")
    file.unlink()
    found = view_of(load_model(folder, device="cpu")).forward.logits(tokens())
    torch.testing.assert_close(found, logits(tuned), rtol=1e-4, atol=1e-4)

    class Touch:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"a": Touch()}, folder / "adapter_model.bin")
    with pytest.raises(InputError, match="cannot load the adapter adapter: Weights only load failed"):
        load_model(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("own", [True, False])
def test_no_code_of_others_is_asked_for(own, tmp_path, monkeypatch):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    if own:
        tokenizer_of().save_pretrained(folder)
    asked, honest = [], opening.AutoTokenizer.from_pretrained

    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        asked.append(options.get("trust_remote_code"))
        return honest(*arguments, **options)

    monkeypatch.setattr(opening.AutoTokenizer, "from_pretrained", from_pretrained)
    load_model(folder, device="cpu")
    assert asked == [False]  # the adapter's, or where it has none the base's


# what does not fit


def test_a_key_that_fits_nothing_is_named(tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    wrong = f"{Q_PROJ.replace('.1.', '.7.')}.lora_A.weight"
    edit(folder, lambda state: state | {wrong: torch.ones(2, 32)})
    with pytest.raises(InputError, match=r"layers\.7\..*lora_A.*, which fits nothing in its base"):
        load_model(folder, device="cpu")


def test_a_wrong_prefix_is_refused(tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    edit(folder, lambda state: {f"base_model.model.{key}": value for key, value in state.items()})
    with pytest.raises(InputError, match=r"holds .* and \d+ more, which fits nothing in its base"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"init_lora_weights": False}])
@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight", ""])
def test_a_layer_that_the_file_lacks_is_named(part, options, tmp_path):
    folder = save(adapted(lora(**options), hf_model("llama")), tmp_path)
    lacking = f"{Q_PROJ}.{part}"
    edit(folder, lambda state: {key: value for key, value in state.items() if not key.startswith(lacking)})
    with pytest.raises(InputError, match=rf"the adapter adapter lacks {Q_PROJ}\.lora_"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("kind", ["head whole", "ia3", "some tokens"])
def test_a_layer_that_another_kind_of_file_lacks_is_named(kind, tmp_path):
    folder = save(adapted(KINDS[kind]("llama"), hf_model("llama")), tmp_path)
    name = {"head whole": "lm_head", "ia3": Q_PROJ, "some tokens": "trainable_tokens"}[kind]
    edit(folder, lambda state: {key: value for key, value in state.items() if name not in key})
    with pytest.raises(InputError, match=f"the adapter adapter lacks .*{name}"):
        load_model(folder, device="cpu")


def test_another_shape_is_named_with_both(tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    edit(folder, lambda state: state | {f"{Q_PROJ}.lora_B.weight": torch.ones(48, 2)})
    with pytest.raises(
        InputError,
        match=rf"^the adapter adapter does not fit its base: it holds {Q_PROJ}\.lora_B\.weight of shape \(48, 2\) for",
    ):
        load_model(folder, device="cpu")


def test_a_base_with_other_layers_is_refused(tmp_path):
    tuned = adapted(lora(), hf_model("llama"))
    folder = save(tuned, tmp_path)
    with pytest.raises(InputError, match=r"lacks .*layers\.2\."):
        load_model(folder, base=hf_model("llama", num_hidden_layers=3), device="cpu")
    with pytest.raises(InputError, match=r"layers\.1\..* fits nothing in its base"):
        load_model(folder, base=hf_model("llama", num_hidden_layers=1), device="cpu")
    with pytest.raises(InputError, match=r"the adapter adapter does not fit its base: .*arget modules"):
        load_model(folder, base=hf_model("gpt2"), device="cpu")


def test_an_adapter_for_another_task_is_refused(tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    edit(folder, lambda state: state | {"base_model.model.score.weight": torch.ones(2, 32)})
    with pytest.raises(InputError, match=r"score\.weight, which fits nothing"):
        load_model(folder, device="cpu")


def test_a_tensor_loaded_wrongly_is_found(tmp_path, monkeypatch):
    folder, honest = save(adapted(lora(), hf_model("llama")), tmp_path), peft.PeftModel.load_adapter

    def load_adapter(self: Any, *arguments: Any, **options: Any) -> Any:
        report = honest(self, *arguments, **options)
        self.state_dict()[f"{Q_PROJ}.lora_A.default.weight"].mul_(2.0)
        return report

    monkeypatch.setattr(peft.PeftModel, "load_adapter", load_adapter)
    with pytest.raises(InputError, match=rf"{Q_PROJ}\.lora_A\.weight of the adapter adapter was loaded as another"):
        load_model(folder, device="cpu")


def test_disabled_adapters_are_refused_as_that(tmp_path):
    tuned = adapted(lora(), hf_model("llama"))
    tuned.base_model.disable_adapter_layers()  # merging would switch them on
    with pytest.raises(InputError, match=r"the adapters of PeftModel are disabled: enable them"):
        load_model(tuned, tokenizer=tokenizer_of(), device="cpu")
    tuned.base_model.enable_adapter_layers()
    with tuned.disable_adapter(), pytest.raises(InputError, match=r"the adapters of PeftModel are disabled"):
        load_model(tuned, tokenizer=tokenizer_of(), device="cpu")
    torch.testing.assert_close(
        view_of(load_model(tuned, tokenizer=tokenizer_of(), device="cpu")).forward.logits(tokens()),
        logits(tuned),
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_merge_is_checked_on_the_tokens_that_an_adapter_changes(tmp_path, monkeypatch):
    drawn = probe_tokens(hf_model("llama")).flatten().tolist()
    rare = next(token for token in range(VOCABULARY) if token not in drawn)
    config = peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[rare])
    folder = save(adapted(config, hf_model("llama")), tmp_path)
    tuner = peft.tuners.tuners_utils.BaseTuner
    monkeypatch.setattr(tuner, "merge_and_unload", lambda self: self.unload())  # loses the change
    with pytest.raises(InputError, match=r"changes what the model says: logits differ"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("PREFIX_TUNING", lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
        ("PROMPT_TUNING", lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
        ("P_TUNING", lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
        (
            "ADAPTION_PROMPT",
            lambda: peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=2, adapter_layers=1),
        ),
    ],
)
def test_a_kind_that_changes_no_weight_is_refused_by_name(kind, config, tmp_path):
    tuned = adapted(config(), hf_model("llama"))
    message = rf"is a {kind}, which adds tokens and changes no weight: expected a kind .* such as LORA"
    with pytest.raises(InputError, match=message):
        load_model(save(tuned, tmp_path), device="cpu")
    with pytest.raises(InputError, match=message):
        load_model(tuned, tokenizer=tokenizer_of(), device="cpu")


def test_a_model_on_a_quantised_base_is_refused():
    tuned = adapted(lora(), hf_model("llama"))
    tuned.get_base_model().config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(InputError, match=r"PeftModel is quantised \(bitsandbytes\)"):
        load_model(tuned, tokenizer=tokenizer_of(), device="cpu")


def test_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "FROM_NEXT_YEAR", "base_model_name_or_path": "a/b"}')
    with pytest.raises(InputError, match=r"has the peft_type 'FROM_NEXT_YEAR', expected one of .*\bLORA\b"):
        load_model(tmp_path, device="cpu")
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json: not JSON \("):
        load_model(tmp_path, device="cpu")
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"adapter_config\.json holds \[\], expected an object of keys$"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("options", [{"lora_alpha": "8"}, {"r": None}, {"target_modules": 3}, {"layers_pattern": 3}])
def test_options_of_another_kind_are_refused(options, tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    with pytest.raises(InputError, match=r"^(the adapter adapter|cannot read adapter_config\.json) .*: \S"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("text", ['{"version": ', "{}", '{"added_tokens": []}'])
def test_an_adapters_broken_tokenizer_is_refused(text, tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    tokenizer_of().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=r"cannot read the tokenizer of the adapter adapter: \S"):
        load_model(folder, device="cpu")


def test_half_an_adapters_tokenizer_gives_way_to_the_bases(tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    (folder / "tokenizer_config.json").write_text("{}")
    tokenizer = view_of(load_model(folder, device="cpu")).tokenizer
    assert tokenizer is not None
    assert tokenizer.get_vocab() == tokenizer_of().get_vocab()


def test_a_revision_is_that_of_the_base(tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    with pytest.raises(InputError, match=r"revision='zzz' is one of a hub name, but the folder .*base was given"):
        load_model(folder, revision="zzz", device="cpu")


def test_a_folder_without_the_adapters_weights_is_refused(tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has neither adapter_model\.safetensors nor adapter_model\.bin"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("kind", ["ia3", "vera", "head whole"])
def test_a_base_object_with_the_layers_of_any_adapter_is_refused(kind):
    base = hf_model("llama")
    adapted(KINDS[kind]("llama"), base)
    with pytest.raises(InputError, match="holds the layers of a"):
        load_model(base, tokenizer=tokenizer_of(), device="cpu")


@pytest.mark.parametrize("ours", ["_check_shapes", "_check_keys", "_refuse_kind"])
def test_what_our_own_code_stumbles_over_is_not_told_of_the_file(ours, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise TypeError("ours")

    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    monkeypatch.setattr(adapters, ours, broken)
    with pytest.raises(TypeError, match="ours"):
        load_model(folder, device="cpu")


# what is said aloud


def test_zero_pairs_are_noted_logged_and_among_a_pairs_differences(tmp_path, caplog):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    edit(folder, lambda state: {k: v * 0 if k == f"{Q_PROJ}.lora_B.weight" else v for k, v in state.items()})
    with caplog.at_level(logging.WARNING):
        view = view_of(load_model(folder, device="cpu"))
    note = "1 of 4 LoRA pairs are zero: they change nothing in model.layers.1.self_attn.q_proj"
    assert view.info.notes == (note,)
    assert caplog.messages == [f"adapter: {note}"]
    pair = load_pair(tmp_path / "base", folder, device="cpu")
    rows = pair.differences().query("what == 'note'")
    assert rows[["base", "tuned"]].values.tolist() == [["", note]]


def test_a_fresh_adapter_is_said_to_change_nothing():
    tuned = peft.get_peft_model(hf_model("llama"), lora("llama", "embed_tokens"))
    (note,) = view_of(load_model(tuned, tokenizer=tokenizer_of(), device="cpu")).info.notes
    assert note.startswith("5 of 5 LoRA pairs are zero: they change nothing in model.embed_tokens, ")


def test_a_trained_adapter_brings_no_note(tmp_path):
    folder = save(adapted(lora("llama", "embed_tokens"), hf_model("llama")), tmp_path)
    assert view_of(load_model(folder, device="cpu")).info.notes == ()


def test_options_of_a_later_peft_are_said_to_be_left_out(tmp_path):
    folder = save(adapted(lora(), hf_model("llama")), tmp_path)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_tomorrow": True, "use_never": False}))
    (note,) = view_of(load_model(folder, device="cpu")).info.notes
    assert note == "this peft does not know use_tomorrow=True of adapter_config.json and left it out"
