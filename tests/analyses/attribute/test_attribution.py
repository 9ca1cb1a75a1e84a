"""What `attribute` gives and refuses; its numbers are proven in test_gradients, the authors' own in test_reference."""

import math

import pytest
import torch

from lensdiff.analyses.attribute import gradients
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import load_model, load_pair, view_of
from lensdiff.models.linear.passes import NotLinear
from lensdiff.models.text import Response, generate
from lensdiff.results import InputError, Results
from tests.checkpoints import hf_model, tokenizer_of

TEXT = "Translate to French: Good morning, how are you?"
PROMPT = Prompt(TEXT, instruction=["Translate to French"], context=["Good morning"], id="greeting")


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu")


@pytest.fixture(scope="module")
def result(model) -> Attribution:
    return attribute(model, PROMPT, "The answer is: bonjour.")


def test_tokens_are_the_checkpoints_own(model, result):
    tokenizer = tokenizer_of()
    whole = tokenizer(TEXT + " The answer is: bonjour.")["input_ids"]
    n = len(tokenizer(TEXT)["input_ids"])
    assert "".join(result.in_tokens) == TEXT
    assert "".join(result.out_tokens) == " The answer is: bonjour."
    assert result.scores.shape == (n, len(whole) - n)
    logits = view_of(model).forward.logits(torch.tensor([whole]))[0]
    expected = logits.softmax(-1)[torch.arange(n - 1, len(whole) - 1), torch.tensor(whole[n:])]
    torch.testing.assert_close(result.probabilities, expected.detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(result.targets, result.probabilities)


def test_spans_mark_their_tokens(result):
    marked = "".join(t for t, m in zip(result.in_tokens, result.instruction, strict=True) if m)
    assert marked == "Translate to French"
    assert "".join(t for t, m in zip(result.in_tokens, result.context, strict=True) if m).strip() == "Good morning"


def test_score_is_what_the_definition_gives(result):
    levels = torch.ceil(10 * (result.scores.relu() / (result.scores.relu().amax(0) + 1e-7))).double()
    kept = torch.where(levels > 7, levels, 0)
    density = kept.sum(1) / ((kept**4).sum(1) ** 0.25 + 1e-7)
    torch.testing.assert_close(result.density(), density)
    expected = float((density / (density.max() + 1e-7))[result.instruction].sum())
    expected /= math.log2(2 + int(result.instruction.sum()))
    assert result.instruction_score() == pytest.approx(expected, rel=1e-6)
    assert result.levels().max() == 10
    assert (result.levels(b=7) == kept.long()).all()


def test_keywords_reach_the_score(result):
    assert result.instruction_score(b=0) != result.instruction_score()
    assert result.instruction_score(p=2.0) != result.instruction_score()
    assert result.instruction_score(normalise=False) != result.instruction_score()
    assert result.levels(levels=4).max() == 4


def test_a_pass_that_is_given_up_midway_is_made_another_way(model, result, monkeypatch):
    push, calls = gradients.push_tangents, []

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise NotLinear("its second chunk is of another model")
        return push(*args, **kwargs)

    monkeypatch.setattr(gradients, "push_tangents", fails)
    found = attribute(model, PROMPT, "The answer is: bonjour.", method="forward", chunk=4)
    assert len(calls) == 2
    torch.testing.assert_close(found.scores, result.scores, atol=1e-6 * float(result.scores.abs().max()), rtol=1e-3)
    torch.testing.assert_close(found.targets, result.targets)


def test_words_add_up_their_tokens(result):
    words = result.words()
    assert words.in_tokens == ("Translate", "to", "French:", "Good", "morning,", "how", "are", "you?")
    torch.testing.assert_close(words.scores.sum(0), result.scores.sum(0))
    n_first = next(i for i, t in enumerate(result.in_tokens) if t.startswith(" "))
    torch.testing.assert_close(words.scores[0], result.scores[:n_first].sum(0))
    assert words.instruction.tolist() == [True, True, True, *[False] * 5]


def test_words_are_exact_for_any_script(model):
    found = attribute(model, "你好 мир 🙂🙂 end", "a", deletion_draws=0)
    assert found.words().in_tokens == ("你好", "мир", "🙂🙂", "end")


def test_table_has_a_row_per_pair(result):
    frame = result.to_df()
    assert list(frame) == ["prompt_id", "in_pos", "in_token", "out_pos", "out_token", "score", "level"]
    n, m = result.scores.shape
    row = frame.iloc[2 * m + 1]
    assert len(frame) == n * m
    assert (row.prompt_id, row.in_pos, row.out_pos) == ("greeting", 2, 1)
    assert (row.in_token, row.out_token) == (result.in_tokens[2], result.out_tokens[1])
    assert row.score == pytest.approx(float(result.scores[2, 1]))


def test_top_is_by_density(result):
    top = result.top(3)
    assert top["density"].tolist() == sorted(result.density().tolist(), reverse=True)[:3]
    assert list(top) == ["in_pos", "in_token", "density", "instruction"]


def test_own_response_keeps_its_generated_ids(model):
    response = generate(model, PROMPT, max_new_tokens=6)
    found = attribute(model, PROMPT, max_new_tokens=6)
    assert found.response_kind == "generated"
    assert len(found.out_tokens) == len(response.token_ids) <= 6
    torch.testing.assert_close(found.scores, attribute(model, PROMPT, response).scores)


def test_own_response_is_greedy_and_equals_recomputation_without_a_cache(model):
    ids = tokenizer_of()(TEXT)["input_ids"]
    got = generate(model, PROMPT, max_new_tokens=5).token_ids
    view = view_of(model)
    for token in got:
        assert int(view.forward.logits(torch.tensor([ids]))[0, -1].argmax()) == token
        ids = [*ids, token]


def test_every_end_of_sequence_id_ends_a_response():
    source = hf_model("llama")
    free = load_model(source, tokenizer=tokenizer_of(), device="cpu")
    long = generate(free, PROMPT, max_new_tokens=8).token_ids
    stop = long[3]
    source = hf_model("llama")
    source.generation_config.eos_token_id = [2, stop]
    stopped = load_model(source, tokenizer=tokenizer_of(), device="cpu")
    assert generate(stopped, PROMPT, max_new_tokens=8).token_ids == long[: long.index(stop)]


def test_an_empty_own_response_scores_zero(model):
    found = attribute(model, PROMPT, Response("", ()))
    assert found.scores.shape[1] == 0
    assert found.instruction_score() == 0.0
    assert len(found.to_df()) == 0
    assert found.deletion is None


def test_retokenise_is_the_authors_way(model):
    own = generate(model, PROMPT, max_new_tokens=6)
    again = attribute(model, PROMPT, max_new_tokens=6, retokenise=True)
    assert again.response_kind == "text"
    torch.testing.assert_close(again.scores, attribute(model, PROMPT, own.text).scores)


def test_a_boundary_that_merges_is_reported(model, monkeypatch):
    assert not attribute(model, PROMPT, "bonjour", deletion_draws=0).merged
    # a tokenizer in which "a" + " b" is one piece
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = {"a": 0, "▁b": 1, "a▁b": 2, "▁": 3, "b": 4, "c": 5}
    merging = Tokenizer(models.BPE(vocab=pieces, merges=[("▁", "b"), ("a", "▁b")]))
    merging.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    merged = load_model(
        hf_model("llama"), tokenizer=PreTrainedTokenizerFast(tokenizer_object=merging), device="cpu", verify=False
    )
    assert attribute(merged, "ca", "bc", deletion_draws=0).merged


def test_bos_is_added_only_where_the_tokenizer_does(model):
    plain = attribute(model, TEXT, "bonjour")
    with_habit = load_model(hf_model("llama"), tokenizer=tokenizer_of(bos=True), device="cpu")
    habit = attribute(with_habit, TEXT, "bonjour")
    forced = attribute(model, TEXT, "bonjour", prepend_bos=True)
    assert habit.in_tokens == plain.in_tokens, "BOS gets no score and no row"
    torch.testing.assert_close(habit.scores, forced.scores)
    assert not torch.allclose(habit.scores, plain.scores)
    off = attribute(with_habit, TEXT, "bonjour", prepend_bos=False)
    torch.testing.assert_close(off.scores, plain.scores)
    assert off.provenance.options["prepend_bos"] is False


def test_a_contrast_of_two_tokens_is_a_target(model):
    a, b = 10, 20
    found = attribute(model, TEXT, "bonjour", target=lambda logits, ids: logits[:, a] - logits[:, b])

    def logit_of(token):
        return attribute(model, TEXT, "bonjour", target=lambda logits, ids: logits[:, token], deletion_draws=0).scores

    torch.testing.assert_close(found.scores, logit_of(a) - logit_of(b), atol=1e-4, rtol=1e-3)
    assert found.provenance.options["target"] == "<lambda>"


def test_log_probability_is_probability_over_its_value(model):
    log = attribute(model, TEXT, "bonjour", target="log_probability", deletion_draws=0)
    plain = attribute(model, TEXT, "bonjour", deletion_draws=0)
    torch.testing.assert_close(log.scores * plain.probabilities, plain.scores, atol=1e-6, rtol=1e-3)


def test_deletion_check_is_what_deleting_does(model, result):
    top = result.scores.sum(1).topk(3).indices.tolist()
    ids = tokenizer_of()(TEXT)["input_ids"]
    response = tokenizer_of()(TEXT + " The answer is: bonjour.")["input_ids"][len(ids) :]
    left = [t for i, t in enumerate(ids) if i not in top]
    logits = view_of(model).forward.logits(torch.tensor([left + response]))[0]
    after = logits.softmax(-1)[torch.arange(len(left) - 1, len(left) + len(response) - 1), torch.tensor(response)]
    assert result.deletion.effect == pytest.approx(float(result.probabilities.mean() - after.mean()), abs=1e-5)
    assert len(result.deletion.random) == 8
    assert attribute(model, TEXT, "bonjour", deletion_draws=0).deletion is None


def test_saves_and_loads(result, tmp_path):
    again = Attribution.load(result.save(tmp_path / "greeting.safetensors"))
    assert torch.equal(again.scores, result.scores)
    assert again.deletion == result.deletion
    assert again.in_offsets == result.in_offsets
    assert again.provenance == result.provenance


def test_a_list_goes_on_past_a_failing_prompt(model):
    long = Prompt("word " * 200, id="long")
    with pytest.warns(UserWarning, match="prompt 'long' failed: .*context holds 128"):
        found = attribute(model, [PROMPT, long, "Repeat this."], ["bonjour", "no", "this"], deletion_draws=0)
    assert isinstance(found, Results)
    assert [r.prompt_id for r in found] == ["greeting", "2"]
    assert list(found.failures) == ["long"]
    torch.testing.assert_close(found[0].scores, attribute(model, PROMPT, "bonjour", deletion_draws=0).scores)


def test_progress_is_shown_when_asked(model, capsys):
    attribute(model, [TEXT], ["bonjour"], progress=True, deletion_draws=0)
    shown = capsys.readouterr()
    attribute(model, [TEXT], ["bonjour"], progress=False, deletion_draws=0)
    assert "attributing" in shown.err
    assert not shown.out
    assert not any(capsys.readouterr())


def test_base_against_itself_gives_equal_scores(tmp_path):
    pair = load_pair(hf_model("llama"), hf_model("llama"), tokenizer=tokenizer_of(), device="cpu")
    diff = pair.compare(attribute, PROMPT, max_new_tokens=4)
    assert torch.equal(diff.base.scores, diff.tuned.scores)
    assert diff.to_df()["model"].value_counts().to_dict() == {
        "base": diff.base.scores.numel(),
        "tuned": diff.base.scores.numel(),
    }


def test_options_are_in_the_provenance(model):
    found = attribute(model, TEXT, "bonjour", method="forward", target="logit", deletion_draws=0)
    options = found.provenance.options
    assert (options["method"], options["target"], options["deletion_draws"]) == ("forward", "logit", 0)
    assert found.method == "forward"
    assert (found.provenance.weights, found.provenance.dtype) == ("raw", "float32")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((TEXT, "  "), {}, "the response is an empty text"),
        ((TEXT, "yes"), {"target": "loss"}, "target 'loss' is none of probability, log_probability, logit"),
        ((TEXT, "yes"), {"method": "exact"}, "method 'exact' is none of auto, forward, reverse"),
        (("word " * 200, "yes"), {}, "tokens, the model's context holds 128"),
        (("word " * 200,), {}, "tokens, the model's context holds 128"),
        (([TEXT], ["a", "b"]), {}, "1 prompt given with 2 responses, expected as many"),
        (([TEXT], "a"), {}, "1 prompt given with a single response, expected as many"),
        ((TEXT,), {"max_new_tokens": 0}, "max_new_tokens=0 given, expected at least 1"),
    ],
)
def test_unusable_input_is_refused(model, arguments, options, message):
    with pytest.raises(InputError, match=message):
        attribute(model, *arguments, **options)


def test_half_precision_is_computed_in_float32_and_says_so():
    source = hf_model("llama", dtype=torch.bfloat16)
    half = load_model(source, tokenizer=tokenizer_of(), dtype="bfloat16", device="cpu")
    found = attribute(half, PROMPT, "The answer is: bonjour.")
    whole = attribute(load_model(source, tokenizer=tokenizer_of(), device="cpu"), PROMPT, "The answer is: bonjour.")
    assert found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores, whole.scores, atol=1e-5 * float(whole.scores.abs().max()), rtol=0.0)
    torch.testing.assert_close(found.probabilities, whole.probabilities, atol=0.0, rtol=1e-4)
    assert (found.deletion, whole.deletion) != (None, None)
    assert found.deletion.effect == pytest.approx(whole.deletion.effect, rel=1e-3)
    assert found.provenance.dtype == "bfloat16"
    said = "weights in bfloat16, computed in float32: scores within about 2e-4 of the prompt's largest"
    assert found.provenance.options["precision"] == said
    own = attribute(half, PROMPT, max_new_tokens=6, deletion_draws=0)  # what it says in its own precision
    assert own.response == generate(half, PROMPT, max_new_tokens=6).text


def test_a_slow_tokenizer_is_refused(model, monkeypatch):
    monkeypatch.setattr(type(view_of(model).tokenizer), "is_fast", False)
    with pytest.raises(InputError, match="not a fast one"):
        attribute(model, TEXT, "yes")


def test_a_score_that_is_not_finite_is_never_returned(model):
    with pytest.raises(RuntimeError, match="a score is not finite"):
        attribute(model, TEXT, "yes", target=lambda logits, ids: (logits[:, 0] - logits[:, 0]).sqrt())


def test_without_an_instruction_there_is_no_score(model):
    assert math.isnan(attribute(model, "Write a poem.", "The sea", deletion_draws=0).instruction_score())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deletion_draws": -1}, "deletion_draws=-1 given, expected at least 0"),
        ({"chunk": 0}, "chunk=0 given, expected at least 1"),
    ],
)
def test_numbers_below_what_is_possible_are_refused(model, options, message):
    with pytest.raises(InputError, match=message):
        attribute(model, "Write a poem.", "The sea", **options)
