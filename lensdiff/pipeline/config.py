"""What a run is to do: the config of `lensdiff run`, checked before any work begins.

Every key has its type, its range, its default and its help here, or, for an analysis' own table, in the analysis'
folder. Keys that contradict each other are refused. Paths are relative to the folder that the config lies in.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PrivateAttr, create_model, model_validator

from lensdiff.analyses import ANALYSES
from lensdiff.defaults import KINDS, MAX_NEW_TOKENS, MOST, RAW, TRAINING_BATCH, TRAINING_RATE, TRAINING_STEPS
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Number, Options, Seed, checked_once, contradiction, option

Rendering = Literal["raw", "chat"]
ControlKind = Literal["distilled", "shuffled", "gradient-noise", "spectrum", "norm"]
Words = Annotated[str, Field(min_length=1)]
ASKED: dict[str, Analysis[Any]] = {analysis.name: analysis for analysis in ANALYSES if analysis.done == "asked"}
COUNTED = [analysis for analysis in ASKED.values() if analysis.controls is not None]
STREAMED_KINDS: tuple[ControlKind, ...] = ("spectrum", "norm")  # that are made of weights alone
_TRAINING = ("steps", "rate", "batch", "length", "rank")
# what is said of how a kind is made, beside data
KEYS_OF_KINDS = {"gradient-noise": ("divide",), "distilled": _TRAINING, "shuffled": _TRAINING}
TABLES = [analysis for analysis in ASKED.values() if analysis.options.model_fields]


class MessageEntry(Options):
    """A message of a chat, with its own spans; see `lensdiff.inputs.Prompt.of_messages`."""

    role: str
    content: str
    instruction: list[str] = Field(default_factory=list)
    context: list[str] = Field(default_factory=list)


class PromptEntry(Options):
    """A prompt written into the config itself, a text or a chat of messages; see `lensdiff.inputs.Prompt`.

    `response` is what both models are read on; by default each model's own greedy continuation.
    """

    text: str | None = None
    messages: list[MessageEntry] | None = None
    id: str = ""
    instruction: list[str] = Field(default_factory=list)
    context: list[str] = Field(default_factory=list)
    kind: str = ""
    reference: str = ""
    response: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "PromptEntry":
        name = f"prompt {self.id!r}" if self.id else "a prompt"
        if self.text is None and self.messages is None:
            raise contradiction("text", f"{name} has neither a text nor messages, expected one of them")
        if self.messages is None:
            return self
        if self.text is not None:
            raise contradiction("messages", f"{name} has both a text and messages, expected one of them")
        for part in ("instruction", "context"):
            if getattr(self, part):
                raise contradiction(part, f"{name} has messages: its {part} stands in the message that holds it")
        return self


class ControlOptions(Options):
    """How many meaningless changes of the same size stand beside the real one, of each kind, by analysis.

    A band needs 19 of each kind, a verdict on a claim 59; with fewer the page says that they are too few.
    """

    kinds: Annotated[list[ControlKind], Field(min_length=1)] = option(
        lambda: list(KINDS),
        "Kinds that are made: gradient-noise, spectrum, norm, distilled (trains each) or shuffled (needs data).",
        factory=True,
    )
    data: Words | None = option(
        None,
        'For shuffled controls: JSONL of tuning data, "prompt" and "response" a line; by default none.',
        example="tuning.jsonl",
    )
    divide: Literal["none", "rms"] = option(
        "none",
        "Of gradient noise: none, or rms: each entry divided by its root mean square over the signs, as Adam does.",
    )
    steps: Count = option(TRAINING_STEPS, "Of trained kinds: steps of AdamW.")
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = option(TRAINING_RATE, "Its learning rate.")
    batch: Count = option(TRAINING_BATCH, "Texts of a step.")
    length: Annotated[int, Field(ge=2, le=MOST)] | None = option(
        None, "Tokens of a text; by default 64 of distilled, at most 256 of shuffled controls.", example=64
    )
    rank: Count | None = option(
        None, "Of the trained factors; by default that of the real change where it has a low one, else none.", example=8
    )

    def count(self, name: str) -> int:
        """Return the number of controls of each kind that stand beside an analysis."""
        return getattr(self, name)

    def of_kind(self, kind: str) -> dict[str, Any]:
        """Return the options of a kind that are no defaults, as `ModelPair.control` takes them."""
        return {name: getattr(self, name) for name in KEYS_OF_KINDS.get(kind, ()) if self.is_changed(name)}

    def is_changed(self, name: str) -> bool:
        """Return whether an option is none of the defaults."""
        return getattr(self, name) != type(self).model_fields[name].default


class RayOptions(Options):
    """The cluster of `engine = "ray"`, and what each of its actors holds."""

    address: Words | None = option(
        None,
        "The cluster, host:port or auto (that of this machine); by default one is begun here for the run.",
        example="auto",
    )
    actors: Count | None = option(
        None, "Actors, each with the models in memory; by default as many as the cluster has room for.", example=4
    )
    cpus_per_actor: Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)] = option(1.0, "CPUs of an actor.")
    gpus_per_actor: Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)] = option(
        0.0, "GPUs of an actor; 1 where the models are to be on one, 0.5 where two actors share it."
    )
    patience: Count = option(600, "Seconds to wait for a first actor, where the cluster grows.")


def _counted() -> dict[str, Any]:
    return {analysis.name: (Number, option(analysis.controls, _made_for(analysis))) for analysis in COUNTED}


def _made_for(analysis: Analysis[Any]) -> str:
    run_on = "every prompt" if "prompts" in analysis.asks else "the texts"
    made = f"Whole models, each run on {run_on}" if analysis.runs else "Of weights alone"
    return f"{made}; of the first kind." if analysis.first_kind else f"{made}."


class RunConfig(Options):
    """Everything that a run needs to know, but for the tables of the analyses: those are in what `parse` returns."""

    base: Words = option(..., "The base model: a hub name, a folder with a checkpoint, or a .gguf file.")
    tuned: Words = option(..., "Its tuned version: likewise, or a folder with a LoRA adapter on the base.")
    out: Words = option("results", "Where the results go; a run that was stopped goes on from there.")
    about: str = option("", "A sentence that says what this pair is, for the top of the report.")
    prompts: str | None = option(
        None, "A file of prompts; by default the config's own, [[prompt]].", example="prompts.jsonl"
    )
    prompt: list[PromptEntry] = option(list, "Prompts of the config's own.", factory=True)
    max_prompts: Count | None = option(None, "Only the first prompts; by default all.", example=12)
    templates: Annotated[list[Rendering], Field(min_length=1)] = option(
        lambda: [RAW],
        "How prompts are rendered: raw, chat (the tuned model's chat template, for both), or both; analyses read the "
        "first.",
        factory=True,
    )
    analyses: list[str] = option(lambda: list(ASKED), "What is done; by default everything.", factory=True)
    max_new_tokens: Count = option(MAX_NEW_TOKENS, "Most tokens of a model's own response.")
    device: str = option("auto", "cpu, cuda, mps, or auto: the fastest that is present.")
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = option(
        "float32", "float32, float64, bfloat16 or float16."
    )
    weights: Literal["raw", "folded"] = option(
        "raw", "raw, or folded: norms folded and weights centred by TransformerLens."
    )
    wrapper: Literal["auto", "hooked", "bridge"] = option(
        "auto", "auto, hooked (HookedTransformer) or bridge (TransformerBridge)."
    )
    base_revision: str | None = option(
        None, "Branch, tag or commit of a hub name; by default its newest.", example="main"
    )
    tuned_revision: str | None = option(None, "Likewise, of the tuned model; by default its newest.", example="main")
    keep: Literal["auto", "both", "one"] = option(
        "auto", "both models in memory, one at a time (then no controls), or auto: both if they fit."
    )
    stream: bool | Literal["auto"] = option(
        "auto",
        "true reads weights layer by layer and builds no model, for analyses of weights alone; auto: where models do "
        "not fit.",
        example=True,
    )
    workers: Count = option(
        1, "Processes that do controls side by side, each with the pair in memory; on one GPU 1 is best."
    )
    engine: Literal["local", "ray"] = option(
        "local", "local: this machine; ray: the units of a run are done by the actors of a Ray cluster."
    )
    seed: Seed = option(0, "Of the controls and of resampling.")
    vocabulary: Words = option("default", "Word list: a file of lines word<TAB>frequency, or default: the shipped one.")
    vectors: Words = option(
        "base", "Word vectors: GloVe or word2vec text (.gz), glove, or base: the base's embeddings."
    )
    texts: Words = option(
        "default", "Plain texts that nobody is to answer: a file, a passage a line, or default: those that ship."
    )
    controls: ControlOptions = option(ControlOptions, "", factory=True)
    ray: RayOptions = option(RayOptions, "", factory=True)

    _folder: Path = PrivateAttr(default_factory=Path)

    def at(self, folder: Path) -> "RunConfig":
        """Return the config with relative paths meant from `folder`."""
        self._folder = folder
        return self

    def path(self, given: str) -> Path:
        """Return a path of the config as one that can be opened.

        Raises:
            InputError: it is none that a file could have.
        """
        from lensdiff.results.paths import as_path  # a command's help needs nothing of that room

        return self._folder / as_path(given, "a key of the config")

    def source(self, side: str) -> str:
        """Return the path of "base" or "tuned" where one exists, else its name as given (a hub name)."""
        given: str = getattr(self, side)
        local = self.path(given)
        if not (local.exists() or given.startswith((".", "~"))):
            return given
        return str(local) if local.exists() or local.is_absolute() else f"./{local}"  # "nowhere" would be a hub name

    def revision(self, side: str) -> str | None:
        """Return the revision of "base" or "tuned" that is asked for."""
        return getattr(self, f"{side}_revision")

    def options(self, analysis: Analysis[Any]) -> Options:
        """Return the options of an analysis."""
        return getattr(self, analysis.name) if analysis in TABLES else analysis.options()

    @property
    def chosen(self) -> list[Analysis[Any]]:
        """The analyses that are asked for, in the order in which they are done."""
        return [analysis for analysis in ASKED.values() if analysis.name in self.analyses]

    def asks(self, what: str) -> list[str]:
        """Return the names of the chosen analyses that read prompts, words or texts."""
        return [analysis.name for analysis in self.chosen if what in analysis.asks]

    def streamed(self) -> "RunConfig":
        """Return this config for weights that are streamed: of the controls' kinds those that no model is built for."""
        kinds = [kind for kind in self.controls.kinds if kind in STREAMED_KINDS]
        controls = self.controls.model_copy(update={"kinds": kinds or list(STREAMED_KINDS[:1])})
        return self.model_copy(update={"stream": True, "controls": controls})

    @property
    def most_controls(self) -> int:
        """The largest number of controls of a kind that a chosen analysis asks for."""
        counts = [self.controls.count(analysis.name) for analysis in self.chosen if analysis.controls is not None]
        return max(counts, default=0)

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        for key, message in contradictions(self):
            raise contradiction(key, message)
        return self


def _whole_config() -> type[RunConfig]:
    tables: dict[str, Any] = {
        analysis.name: (analysis.options, Field(default_factory=analysis.options)) for analysis in TABLES
    }
    controls: Any = create_model("ControlOptions", __base__=ControlOptions, **_counted())
    names: Any = Literal[tuple(ASKED)]
    chosen = Annotated[list[names], Field(min_length=1)], RunConfig.model_fields["analyses"]
    own = {"controls": (controls, Field(default_factory=controls)), "analyses": chosen}
    return create_model("RunConfig", __base__=RunConfig, **own, **tables)


WholeConfig = _whole_config()


def parse(values: Mapping[str, Any]) -> RunConfig:
    """Return the config that a mapping describes.

    Raises:
        pydantic.ValidationError: it describes none.
    """
    return WholeConfig.model_validate(dict(values))


def contradictions(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield (key, sentence) for every choice that contradicts another one."""
    if (needing := config.asks("prompts")) and not (config.prompts or config.prompt):
        yield (
            "analyses",
            f"{needing[0]} needs prompts: give a file (prompts) or prompts of the config's own ([[prompt]])",
        )
    if config.prompts and config.prompt:
        yield "prompt", "prompts come from a file (prompts) or from the config ([[prompt]]), not from both"
    checked_once("templates", config.templates)
    if all(analysis.both for analysis in config.chosen) and len(config.templates) < len(get_args(Rendering)):
        yield "templates", f'{config.analyses[0]} reads prompts in both renderings: templates = ["raw", "chat"]'
    if len(set(config.analyses)) < len(config.analyses):
        yield "analyses", "an analysis comes twice"
    yield from _of_controls(config)
    yield from _of_streams(config)
    ids = [entry.id for entry in config.prompt if entry.id]
    if len(set(ids)) < len(ids):
        yield "prompt", "two prompts have the same id"
    numbers = {str(number) for number, entry in enumerate(config.prompt, start=1) if not entry.id}
    if taken := numbers & set(ids):
        yield "prompt", f"the id {min(taken)!r} is the number of another prompt, which has no id: give that one an id"


def _of_controls(config: RunConfig) -> Iterator[tuple[str, str]]:
    options = config.controls
    checked_once("controls.kinds", options.kinds)
    if "shuffled" in options.kinds and options.data is None:
        yield (
            "controls.kinds",
            "shuffled controls need the tuning data: name a file (controls.data in a config), or leave the kind out",
        )
    if options.data is not None and "shuffled" not in options.kinds:
        yield "controls.data", "tuning data are for shuffled controls: add the kind, or leave the file out"
    for name in dict.fromkeys(name for names in KEYS_OF_KINDS.values() for name in names):
        kinds = [kind for kind, names in KEYS_OF_KINDS.items() if name in names]
        if options.is_changed(name) and not set(kinds) & set(options.kinds):
            yield f"controls.{name}", f"{name} is for {' and '.join(kinds)} controls: add a kind, or leave it out"
    counted = [analysis for analysis in config.chosen if analysis.controls is not None]
    for analysis in counted:
        name = analysis.name
        if not options.count(name):
            continue
        if config.keep == "one":
            yield f"controls.{name}" if name in options.model_fields_set else "keep", _one(counted)
        if analysis.runs and config.dtype in ("bfloat16", "float16"):
            yield f"controls.{name}", f"a control model cannot be run in {config.dtype}: give 0, or dtype = 'float32'"


def _of_streams(config: RunConfig) -> Iterator[tuple[str, str]]:
    if config.stream is not True:
        return
    if running := [analysis.name for analysis in config.chosen if analysis.runs]:
        weighing = ", ".join(analysis.name for analysis in ASKED.values() if not analysis.runs)
        yield "stream", f"stream = true builds no model, and {running[0]} runs it: choose analyses among {weighing}"
    if config.weights != "raw":
        yield "stream", 'stream = true reads weights as they are: leave weights = "folded" out'
    if config.keep == "one":
        yield "stream", 'stream = true holds no model, keep = "one" holds one: leave one of them out'
    if config.most_controls and not set(config.controls.kinds) & set(STREAMED_KINDS):
        yield (
            "stream",
            f"stream = true builds no model to train or to differentiate: controls.kinds needs one of "
            f"{', '.join(STREAMED_KINDS)}",
        )


def _one(counted: list[Analysis[Any]]) -> str:
    names = ", ".join(analysis.name for analysis in counted)
    return f'keep = "one" holds one model at a time, a control is made from both: set {names} of [controls] to 0'
