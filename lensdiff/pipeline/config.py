"""What a run is to do: the config of `lensdiff run`, checked before any work begins.

Every key has its type, its range and its default here; `example.toml` is the same with comments. Keys that contradict
each other are refused. Paths are relative to the folder that the config lies in.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

Analysis = Literal["weights", "instruction_use", "attribution", "outputs", "attention", "heads", "mlp"]
ANALYSES: tuple[Analysis, ...] = get_args(Analysis)
OF_PROMPTS: tuple[Analysis, ...] = ("instruction_use", "attribution", "outputs", "attention")
COUNTED: dict[str, tuple[Analysis, ...]] = {  # the analyses that each number of controls is for
    "prompts": ("instruction_use",),
    "attention": ("attention",),
    "heads": ("heads",),
    "rotation": ("mlp",),
    "attribution": ("attribution",),
}
ControlKind = Literal["distilled", "shuffled", "gradient-noise", "spectrum", "norm"]

Count = Annotated[int, Field(ge=1)]
Controls = Annotated[int, Field(ge=0)]
Layers = list[Annotated[int, Field(ge=0)]]
Words = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A table of the config: no key but those it names, no value but of its type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PromptEntry(Section):
    """A prompt written into the config itself; see `lensdiff.inputs.Prompt`.

    `response` is what both models are read on; by default each model's own greedy continuation.
    """

    text: str
    id: str = ""
    instruction: list[str] = Field(default_factory=list)
    context: list[str] = Field(default_factory=list)
    kind: str = ""
    reference: str = ""
    response: str | None = None


class ControlOptions(Section):
    """How many meaningless changes of the same size stand beside the real one, of each kind.

    A band needs 19 of each kind, a verdict on a claim 59; with fewer the page says that they are too few.

    Attributes:
        kinds: see `lensdiff.models.controls`; "distilled" trains each control, "shuffled" needs `data`.
        data: a JSONL file of the tuning data, a "prompt" and a "response" a line.
        prompts: for instruction use; each is a whole model, run on every prompt.
        attention: for attention, likewise; the first ones of those where both are asked for.
        heads: for the word pairs of heads.
        rotation: for the rotation of feed-forward layers, which reads weights alone.
        attribution: of the first kind, whose own responses are attributed, beside the paper's score.
    """

    kinds: Annotated[list[ControlKind], Field(min_length=1)] = Field(
        default_factory=lambda: ["gradient-noise", "spectrum"]
    )
    data: Words | None = None
    prompts: Controls = 19
    attention: Controls = 19
    heads: Controls = 19
    rotation: Controls = 99
    attribution: Controls = 5


class InstructionUseOptions(Section):
    """Options of `instruction_use`; of each generated text the first `max_tokens` tokens are read.

    Attributes:
        texts: that are forced: the base's own responses, the tuned model's, prompts' references where they have one.
    """

    texts: Annotated[list[Literal["base", "tuned", "reference"]], Field(min_length=1)] = Field(
        default_factory=lambda: ["base", "tuned", "reference"]
    )
    draws: Count = 8
    max_tokens: Count = 64


class AttributionOptions(Section):
    """Options of `attribute`."""

    target: Literal["probability", "log_probability", "logit"] = "probability"
    method: Literal["auto", "forward", "reverse"] = "auto"
    deletion_draws: Annotated[int, Field(ge=0)] = 8
    retokenise: bool = False


class AttentionOptions(Section):
    """Options of `attention`; `keep_patterns` is the number of prompts whose whole patterns stay on disk."""

    layers: Layers | None = None
    sink: Literal["apart", "counted"] = "apart"
    keep_patterns: Annotated[int, Field(ge=0)] = 12


class HeadOptions(Section):
    """Options of `head_word_pairs` and of what is made of it; `table_top` pairs per dimension go into the table."""

    layers: Layers | None = None
    top_k: Count = 100
    threshold_words: Count = 3000
    threshold_std: float = 1.96
    layers_per_group: Count = 8
    table_top: Count = 20


class MLPOptions(Section):
    """Options of `mlp_concepts` and of `rotation` (`ranks`)."""

    layers: Layers | None = None
    sides: Annotated[list[Literal["value", "key", "gate"]], Field(min_length=1)] = Field(
        default_factory=lambda: ["value"]
    )
    n_components: Count = 300
    top_words: Count = 50
    fold_gain: bool = True
    ranks: Annotated[list[Count], Field(min_length=1)] = Field(default_factory=lambda: [1, 5, 10, 20, 50])


class RunConfig(Section):
    """Everything that a run needs to know. See `example.toml` for what each key means."""

    base: Words
    tuned: Words
    prompts: str | None = None
    prompt: list[PromptEntry] = Field(default_factory=list)
    max_prompts: Count | None = None
    out: Words = "results"
    analyses: Annotated[list[Analysis], Field(min_length=1)] = Field(default_factory=lambda: list(ANALYSES))
    max_new_tokens: Count = 300
    device: str = "auto"
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    weights: Literal["raw", "folded"] = "raw"
    wrapper: Literal["auto", "hooked", "bridge"] = "auto"
    base_revision: str | None = None
    tuned_revision: str | None = None
    keep: Literal["auto", "both", "one"] = "auto"
    seed: int = 0
    vocabulary: Words = "default"
    vectors: Words = "base"
    controls: ControlOptions = Field(default_factory=ControlOptions)
    instruction_use: InstructionUseOptions = Field(default_factory=InstructionUseOptions)
    attribution: AttributionOptions = Field(default_factory=AttributionOptions)
    attention: AttentionOptions = Field(default_factory=AttentionOptions)
    heads: HeadOptions = Field(default_factory=HeadOptions)
    mlp: MLPOptions = Field(default_factory=MLPOptions)

    _folder: Path = PrivateAttr(default_factory=Path)

    def at(self, folder: Path) -> "RunConfig":
        """Return the config with relative paths meant from `folder`."""
        self._folder = folder
        return self

    def path(self, given: str) -> Path:
        """Return a path of the config as one that can be opened."""
        return self._folder / Path(given).expanduser()

    def source(self, side: str) -> str:
        """Return the path of "base" or "tuned" where one exists, else its name as given (a hub name)."""
        given: str = getattr(self, side)
        local = self.path(given)
        return str(local) if local.exists() or given.startswith((".", "~")) else given

    def chosen(self, *analyses: Analysis) -> bool:
        """Return whether any of these analyses is to be done."""
        return any(analysis in self.analyses for analysis in analyses)

    @property
    def prompts_are_read(self) -> bool:
        """Whether any chosen analysis reads prompts."""
        return self.chosen(*OF_PROMPTS)

    @property
    def most_controls(self) -> int:
        """The largest number of controls of a kind that a chosen analysis asks for."""
        return max(getattr(self.controls, name) * self.chosen(*of) for name, of in COUNTED.items())

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        for key, message in contradictions(self):
            raise PydanticCustomError("contradiction", "{message}", {"message": message, "key": key})
        return self


def contradictions(config: RunConfig) -> list[tuple[str, str]]:
    """Return (key, sentence) for every choice that contradicts another one."""
    found: list[tuple[str, str]] = []
    needing = [name for name in OF_PROMPTS if name in config.analyses]
    if needing and not (config.prompts or config.prompt):
        found.append(
            (
                "analyses",
                f"{needing[0]} needs prompts: give a file (prompts) or prompts of the config's own ([[prompt]])",
            )
        )
    if config.prompts and config.prompt:
        found.append(("prompt", "prompts come from a file (prompts) or from the config ([[prompt]]), not from both"))
    if len(set(config.analyses)) < len(config.analyses):
        found.append(("analyses", "an analysis comes twice"))
    if config.chosen("attribution") and config.dtype not in ("float32", "float64"):
        found.append(("dtype", f"attribution needs float32 or float64, dtype is {config.dtype}"))
    found += _of_controls(config)
    too_large = [rank for rank in config.mlp.ranks if rank > config.mlp.n_components]
    if too_large:
        found.append(("mlp.ranks", f"rank {too_large[0]} is above n_components = {config.mlp.n_components}"))
    ids = [entry.id for entry in config.prompt if entry.id]
    if len(set(ids)) < len(ids):
        found.append(("prompt", "two prompts have the same id"))
    return found


def _of_controls(config: RunConfig) -> Iterator[tuple[str, str]]:
    options = config.controls
    if len(set(options.kinds)) < len(options.kinds):
        yield "controls.kinds", f"a kind comes twice ({', '.join(options.kinds)}), expected each once"
    if "shuffled" in options.kinds and options.data is None:
        yield (
            "controls.kinds",
            "shuffled controls need the tuning data: name a file (controls.data in a config), or leave the kind out",
        )
    if options.data is not None and "shuffled" not in options.kinds:
        yield "controls.data", "tuning data are for shuffled controls: add the kind, or leave the file out"
    for name in COUNTED:
        if getattr(options, name) and config.keep == "one":
            yield f"controls.{name}" if name in options.model_fields_set else "keep", _ONE
    for analysis, name in (("instruction_use", "prompts"), ("attention", "attention")):
        if analysis in config.analyses and getattr(options, name) and config.dtype in ("bfloat16", "float16"):
            yield f"controls.{name}", f"a control model cannot be run in {config.dtype}: give 0, or dtype = 'float32'"


_ONE = (
    f'keep = "one" holds one model at a time, a control is made from both: set {", ".join(COUNTED)} of [controls] to 0'
)


def as_config(given: "RunConfig | dict[str, Any]") -> RunConfig:
    """Return a config given as such or as a mapping (raises pydantic's ValidationError)."""
    return given if isinstance(given, RunConfig) else RunConfig.model_validate(given)
