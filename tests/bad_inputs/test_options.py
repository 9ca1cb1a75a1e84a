"""Options of every public function: what cannot be is refused before anything is computed, by its name and value."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lensdiff
from lensdiff.inputs.verbs import general_verbs
from lensdiff.results import InputError
from lensdiff.results.numbers import check_count, check_seed
from tests.analyses.annotate.results import random_annotations
from tests.analyses.attention.results import attention as made_attention
from tests.analyses.attribute.results import attribution
from tests.analyses.heads.head_models import known_words, random_vectors
from tests.analyses.heads.results import head_pairs
from tests.analyses.mlp.results import concepts
from tests.bad_inputs.refusals import Case, assert_refuses, case, is_sentence
from tests.checkpoints import hf_model, tokenizer_of

HUGE, SEED = 10**9, 2**70
TEXT = "Write a short poem about the sea."


class Made(NamedTuple):
    """What functions are called with: a tiny pair, words and vectors."""

    pair: Any
    model: Any
    words: lensdiff.Vocabulary
    vectors: lensdiff.WordVectors
    prompts: list[lensdiff.Prompt]


@pytest.fixture(scope="module")
def made() -> Made:
    tokenizer = tokenizer_of()
    pair = lensdiff.load_pair(hf_model("llama"), hf_model("llama", seed=1), tokenizer=tokenizer, device="cpu")
    words = known_words(12)
    texts = {"Write": TEXT, "List": "List three fruits."}
    prompts = [lensdiff.Prompt(text, part, id=part) for part, text in texts.items()]
    return Made(pair, pair.tuned, lensdiff.Vocabulary.of(words), random_vectors(words), prompts)


def of_model(function: str, **options: Any) -> Callable[[Made], Any]:
    """A function of a model and a prompt."""
    return lambda made: getattr(lensdiff, function)(made.model, TEXT, **options)


def pairs_of(**options: Any) -> Callable[[Made], Any]:
    return lambda made: lensdiff.head_word_pairs(made.model, made.words, made.vectors, **options)


def ov(**options: Any) -> Callable[[Made], Any]:
    return lambda made: lensdiff.ov_reading(made.model, made.words, **options)


def qk(pairs: Any = None, **options: Any) -> Callable[[Made], Any]:
    def call(made: Made) -> Any:
        words = made.words.words
        return lensdiff.qk_reading(made.model, [(words[0], words[1])] if pairs is None else pairs, **options)

    return call


def mlp(**options: Any) -> Callable[[Made], Any]:
    return lambda made: lensdiff.mlp_concepts(made.model, made.words, **options)


def coherent(**options: Any) -> Callable[[Made], Any]:
    def call(made: Made) -> Any:
        found = lensdiff.mlp_concepts(made.model, made.words, n_components=2, top_words=4)
        return lensdiff.coherence(made.model, found, made.vectors, **options)

    return call


def of_pair(function: str, *more: Any, **options: Any) -> Callable[[Made], Any]:
    return lambda made: getattr(lensdiff, function)(made.pair, *more, **options)


def used(**options: Any) -> Callable[[Made], Any]:
    return lambda made: lensdiff.instruction_use(made.model, made.prompts, **options)


def directed(**options: Any) -> Callable[[Made], Any]:
    return lambda made: lensdiff.directions(made.pair, prompts=made.prompts, **options)


def control(kind: str = "spectrum", seed: int = 0, **options: Any) -> Callable[[Made], Any]:
    return lambda made: made.pair.control(kind, seed, **options)


def shifted(**options: Any) -> Callable[[Made], Any]:
    return lambda made: lensdiff.attention_shift([made_attention()], [made_attention(model="b")], **options)


def verbs(**options: Any) -> Callable[[Made], Any]:
    return lambda made: lensdiff.verb_shift(head_pairs(), head_pairs(swap=True), **options)


def overlap(**options: Any) -> Callable[[Made], Any]:
    return lambda made: lensdiff.pair_overlap(head_pairs(), head_pairs(swap=True), **options)


def turned(**options: Any) -> Callable[[Made], Any]:
    return lambda made: lensdiff.rotation(concepts("a"), concepts("b", angle=0.3), **options)


def profile(**options: Any) -> Callable[[Made], Any]:
    maps = [attribution(prompt_id=str(i), seed=i) for i in range(3)]
    return lambda made: lensdiff.position_profile(maps, maps, **options)


def asked(**options: Any) -> Callable[[Made], Any]:
    given = {"model": "fake", "cache": "/nonexistent", "base_url": "http://127.0.0.1:9/v1"} | options
    return lambda made: lensdiff.annotate(concepts(), **given)


def annotations(**options: Any) -> Callable[[Made], Any]:
    from lensdiff.analyses.annotate.shift import annotation_shift

    found = [random_annotations(0.4, seed, model=str(seed)) for seed in (1, 2)]
    return lambda made: annotation_shift(*found, **options)


COUNTS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "generate": (lambda **o: of_model("generate", **o), ("max_new_tokens", "batch_size")),
    "attribute": (lambda **o: of_model("attribute", **o), ("max_new_tokens", "chunk", "deletion_draws")),
    "head_word_pairs": (pairs_of, ("top_k", "threshold_words", "chunk")),
    "ov_reading": (ov, ("components", "top_words")),
    "qk_reading": (qk, ("chunk",)),
    "mlp_concepts": (mlp, ("n_components", "top_words")),
    "coherence": (coherent, ("top_words", "n_directions")),
    "weight_shift": (lambda **o: of_pair("weight_shift", **o), ("directions",)),
    "instruction_use": (used, ("draws", "min_tokens", "max_new_tokens")),
    "deletion_curve": (lambda **o: of_model("deletion_curve", **o), ("points", "draws", "max_new_tokens")),
    "layer_similarity": (lambda **o: of_pair("layer_similarity", TEXT, **o), ("max_tokens", "max_new_tokens")),
    "directions": (directed, ("folds", "permutations", "draws", "max_tokens", "max_new_tokens")),
    "template_effects": (lambda **o: of_pair("template_effects", TEXT, **o), ("draws", "max_new_tokens")),
    "verb_shift": (verbs, ("layers_per_group", "min_seen", "min_heads", "min_verbs", "matches")),
    "pair_overlap": (overlap, ("table_top",)),
    "position_profile": (profile, ("n_bins",)),
    "annotate": (asked, ("components", "top_words", "concurrency", "max_tokens", "max_retries")),
    "annotation_shift": (annotations, ("layers_per_group", "n_resamples")),
    "gradient-noise": (lambda **o: control("gradient-noise", **o), ("tokens",)),
    "distilled": (lambda **o: control("distilled", **o), ("steps", "batch", "length", "rank")),
}
EVERY = [(name, call, option) for name, (call, options) in COUNTS.items() for option in options]


@pytest.mark.parametrize(("name", "call", "option"), EVERY, ids=[f"{name} {option}" for name, _, option in EVERY])
def test_a_count_that_cannot_be_is_refused(made: Made, name, call, option):
    for value, says in ((-1, "-1"), (HUGE, str(HUGE)), (10**5_000, "bits")):
        assert_refuses(lambda value=value: call(**{option: value})(made), option, says)


SEEDS = {
    "attention_shift": shifted,
    "coherence": coherent,
    "verb_shift": verbs,
    "instruction_use": used,
    "annotation_shift": annotations,
    "deletion_curve": lambda **o: of_model("deletion_curve", **o),
    "directions": directed,
    "template_effects": lambda **o: of_pair("template_effects", TEXT, **o),
    "control": lambda seed: control("spectrum", seed),
    "annotate": lambda seed: asked(seeds=[seed]),
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_that_cannot_be_is_refused(made: Made, name):
    for value, says in ((-1, "-1"), (SEED, "bits"), (10**5_000, "bits")):
        assert_refuses(lambda value=value: SEEDS[name](seed=value)(made), "seed", says)


LEVELS = {"attention_shift": shifted, "verb_shift": verbs, "pair_overlap": overlap, "rotation": turned}
LEVELS |= {"position_profile": profile, "annotation_shift": annotations, "instruction_use": used}
LEVELS |= {name: SEEDS[name] for name in ("deletion_curve", "directions", "template_effects")}
LEVELS |= {"layer_similarity": lambda **o: of_pair("layer_similarity", TEXT, **o)}


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 95.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", LEVELS)
def test_a_level_that_cannot_be_is_refused(made: Made, name, value):
    assert_refuses(lambda: LEVELS[name](level=value)(made), "level", str(value))


LAYERED = {
    "attention": lambda **o: of_model("attention", **o),
    "head_word_pairs": pairs_of,
    "ov_reading": ov,
    "qk_reading": qk,
    "mlp_concepts": mlp,
    "value_rotation": lambda **o: of_pair("value_rotation", **o),
    "layer_similarity": lambda **o: of_pair("layer_similarity", TEXT, **o),
    "activation_difference": lambda **o: of_pair("activation_difference", **o),
    "annotate": asked,
}


@pytest.mark.parametrize("wanted", [[], [99], [-1], [1, 1], [2**70]], ids=str)
@pytest.mark.parametrize("name", LAYERED)
def test_layers_that_cannot_be_are_refused(made: Made, name, wanted):
    assert_refuses(lambda: LAYERED[name](layers=wanted)(made), "layers")


@pytest.mark.parametrize("wanted", [[], [99], [-1], [1, 1]], ids=str)
@pytest.mark.parametrize("name", ["head_word_pairs", "ov_reading", "qk_reading"])
def test_heads_that_cannot_be_are_refused(made: Made, name, wanted):
    assert_refuses(lambda: LAYERED[name](heads=wanted)(made), "heads")


OTHERS = [
    case("attribute: no target", of_model("attribute", target="zzz"), "zzz"),
    case("attribute: no method", of_model("attribute", method="zzz"), "zzz"),
    case("attribute: an empty response", of_model("attribute", response="  "), "response"),
    case("attribute: a response of half a character", of_model("attribute", response="\ud800"), "half a character"),
    case("attribute: a response that is too long", of_model("attribute", response="poem " * 999), "128"),
    case("attribute: a BOS of none", lambda made: lensdiff.attribute(made.model, "<s>"), "BOS"),
    case("attribute: a HookedTransformer's name", lambda made: lensdiff.attribute("llama", TEXT), "str"),
    case("attention: no sink", of_model("attention", sink="zzz"), "zzz"),
    case("attention: a single token", lambda made: lensdiff.attention(made.model, "a"), "single token"),
    case("generate: a prompt that fills the context", lambda made: lensdiff.generate(made.model, "poem " * 999), "128"),
    case("generate: half a character", lambda made: lensdiff.generate(made.model, "a\ud800"), "half a character"),
    case("generate: no prompts", lambda made: lensdiff.generate(made.model, []), "[]"),
    case("generate: a number", lambda made: lensdiff.generate(made.model, 3), "3"),
    case("generate: an id twice", lambda made: lensdiff.generate(made.model, [made.prompts[0]] * 2), "twice"),
    case("head_word_pairs: a threshold of NaN", pairs_of(threshold_std=float("nan")), "threshold_std", "nan"),
    case("head_word_pairs: a threshold of infinity", pairs_of(threshold_std=float("inf")), "threshold_std", "inf"),
    case("ov_reading: no words", lambda made: lensdiff.ov_reading(made.model, []), "word"),
    case("ov_reading: unknown words", lambda made: lensdiff.ov_reading(made.model, ["\ud800"]), "word"),
    case("qk_reading: no pairs", qk([]), "pair"),
    case("qk_reading: distance 0", qk(distances=[0]), "distances"),
    case("qk_reading: distance twice", qk(distances=[1, 1]), "distances"),
    case("qk_reading: no distances", qk(distances=[]), "distances"),
    case("qk_reading: distance beyond the context", qk(distances=[HUGE]), "128"),
    case("qk_reading: a position beyond the context", qk(query_pos=HUGE), "128"),
    case("qk_reading: a position before the first", qk(query_pos=-1), "-1"),
    case("qk_reading: a first token that is none", qk(first="zzz"), "zzz"),
    case("mlp_concepts: no side", mlp(sides=["zzz"]), "zzz"),
    case("mlp_concepts: sides in a word", mlp(sides="value"), "value"),
    case("mlp_concepts: no sides", mlp(sides=[]), "sides"),
    case("coherence: no reading", coherent(reading="zzz"), "zzz"),
    case(
        "coherence: another model's concepts",
        lambda made: lensdiff.coherence(made.model, concepts(), made.vectors),
        "d_model",
    ),
    case("rotation: no ranks", turned(ranks=[]), "ranks"),
    case("rotation: rank 0", turned(ranks=[0]), "ranks"),
    case("rotation: rank 10^9", turned(ranks=[HUGE]), "ranks"),
    case("rotation: other layers", lambda made: lensdiff.rotation(concepts(), mlp()(made)), "layers"),
    case("verb_shift: no verbs", verbs(verbs=[]), "verb"),
    case("verb_shift: a verb twice", verbs(verbs=["do", "do"]), "do"),
    case("position_profile: ends of 0", profile(ends=0.0), "ends"),
    case("position_profile: ends of a half", profile(ends=0.5), "ends"),
    case("position_profile: ends of NaN", profile(ends=float("nan")), "ends"),
    case("position_profile: no maps", lambda made: lensdiff.position_profile([], []), "prompt"),
    case("attention_shift: no results", lambda made: lensdiff.attention_shift([], []), "attention results"),
    case("attention_shift: fewer of one", lambda made: lensdiff.attention_shift([made_attention()], []), "tuned"),
    case("attention_shift: no adjustment", shifted(adjustment="zzz"), "zzz"),
    case("instruction_use: no way", used(by="zzz"), "zzz"),
    case("instruction_use: too few kinds", used(kinds=["a"]), "kinds"),
    case(
        "instruction_use: no instruction",
        lambda made: lensdiff.instruction_use(made.model, [TEXT, "Write."]),
        "instruct",
    ),
    case("output_shift: top_k 0", of_pair("output_shift", TEXT, top_k=0), "top_k=0"),
    case("output_shift: top_k 10^9", of_pair("output_shift", TEXT, top_k=HUGE), f"top_k={HUGE}"),
    case("control: no kind", control("zzz"), "zzz"),
    case("control: an option of none", control("spectrum", zzz=3), "zzz"),
    case("control: another kind's option", control("spectrum", steps=3), "steps"),
    case("control: a rate of NaN", control("distilled", rate=float("nan")), "rate"),
    case("control: a rate of 0", control("distilled", rate=0.0), "rate"),
    case("control: no division", control("gradient-noise", divide="zzz"), "zzz"),
    case("control: data of one row", control("shuffled", data=[("a", "b")]), "data"),
    case("control: no data", control("shuffled"), "data"),
    case("annotate: a server that is no address", asked(base_url="zzz"), "base_url='zzz'"),
    case("annotate: a server without a host", asked(base_url="http://"), "base_url"),
    case("annotate: a server's file", asked(base_url="file:///etc/passwd"), "base_url"),
    case("annotate: a port in words", asked(base_url="http://a:port/v1"), "base_url"),
    case("annotate: a port of 10^9", asked(base_url=f"http://a:{HUGE}/v1"), "base_url"),
    case("annotate: half a bracket", asked(base_url="http://[::1/v1"), "base_url"),
    case("annotate: a server of 5,000 letters", asked(base_url="z" * 5_000), "zzz"),
    case("annotate: no format", asked(response_format="zzz"), "zzz"),
    case("annotate: no seeds", asked(seeds=[]), "seeds"),
    case("annotate: a seed twice", asked(seeds=[1, 1]), "seeds"),
    case("annotate: no time", asked(timeout=0.0), "timeout"),
    case("annotate: a time of NaN", asked(timeout=float("nan")), "timeout"),
    case("annotate: a temperature below 0", asked(temperature=-1.0), "temperature"),
    case("annotate: a temperature of NaN", asked(temperature=float("nan")), "temperature"),
    case("annotation_shift: a bound of 0", annotations(bound=0.0), "bound"),
    case("annotation_shift: a bound of NaN", annotations(bound=float("nan")), "bound"),
    case("verbs: none", lambda made: general_verbs(0), "n=0"),
    case("Vocabulary: no words", lambda made: lensdiff.Vocabulary.of([]), "word"),
    case("Vocabulary: a word twice", lambda made: lensdiff.Vocabulary.of(["a", "a"]), "a"),
    case("Vocabulary: an empty word", lambda made: lensdiff.Vocabulary.of([" "]), "word"),
    case("Vocabulary: half a character", lambda made: lensdiff.Vocabulary.of(["\ud800"]), "half a character"),
    case("Vocabulary: too few frequencies", lambda made: lensdiff.Vocabulary(("a", "b"), np.ones(1)), "frequencies"),
    case("Vocabulary: a frequency below 0", lambda made: lensdiff.Vocabulary(("a",), -np.ones(1)), "frequency"),
    case("Vocabulary: a frequency of NaN", lambda made: lensdiff.Vocabulary(("a",), np.array([np.nan])), "frequency"),
    case("WordVectors: another number", lambda made: lensdiff.WordVectors(("a",), np.ones((2, 3))), "vectors"),
    case("WordVectors: a value of NaN", lambda made: lensdiff.WordVectors(("a",), np.full((1, 3), np.nan)), "'a'"),
    case("WordVectors: a word twice", lambda made: lensdiff.WordVectors(("a", "a"), np.ones((2, 3))), "'a'"),
    case("WordVectors: of no word", lambda made: lensdiff.WordVectors.from_model(made.model, ["\ud800"]), "word"),
]


@pytest.mark.parametrize("bad", OTHERS)
def test_an_option_that_cannot_be_is_refused(made: Made, bad: Case):
    assert_refuses(lambda: bad.make(made), *bad.says)


def test_so_many_candidates_that_their_pairs_fill_the_memory_are_refused(made: Made, monkeypatch):
    from lensdiff.analyses.heads import head_word_pairs

    monkeypatch.setattr(head_word_pairs, "available_memory", lambda device: 12 * 10**2 * 8 * 4)  # of 10 words, 4 heads
    assert pairs_of(top_k=10)(made).dims.shape == (2, 4, 8)
    assert_refuses(lambda: pairs_of(top_k=11)(made), "top_k=11", "smaller top_k or chunk")
    assert pairs_of(top_k=11, chunk=3)(made).dims.shape == (2, 4, 8)


def test_what_is_asked_of_few_words_is_clipped(made: Made):
    assert mlp(n_components=10**6, top_words=10**6)(made).index.shape[-1] == 12


NUMBERS = st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3) | st.just(10**5_000)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(value=NUMBERS, least=st.integers(0, 5), most=st.integers(6, 2**40))
def test_a_count_and_a_seed_are_whole_numbers_of_their_range(value, least, most):
    def holds(check: Callable[[], None]) -> bool:
        try:
            check()
        except InputError as error:
            is_sentence(str(error), "n=")
            return False
        return True

    whole = type(value) is int
    assert holds(lambda: check_count("n", value, least=least, most=most)) == (whole and least <= value <= most)
    assert holds(lambda: check_seed(value, "n")) == (whole and 0 <= value < 2**63)
    if whole and 0 <= value < 2**63:
        torch.Generator().manual_seed(value)
        np.random.default_rng(value)
