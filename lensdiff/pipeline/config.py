"""What a run is to do: the config of `lensdiff run`, checked before any work begins.

Every key has its type, its range and its default here; `example.toml` is the same with comments. Keys that contradict
each other are refused. Paths are relative to the folder that the config lies in.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

Analysis = Literal["weights", "attribution", "outputs", "attention", "heads", "mlp"]
ANALYSES: tuple[Analysis, ...] = get_args(Analysis)
OF_PROMPTS: tuple[Analysis, ...] = ("attribution", "outputs", "attention")
FEWEST_CONTROLS = 3  # that a band or a t statistic can be had from

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
    response: str | None = None


class ControlOptions(Section):
    """How many meaningless changes of the same size stand beside the real one: 0, or at least 3.

    Attributes:
        kind: "spectrum" or "norm"; see `lensdiff.models.controls`.
        prompts: for analyses of prompts; each costs a copy of the base and its own run over the prompts.
        heads: for the word pairs of heads.
        rotation: for the rotation of concepts, which reads weights alone.
        rotation_norm: norm-matched ones shown beside those, where `kind` is "spectrum".
    """

    kind: Literal["spectrum", "norm"] = "spectrum"
    prompts: Controls = 5
    heads: Controls = 5
    rotation: Controls = 99
    rotation_norm: Controls = 5


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
    for name in (key for key in ControlOptions.model_fields if key != "kind"):
        number = getattr(config.controls, name)
        if 0 < number < FEWEST_CONTROLS:
            found.append(
                (f"controls.{name}", f"{number} controls allow no band: give 0, or at least {FEWEST_CONTROLS}")
            )
        if number and config.keep == "one":
            found.append((f"controls.{name}" if name in config.controls.model_fields_set else "keep", _ONE))
    if config.chosen("attention") and config.controls.prompts and config.dtype in ("bfloat16", "float16"):
        found.append(
            ("controls.prompts", f"a control model cannot be run in {config.dtype}: give 0, or dtype = 'float32'")
        )
    too_large = [rank for rank in config.mlp.ranks if rank > config.mlp.n_components]
    if too_large:
        found.append(("mlp.ranks", f"rank {too_large[0]} is above n_components = {config.mlp.n_components}"))
    ids = [entry.id for entry in config.prompt if entry.id]
    if len(set(ids)) < len(ids):
        found.append(("prompt", "two prompts have the same id"))
    return found


_ONE = 'keep = "one" holds one model at a time, a control is made from both: set the numbers of controls to 0'


def as_config(given: "RunConfig | dict[str, Any]") -> RunConfig:
    """Return a config given as such or as a mapping (raises pydantic's ValidationError)."""
    return given if isinstance(given, RunConfig) else RunConfig.model_validate(given)
