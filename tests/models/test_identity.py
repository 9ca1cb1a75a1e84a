"""Who is who: names that differ in a pair, responses that know their tokenizer, and equal weights that are said."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from lensdiff.analyses.activation_difference.measure import activation_difference
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.dose.measure import dose
from lensdiff.analyses.instruction_use.measure import instruction_use
from lensdiff.analyses.outputs.output_shift import output_shift
from lensdiff.analyses.value_rotation.measure import value_rotation
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelPair, load_model, load_pair, view_of
from lensdiff.models.asked import as_prompt
from lensdiff.models.identity import digest_of, distinct_ids, tokenizer_digest
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import Response, encode, generate
from lensdiff.results import InputError
from tests.checkpoints import hf_model, save_checkpoint, tokenizer_of
from tests.models.test_pair import reordered, with_more_tokens

OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False}
PROMPT = "Write a short poem about the sea."
ZERO = "base and tuned have equal weights: every difference below is zero by construction"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints in folders of one name."""
    root = tmp_path_factory.mktemp("named")
    return tuple(save_checkpoint("llama", root / name / "hf", seed=seed) for seed, name in enumerate("xy"))  # type: ignore[return-value]


def labels(pair: ModelPair) -> tuple[str, str]:
    return view_of(pair.base).info.id, view_of(pair.tuned).info.id


# names


@pytest.mark.parametrize("keep", ["both", "one"])
def test_folders_of_one_name_are_told_apart(folders, keep):
    pair = load_pair(*folders, keep=keep, **OPTIONS)
    assert pair.ids == labels(pair) == labels(pair) == ("x/hf", "y/hf")  # also when they are loaded again
    assert pair.provenance("weights", {}).model == "x/hf -> y/hf"
    assert generate(pair.tuned, PROMPT, max_new_tokens=2).model == "y/hf"
    assert attribute(pair.base, PROMPT, "a sea", deletion_draws=0).provenance.model == "x/hf"
    assert view_of(load_model(folders[0], **OPTIONS)).info.id == "hf"


@pytest.mark.parametrize("keep", ["both", "one"])
def test_a_model_beside_itself_is_legal_and_differs_by_nothing(folders, keep):
    pair = load_pair(folders[0], folders[0], keep=keep, **OPTIONS)
    assert pair.ids == labels(pair) == ("hf", "hf (2)")
    assert output_shift(pair, PROMPT, "and the moon").kl.eq(0).all()


def test_names_are_found_at_the_shortest_end_that_differs(tmp_path, monkeypatch):
    for name in ("a/run/hf", "b/run/hf", "b/other/hf"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a/m.gguf", "b/m.gguf"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def named(base: str, tuned: str, ids: tuple[str, str] = ("hf", "hf"), *revisions: str | None) -> tuple[str, str]:
        return distinct_ids(ids, (base, tuned), (*revisions, None, None)[:2])  # type: ignore[arg-type]

    assert named("a/run/hf", str(tmp_path / "b" / "run" / "hf")) == ("a/run/hf", "b/run/hf")
    assert named("b/run/hf", "b/other/hf") == ("run/hf", "other/hf")
    assert named("b/run/../other/hf", "b/other/hf") == ("hf", "hf (2)")
    assert named("a/m.gguf", "b/m.gguf", ("m", "m")) == ("a/m", "b/m")
    assert named("a/run/hf", "nowhere") == ("run/hf", "hf")
    assert named("nowhere", "a/run/hf") == ("hf", "run/hf")
    assert named("org/m", "org/m", ("org/m", "org/m"), None, "v2") == ("org/m", "org/m@v2")
    assert named("org/m", "org/m", ("org/m", "org/m")) == ("org/m", "org/m (2)")
    assert named("a", "b", ("a", "b")) == ("a", "b")


def test_objects_without_a_name_are_told_apart():
    pair = load_pair(hf_model("llama"), hf_model("llama", seed=1), tokenizer=tokenizer_of(), **OPTIONS)
    assert pair.ids == labels(pair) == ("LlamaForCausalLM", "LlamaForCausalLM (2)")


def test_a_wrapped_model_keeps_its_own_name(folders):
    first, second = (load_model(folder, **OPTIONS) for folder in folders)
    pair = load_pair(first, second)
    assert pair.ids == labels(pair) == ("hf", "hf (2)")
    assert second.cfg.model_name == "hf"
    assert load_pair(second, first).ids == ("hf (2)", "hf")  # the label says nothing of a role
    alone = load_pair(first, first)
    assert alone.ids == ("hf", "hf (2)")
    assert labels(alone) == ("hf", "hf")
    assert output_shift(alone, PROMPT, "and the moon").kl.eq(0).all()


# tokenizers


def test_a_digest_is_the_vocabulary_the_rules_and_the_special_tokens():
    plain = tokenizer_digest(tokenizer_of())
    others = [tokenizer_of(True), with_more_tokens("<|reply|>"), reordered(60, 300)]
    renamed = with_more_tokens()
    renamed.eos_token = "<pad>"
    lower = with_more_tokens()
    from tokenizers import normalizers

    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    digests = [plain, *map(tokenizer_digest, (*others, renamed, lower))]
    assert len(set(digests)) == len(digests)
    again = with_more_tokens()
    again("some text", padding=True, truncation=True, max_length=8)  # of a call, not of the tokenizer
    assert tokenizer_digest(again) == tokenizer_digest(with_more_tokens())


def test_a_response_carries_its_tokenizers_digest(folders):
    model = load_model(folders[0], **OPTIONS)
    found = generate(model, PROMPT, max_new_tokens=3)
    assert found.tokenizer == digest_of(view_of(model)) == tokenizer_digest(view_of(model).tokenizer)
    assert digest_of(view_of(load_model(hf_model("llama"), **OPTIONS))) == ""


def with_tokenizer(tokenizer: PreTrainedTokenizerFast) -> Any:
    return load_model(hf_model("llama"), tokenizer=tokenizer, **OPTIONS)


def test_ids_of_another_tokenizer_are_refused_where_they_mean_another_text():
    text, shuffled = tokenizer_of().decode([5, 60, 300]), with_tokenizer(reordered(60, 300))
    response = Response(text, (5, 60, 300), "tuned", tokenizer_digest(tokenizer_of()))
    with pytest.raises(
        InputError, match=r"the response of 'tuned' has ids of another tokenizer: id 60 at position 1 is"
    ):
        attribute(shuffled, PROMPT, response, deletion_draws=0)
    unchanged = replace(response, token_ids=(5, 6, 7), text=tokenizer_of().decode([5, 6, 7]))
    assert encode(view_of(shuffled), as_prompt(PROMPT), unchanged).response_ids == (5, 6, 7)
    unknown = replace(response, tokenizer="")  # made by hand: ids are taken at their word
    assert encode(view_of(shuffled), as_prompt(PROMPT), unknown).response_ids == (5, 60, 300)


def test_ids_that_mean_the_same_in_both_may_be_used(folders):
    response = generate(load_model(folders[0], **OPTIONS), PROMPT, max_new_tokens=3)
    more = with_tokenizer(with_more_tokens("<|reply|>"))
    assert digest_of(view_of(more)) != response.tokenizer
    found = encode(view_of(more), as_prompt(PROMPT), response)
    assert found.response_ids == response.token_ids


def test_a_pair_reads_a_response_by_its_tokenizer_whatever_it_is_called(tmp_path):
    order = torch.arange(400)
    order[[60, 300]] = order[[300, 60]]
    base, tuned = hf_model("llama"), hf_model("llama")
    with torch.no_grad():
        for weight in (tuned.model.embed_tokens.weight, tuned.lm_head.weight):
            weight.copy_(weight[order])
    plain, shuffled = tokenizer_of(), reordered(60, 300)
    pair = load_pair(base, tuned, base_options={"tokenizer": plain}, tuned_options={"tokenizer": shuffled}, **OPTIONS)
    text = plain.decode([5, 60, 300])
    for ids, tokenizer in (((5, 60, 300), plain), ((5, 300, 60), shuffled)):
        shift = output_shift(pair, PROMPT, Response(text, ids, "hf", tokenizer_digest(tokenizer)))
        assert shift.out_tokens == tuple(plain.decode([i]) for i in (5, 60, 300))
        assert shift.kl.eq(0).all()
    foreign = Response(text, (5, 7, 300), "hf", "0123456789abcdef")
    with pytest.raises(InputError, match="has ids of another tokenizer: id 7 at position 1"):
        output_shift(pair, PROMPT, foreign)


# equal weights


def changed_copy(folder: Path, to: Path, name: str) -> Path:
    """A copy of a checkpoint with one entry of one tensor changed by one unit in the last place."""
    shutil.copytree(folder, to)
    state = load_file(to / "model.safetensors")
    flat = state[name].flatten()
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(float("inf")))
    save_file(state, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("keep", ["both", "one"])
@pytest.mark.parametrize("wrapper", ["auto", "bridge"])
def test_equal_weights_are_said_and_one_changed_entry_is_none(folders, tmp_path, keep, wrapper):
    options = OPTIONS | {"keep": keep, "wrapper": wrapper}
    copy = shutil.copytree(folders[0], tmp_path / "copy")
    pair = load_pair(folders[0], copy, **options)
    assert pair.equal
    assert pair.notice == ZERO
    assert pair.provenance("any", {}).options["notice"] == ZERO
    assert pair.differences().iloc[0].tolist() == ["equal weights", "all", "all", ZERO]
    other = load_pair(*folders, **options)
    assert not other.equal
    assert other.notice == ""
    assert "notice" not in other.provenance("any", {}).options
    assert "equal weights" not in other.differences()["what"].tolist()
    for number, name in enumerate(["model.norm.weight", "lm_head.weight", "model.layers.1.mlp.down_proj.weight"]):
        edited = changed_copy(folders[0], tmp_path / str(number), name)
        assert not load_pair(folders[0], edited, **options).equal


def test_a_sample_that_misses_the_change_is_not_trusted(folders, tmp_path, monkeypatch):
    from lensdiff.models import equality

    monkeypatch.setattr(equality, "SAMPLE", 1)
    edited = changed_copy(folders[0], tmp_path / "edited", "lm_head.weight")
    pair = load_pair(folders[0], edited, keep="one", **OPTIONS)
    assert pair._known["base"].seen.sample == pair._known["tuned"].seen.sample
    assert not pair.equal


def test_a_changed_bias_alone_is_a_change(tmp_path):
    base = save_checkpoint("gpt2", tmp_path / "base")
    edited = changed_copy(base, tmp_path / "edited", "transformer.h.1.mlp.c_fc.bias")
    assert not load_pair(base, edited, **OPTIONS).equal
    assert load_pair(base, shutil.copytree(base, tmp_path / "copy"), **OPTIONS).equal


def test_what_else_can_differ_beside_equal_weights_is_named(tmp_path):
    base, tuned = hf_model("llama"), hf_model("llama", rms_norm_eps=1e-3)
    tuned.generation_config.eos_token_id = [2, 9]
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": tokenizer_of(True)}}
    notice = load_pair(base, tuned, **sides, **OPTIONS).notice
    start = "base and tuned have equal weights: any difference below comes from "
    epsilon = "eps" if HookedTransformer is not None else "rms_norm_eps"
    assert notice == f"{start}the tokenizer and the end tokens and the config ({epsilon}) alone"
    bridged = load_pair(base, tuned, **sides, **OPTIONS, wrapper="bridge").notice
    assert bridged == notice.replace(f"({epsilon})", "(rms_norm_eps)")


def test_two_dtypes_or_wrappers_are_not_called_equal(folders):
    assert not load_pair(folders[0], folders[0], tuned_options={"dtype": "float64"}, **OPTIONS).equal
    pair = load_pair(folders[0], folders[0], tuned_options={"wrapper": "bridge"}, **OPTIONS)
    assert pair.equal == (view_of(pair.base).info.wrapper == "bridge")


def test_the_control_that_changes_nothing_is_equal(folders):
    pair = load_pair(*folders, **OPTIONS)
    assert load_pair(pair.base, pair.control("self")).equal
    assert not load_pair(pair.base, pair.control("norm")).equal


@pytest.fixture(scope="module")
def twins_and_others(folders, tmp_path_factory) -> tuple[ModelPair, ModelPair]:
    """A pair of equal weights, and one of others."""
    copy = shutil.copytree(folders[0], tmp_path_factory.mktemp("twin") / "copy")
    return load_pair(folders[0], copy, **OPTIONS), load_pair(*folders, **OPTIONS)


def test_both_results_of_one_analysis_say_it_first(twins_and_others):
    twins, others = (pair.compare(attribute, PROMPT, "a sea", deletion_draws=0) for pair in twins_and_others)
    assert (twins.notice, others.notice) == (ZERO, "")
    assert repr(twins).splitlines()[:2] == [ZERO, f"Diff of Attribution: {' -> '.join(twins_and_others[0].ids)}"]
    first, second = (f"  {side}: {one.told()[0]}" for side, one in (("base", others.base), ("tuned", others.tuned)))
    assert repr(others).splitlines()[0] == f"Diff of Attribution: {' -> '.join(twins_and_others[1].ids)}"
    assert repr(others).splitlines()[1] == first
    assert second in repr(others).splitlines()
    body = twins.show().html().split("<body>")[1]
    assert body.lstrip().startswith(f'<p class="ld-warning">{ZERO}</p>')
    assert twins.show().html().count(ZERO) == 1
    assert "equal weights" not in others.show().html()
    assert ZERO not in twins.base.show().html(), "one model alone is no pair"


def test_results_of_a_pair_say_it_first(twins_and_others):
    prompts = [
        Prompt("Write a poem about the sea", ["Write a poem"], id="poem"),
        Prompt("List three fruits now", ["List three fruits"], id="list"),
    ]
    for analysis, arguments in (
        (instruction_use, (prompts, ["a sea", "a moon"])),
        (value_rotation, ()),
        (activation_difference, (["a sea and a moon", "two words of a poem"],)),
        (dose, (prompts, ["a sea", "a moon"])),
    ):
        twins, others = (
            analysis(pair, *arguments, **({"min_tokens": 1} if analysis is instruction_use else {}))
            for pair in twins_and_others
        )
        assert repr(twins).split("\n")[0] == ZERO
        assert repr(twins).count(ZERO) == 1
        assert repr(others).startswith(f"{type(others).__name__} of ")
        assert "equal weights" not in repr(others)
        assert twins.show().html().count(ZERO) == 1
        assert "equal weights" not in others.show().html()
