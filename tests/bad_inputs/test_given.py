"""What a function is about: a model, a pair or results of another function; else it says which call it needs."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import lensdiff
from lensdiff.results import Diff
from tests.analyses.heads.head_models import known_words
from tests.analyses.mlp.results import concepts
from tests.bad_inputs.refusals import assert_refuses
from tests.checkpoints import hf_model, tokenizer_of

TEXT = "Write a short poem about the sea."
# of each function what stands behind the model, the pair or the results
OF_A_MODEL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("attention", "attribute", "generate", "knock_out", "logit_lens"), (TEXT,)),
    **dict.fromkeys(("head_word_pairs", "mlp_concepts", "ov_reading"), ()),
    "qk_reading": ([("a", "b")],),
    "coherence": (concepts(),),
}
OF_EITHER = dict.fromkeys(("deletion_curve", "direct_logit_attribution", "instruction_use"), (TEXT,))
OF_A_PAIR: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("dose", "first_divergence", "layer_similarity", "output_shift", "patch_sweep"), (TEXT,)),
    **dict.fromkeys(("activation_difference", "directions", "value_rotation", "weight_shift"), ()),
    "template_effects": (TEXT,),
    "patch": (TEXT,),
}
OF_RESULTS = {
    "attention_shift": "attention",
    "pair_overlap": "head_word_pairs",
    "position_profile": "attribute",
    "rotation": "mlp_concepts",
    "verb_shift": "head_word_pairs",
}
OF_NEITHER = {
    *("contrast", "load_model", "load_pair", "load_prompts", "load_published", "plan", "run", "series"),
    "show_progress",
}
OTHERS = {"patch": {"component": "head", "layer": 0}}


@pytest.fixture(scope="module")
def pair() -> lensdiff.ModelPair:
    return lensdiff.load_pair(hf_model("llama"), hf_model("llama", seed=1), tokenizer=tokenizer_of(), device="cpu")


def calling(name: str, given: Any, *more: Any) -> Callable[[], Any]:
    """A call as users make it: without the checks of types that tests put around every function."""
    return lambda: inspect.unwrap(getattr(lensdiff, name))(given, *more, **OTHERS.get(name, {}))


def test_every_public_function_is_in_a_table():
    tables = {*OF_A_MODEL, *OF_EITHER, *OF_A_PAIR, *OF_RESULTS, *OF_NEITHER, "annotate"}
    assert tables == {name for name in lensdiff.__all__ if inspect.isroutine(getattr(lensdiff, name))}


@pytest.mark.parametrize("name", OF_A_MODEL)
def test_a_function_of_a_model_says_what_to_call_with_anything_else(pair, name):
    more = OF_A_MODEL[name]
    assert_refuses(
        calling(name, pair, *more), f"{name} takes one model, given a pair", f"use pair.compare({name}, ...)"
    )
    models = [pair.base, pair.tuned]
    assert_refuses(calling(name, models, *more), "given a list", "call it for each", f"pair.compare({name}, ...)")
    assert_refuses(calling(name, "llama", *more), "given a str", "load_model(...) makes one")
    assert_refuses(calling(name, hf_model("llama"), *more), "given a LlamaForCausalLM", "load_model(...) makes one")


@pytest.mark.parametrize("name", OF_EITHER)
def test_a_function_of_either_says_so(pair, name):
    models = [pair.base, pair.tuned]
    assert_refuses(calling(name, models, TEXT), f"{name} takes one model or a pair, given a list", f"{name}(pair, ...)")
    assert_refuses(calling(name, "llama", TEXT), "given a str", "load_model(...) makes one")


@pytest.mark.parametrize("name", OF_A_PAIR)
def test_a_function_of_a_pair_says_what_makes_one(pair, name):
    more = OF_A_PAIR[name]
    for given, said in (
        (pair.tuned, "one model"),
        (pair.control("self"), "one model"),
        ([pair.base, pair.tuned], "a list"),
        ("llama", "a str"),
        (Diff(1, 2), "a Diff"),
    ):
        assert_refuses(
            calling(name, given, *more),
            f"{name} takes a pair of models, given {said}",
            "load_pair(base, tuned) makes one",
        )


@pytest.mark.parametrize("name", OF_RESULTS)
def test_a_function_of_results_says_what_makes_them(pair, name):
    maker = OF_RESULTS[name]
    wanted = f"{name} takes results of {maker}, given "
    assert_refuses(calling(name, pair.base, pair.tuned), wanted + "one model", f"pair.compare({maker}, ...)")
    assert_refuses(calling(name, pair, pair), wanted + "a pair", f"pair.compare({maker}, ...)")
    assert_refuses(calling(name, Diff(1, 2), None), wanted + "a Diff", f"{name}(diff.base, diff.tuned)")
    assert_refuses(calling(name, "a", "b"), wanted + "a str")


# of each function that takes controls what stands before them
WITH_CONTROLS = [
    name
    for name in lensdiff.__all__
    if inspect.isfunction(found := getattr(lensdiff, name)) and "controls" in inspect.signature(found).parameters
]
RESULTS_ALONE = {name: OF_RESULTS[name] for name in ("attention_shift", "pair_overlap", "verb_shift")}


def before_controls(name: str, pair: lensdiff.ModelPair) -> tuple[Any, ...]:
    if name not in OF_RESULTS:
        return pair, *OF_A_PAIR.get(name, (TEXT,))
    words = lensdiff.Vocabulary.of(known_words(12))
    vectors = lensdiff.WordVectors.from_model(pair.base, words.words)
    made: dict[str, Callable[[Any], Any]] = {
        "mlp_concepts": lambda model: lensdiff.mlp_concepts(model, words, n_components=2),
        "head_word_pairs": lambda model: lensdiff.head_word_pairs(model, words, vectors, top_k=3),
        "attention": lambda model: lensdiff.attention(model, TEXT, " a"),
    }
    return made[OF_RESULTS[name]](pair.base), made[OF_RESULTS[name]](pair.tuned)


@pytest.mark.parametrize("name", WITH_CONTROLS)
def test_what_is_no_list_of_controls_is_told_what_is_one(pair, name):
    more = before_controls(name, pair)
    maker = RESULTS_ALONE.get(name)
    right = f"controls=[{maker}(pair.control(kind, seed), ...), ...]" if maker else "controls=[pair.control(kind, seed)"
    takes = f"{name} takes results of {maker} on controls" if maker else f"{name} takes controls in a list"
    one = right if maker else "controls=[control], and 19 of a kind"

    def call(given: Any) -> Callable[[], Any]:
        return lambda: inspect.unwrap(getattr(lensdiff, name))(*more, controls=given, **OTHERS.get(name, {}))

    assert_refuses(call(pair.control("norm", 0)), takes, "given one model", one)
    assert_refuses(call(pair.tuned), takes, "given one model", one)
    assert_refuses(call(pair), takes, "given a pair of two", right)
    assert_refuses(call("spectrum"), takes, "given a str", right)
    assert_refuses(call(19), takes, "given a int", right)
    if maker and name != "attention_shift":
        assert_refuses(call([pair.control("norm", 0)]), takes, "given one model", right)


def test_annotations_are_of_concepts(pair):
    call = inspect.unwrap(lensdiff.annotate)
    assert_refuses(lambda: call(pair.base, model="m", cache="c"), "annotate takes results of mlp_concepts", "one model")


def test_what_stands_in_the_place_of_prompts_is_named(pair):
    for given, said in ((pair, "ModelPair"), (pair.base, "HookedTransformer"), (3.5, "float"), (None, "NoneType")):
        assert_refuses(lambda given=given: lensdiff.generate(pair.base, given), "a Prompt, a text or a list", said)


def test_words_and_vectors_in_each_others_place_are_named(pair):
    words = lensdiff.Vocabulary.of(known_words(12))
    call = inspect.unwrap(lensdiff.head_word_pairs)
    assert_refuses(lambda: call(pair.base, words, words), "expected WordVectors, got Vocabulary")
    assert_refuses(lambda: lensdiff.ov_reading(pair.base, "word"), "a sequence of words, got str")
