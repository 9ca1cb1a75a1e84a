"""From a config to what steps see of it: the plan, and where models and words come from."""

from collections.abc import Callable, Iterable
from typing import Any

from lensdiff.analyses import ANALYSES
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import view_of
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.material import Material
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Options
from lensdiff.steps.plan import Plan
from lensdiff.steps.responses import ResponseOptions
from lensdiff.steps.supplies import Supplies
from lensdiff.steps.unit import SIDES, split_control

CHECKED = 3  # controls of a kind that are run on text where nothing else needs whole models


def plan_of(material: Material, both: bool, n_layers: int, analyses: Iterable[Analysis[Any]]) -> Plan:
    """Return the plan of a run with these analyses."""
    config, chosen = material.config, list(analyses)
    reads_prompts = any("prompts" in analysis.asks for analysis in chosen)
    options: dict[type[Options], Options] = {analysis.options: config.options(analysis) for analysis in ANALYSES}
    options |= {Options: Options(), ResponseOptions: ResponseOptions(max_new_tokens=config.max_new_tokens)}
    controls = {a.name: controls_of(config, a, both) for a in chosen if a.controls is not None}
    return Plan(
        options=options,
        prompts=material.prompts if reads_prompts else {},
        given=material.given if reads_prompts else {},
        n_layers=n_layers,
        seed=config.seed,
        both=both,
        controls=controls,
        checked=_checked(config, chosen, controls),
        templates=tuple(config.templates),
    )


def controls_of(config: RunConfig, analysis: Analysis[Any], both: bool) -> tuple[str, ...]:
    """Return the names of the controls of an analysis; none where only one model fits into memory."""
    if not both:
        return ()
    kinds = config.controls.kinds[:1] if analysis.first_kind else config.controls.kinds
    return tuple(f"{kind}-{i}" for kind in kinds for i in range(config.controls.count(analysis.name)))


def _checked(config: RunConfig, analyses: list[Analysis[Any]], controls: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the controls that are made as whole models: those that read text, and a few of every kind to check."""
    if config.stream is True:  # no model is built
        return ()
    wanted: set[str] = set()
    for analysis in analyses:
        names = controls.get(analysis.name, ())
        if analysis.runs:
            wanted |= set(names)
        elif config.dtype in ("float32", "float64"):  # a control in half precision cannot be run
            wanted |= {name for name in names if split_control(name)[1] < CHECKED}
    kinds = [str(kind) for kind in config.controls.kinds]

    def place(name: str) -> tuple[int, int]:
        kind, number = split_control(name)
        return kinds.index(kind), number

    return tuple(sorted(wanted, key=place))


def supplies_of(material: Material, both: bool, say: Callable[[str], None] = lambda line: None) -> Supplies:
    """Return where the units of a run get models and words from; `say` is told when the models are loaded."""

    def load() -> ModelPair:
        say(f"loading {' and '.join(material.config.source(side) for side in SIDES)}")
        return pair_of(material.config, both)

    return Supplies(
        load,
        lambda: material.vocabulary,
        lambda pair, vocabulary: vectors_of(material.config, pair, vocabulary),
        lambda: material.data,
        lambda: material.texts,
        material.config.controls.of_kind,
    )


def pair_of(config: RunConfig, both: bool) -> ModelPair:
    """Return the pair of a config."""
    common: dict[str, Any] = {"dtype": config.dtype, "weights": config.weights, "wrapper": config.wrapper}
    if config.stream is True:
        common["stream"] = True
    if config.device != "auto":
        common["device"] = config.device
    return load_pair(
        config.source("base"),
        config.source("tuned"),
        keep="both" if both else "one",
        base_options={"revision": config.base_revision} if config.base_revision else {},
        tuned_options={"revision": config.tuned_revision} if config.tuned_revision else {},
        **common,
    )


def vectors_of(config: RunConfig, pair: ModelPair, vocabulary: Vocabulary) -> WordVectors:
    """Return the word vectors of a config."""
    if config.vectors == "base":
        return WordVectors.from_model(view_of(pair.base), vocabulary.words)
    if config.vectors == "glove":
        return WordVectors.from_sentence_transformers(vocabulary.words)
    return WordVectors.read(config.path(config.vectors), words=vocabulary.words)
