"""Contrasts of two tokens by name, and of the two models' choices."""

import pytest
import torch

from lensdiff import contrast, load_pair
from lensdiff.analyses.attribute import AttributeOptions
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.targets import Contrast, target_named, target_of
from lensdiff.inputs import Prompt
from lensdiff.models import load_model, view_of
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import encode, generate
from lensdiff.results import InputError
from tests.checkpoints import TEXT, hf_model, tokenizer_of
from tests.models.test_forced_text import cycled

PROMPT = Prompt(TEXT[0], id="p")
RESPONSE = "bonjour the moon"
LOADING = {"device": "cpu", "dtype": "float64", "verify": False}


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("llama", dtype=torch.float64), tokenizer=tokenizer_of(), **LOADING)


def pair_of(tokenizer=None, seed: int = 1) -> ModelPair:
    options = {
        "base_options": {"tokenizer": tokenizer_of()},
        "tuned_options": {"tokenizer": tokenizer or tokenizer_of()},
    }
    models = (hf_model("llama", dtype=torch.float64, seed=i) for i in (0, seed))
    return load_pair(*models, **options, **LOADING)


def one_token_texts() -> tuple[str, str]:
    tokenizer = tokenizer_of()
    found = [
        text for text in (" the", " a", "e", "x") if len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1
    ]
    return found[0], found[-1]


def scores_of_logit(model, token: int, **options):
    target = lambda logits, ids: logits[:, token]  # noqa: E731
    return attribute(model, PROMPT, RESPONSE, target=target, deletion_draws=0, **options).scores


@pytest.mark.parametrize("method", ["forward", "reverse"])
def test_a_contrast_is_the_difference_of_two_logits(model, method):
    first, second = one_token_texts()
    ids = [tokenizer_of()(text, add_special_tokens=False)["input_ids"][0] for text in (first, second)]
    found = attribute(model, PROMPT, RESPONSE, target=contrast(first, second), method=method, deletion_draws=0)
    expected = scores_of_logit(model, ids[0]) - scores_of_logit(model, ids[1])
    torch.testing.assert_close(found.scores, expected, atol=1e-12, rtol=1e-9)
    turned = attribute(model, PROMPT, RESPONSE, target=contrast(second, first), deletion_draws=0)
    torch.testing.assert_close(turned.scores, -found.scores, atol=1e-12, rtol=1e-9)
    assert found.provenance.options["target"] == f"contrast({first!r}, {second!r})"
    assert str(contrast(first, second)) == str(Contrast(first, second))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("the moon is bright tonight", " a"), "'the moon is bright tonight' is .* tokens of .* expected exactly one"),
        (("", " a"), "'' is 0 tokens of"),
    ],
)
def test_a_text_of_a_contrast_is_one_token(model, given, message):
    with pytest.raises(InputError, match=message):
        attribute(model, PROMPT, RESPONSE, target=contrast(*given))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("contrast: yes| no", Contrast(" yes", " no")),
        ("contrast:,|: ", Contrast(",", ": ")),
        ("probability", "probability"),
        ("logit", "logit"),
    ],
)
def test_a_target_has_a_name_in_a_config(name, expected):
    assert target_named(name) == expected
    assert AttributeOptions(target=name).target == name


@pytest.mark.parametrize(
    "name", ["odds", "choice", "contrast", "contrast: yes", "contrast:a|a", "contrast:|a", "contrast:a|b|c"]
)
def test_a_name_of_no_target_is_refused(name):
    with pytest.raises(InputError, match=r"is none of probability, .*, and no contrast:TEXT\|TEXT"):
        target_named(name)


@pytest.mark.parametrize("given", [("a", "a"), (3, "a")])
def test_a_contrast_is_of_two_texts(given):
    with pytest.raises(InputError, match="expected two different texts"):
        contrast.__wrapped__(*given) if hasattr(contrast, "__wrapped__") else contrast(*given)


@pytest.mark.parametrize("name", ["choices", "Choice"])
def test_an_unknown_target_says_what_there_is(model, name):
    with pytest.raises(InputError, match="is none of probability, log_probability, logit, a contrast, nor a function"):
        target_of(name, view_of(model))


def expected_choices(pair: ModelPair, side: str) -> torch.Tensor:
    """The tuned model's and the base's most probable tokens on the text, in the ids of a side: read by hand."""
    chosen = []
    for other in ("tuned", "base"):
        view = view_of(getattr(pair, other))
        encoded = encode(view, PROMPT, RESPONSE)
        logits = view.forward.logits(torch.tensor([encoded.ids[:-1]]))[0, len(encoded.prompt_ids) - 1 :]
        own = logits.argmax(dim=-1).tolist()
        words = view.tokenizer.convert_ids_to_tokens(own)
        chosen.append(view_of(getattr(pair, side)).tokenizer.convert_tokens_to_ids(words))
    return torch.tensor(chosen)


@pytest.mark.parametrize("shuffled", [False, True])
def test_choice_is_the_contrast_of_both_models_next_tokens(shuffled):
    pair = pair_of(cycled() if shuffled else None)
    found = pair.compare(attribute, PROMPT, RESPONSE, target="choice", deletion_draws=0)
    for side in ("base", "tuned"):
        tuned, base = expected_choices(pair, side)
        assert bool((tuned != base).any()), "models that choose alike would prove nothing"
        at = torch.arange(len(tuned))
        by_hand = attribute(
            getattr(pair, side),
            PROMPT,
            RESPONSE,
            target=lambda logits, ids, at=at, t=tuned, b=base: logits[at, t] - logits[at, b],
            deletion_draws=0,
        )
        result = getattr(found, side)
        torch.testing.assert_close(result.scores, by_hand.scores, atol=1e-12, rtol=1e-9)
        assert bool((result.scores[:, tuned == base] == 0).all())
        assert result.provenance.options["target"] == "choice"
    assert bool((found.tuned.targets >= -1e-12).all()), "the tuned model likes its own choice no less"
    assert bool((found.base.targets <= 1e-12).all())


def test_without_a_response_both_read_the_tuned_models_own():
    pair = pair_of()
    own = generate(pair.tuned, PROMPT, max_new_tokens=4)
    found = pair.compare(attribute, [PROMPT, TEXT[1]], target="choice", max_new_tokens=4, deletion_draws=0)
    assert [found.base[i].out_tokens for i in range(2)] == [found.tuned[i].out_tokens for i in range(2)]
    alone = pair.compare(attribute, PROMPT, own, target="choice", deletion_draws=0)
    torch.testing.assert_close(found.tuned[0].scores, alone.tuned.scores, atol=1e-12, rtol=1e-9)


def test_a_model_against_itself_has_no_choice_to_explain():
    found = pair_of(seed=0).compare(attribute, PROMPT, RESPONSE, target="choice", deletion_draws=0)
    assert float(found.base.scores.abs().max()) == float(found.tuned.scores.abs().max()) == 0.0


def test_a_choice_among_logits_that_are_not_finite_fails_its_prompt():
    pair = pair_of()
    with torch.no_grad():
        view_of(pair.base).forward.wrapper.W_U[:, 5] = float("nan")
    with pytest.raises(InputError, match="a logit is not finite, so no token is the most likely"):
        pair.compare(attribute, PROMPT, RESPONSE, target="choice", deletion_draws=0)


def test_choice_needs_a_pair_and_one_text(model):
    with pytest.raises(InputError, match=r"pair\.compare\(attribute"):
        attribute(model, PROMPT, RESPONSE, target="choice")
    with pytest.raises(InputError, match="forces one text on both models"):
        pair_of().compare(attribute, PROMPT, target="choice", retokenise=True)


def test_other_targets_and_analyses_are_compared_as_before():
    pair = pair_of()
    found = pair.compare(attribute, PROMPT, RESPONSE, deletion_draws=0)
    torch.testing.assert_close(found.base.scores, attribute(pair.base, PROMPT, RESPONSE, deletion_draws=0).scores)
    assert pair.compare(lambda model, n: view_of(model).n_layers + n, 1).base == 3
