"""What can be read along a series, by name: a number of each model, or of each model against the first.

    a model's       instruction_use.use        what a response loses with another instruction, nats per token
                    instruction_use.log_prob   of the response with its own instruction, nats per token
                    knock_out.drop             what a response loses with attention to the instruction cut, the same
                    attention.instruction      the response's attention to the instruction, mean of heads, in [0, 1]
                    attribute.instruction      the instruction's share of the importance density, in [0, 1]
    of two models   weights.relative_norm      ||model - first|| / ||first||, mean over matrices
                    weights.cosine             mean over matrices; 1 for no change
                    value_rotation.share       of the change of the MLPs' values that one rotation explains
                    layer_similarity.change    relative change of the stream behind the last layer
                    layer_similarity.cka       of the stream behind the last layer; 1 for no change
                    outputs.js                 Jensen-Shannon distance of next-token distributions, in [0, 1]
                    outputs.kl                 KL(model || first), nats per token

What reads prompts gives a number for each of them; the rest one for all. Reference: the analyses of these names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from lensdiff.analyses.attention.patterns import attention
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.instruction_use.defaults import DRAWS
from lensdiff.analyses.instruction_use.measure import instruction_use
from lensdiff.analyses.knock_out.measure import knock_out
from lensdiff.analyses.layer_similarity.measure import layer_similarity
from lensdiff.analyses.outputs.output_shift import output_shift
from lensdiff.analyses.value_rotation.measure import value_rotation
from lensdiff.analyses.weights.weight_shift import weight_shift
from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.spans import shorten
from lensdiff.models.pair import ModelPair
from lensdiff.results import InputError

Numbers = float | Mapping[str, float]  # one, or one for each prompt by its id
Of = Literal["model", "pair", "own"]


@dataclass(frozen=True)
class Read:
    """What a measure is given.

    Attributes:
        pair: the first model and the one that is measured.
        prompts: none where the measure reads none; texts: the responses that all models of the series read.
        draws, seed: of other prompts' instructions.
    """

    pair: ModelPair
    prompts: Sequence[Prompt] = ()
    texts: Sequence[str] = ()
    draws: int = DRAWS
    seed: int = 0

    @property
    def both(self) -> tuple[list[Prompt], list[str]]:
        """Prompts and texts, as analyses take them."""
        return list(self.prompts), list(self.texts)


@dataclass(frozen=True)
class Measure:
    """A number that is read along a series.

    Attributes:
        name: of it; unit: of its values.
        of: "model", "pair" (against the first), or "own": a function of the user's, which has both.
        reads: whether it reads prompts.
        find: gives it.
    """

    name: str
    unit: str
    of: Of
    reads: bool
    find: Callable[[Read], Numbers]


def _use(name: str) -> Callable[[Read], Numbers]:
    def find(read: Read) -> Numbers:
        rest: Any = {"draws": read.draws, "seed": read.seed, "min_tokens": 1, "progress": False}
        found = instruction_use(read.pair.tuned, *read.both, **rest)
        return dict(zip(found.prompt_id, getattr(found, name).double().tolist(), strict=True))

    return find


def _drop(read: Read) -> Numbers:
    found = knock_out(read.pair.tuned, *read.both, draws=0, progress=False)
    return {one.prompt_id: float(one.drop[0].mean()) for one in found}


def _looks(read: Read) -> Numbers:
    found = attention(read.pair.tuned, *read.both, keep_patterns=False, progress=False)
    return {one.prompt_id: float(one.instruction_share.mean()) for one in found}


def _density(read: Read) -> Numbers:
    values: dict[str, float] = {}
    for one in attribute(read.pair.tuned, *read.both, deletion_draws=0, progress=False):
        shares = one.shares().set_index("segment")
        row: Any = shares.loc["instruction"]
        values[one.prompt_id] = float(row["share"]) if row["n_in"] else float("nan")
    return values


def _weights(column: str) -> Callable[[Read], Numbers]:
    def find(read: Read) -> Numbers:
        frame: Any = weight_shift(read.pair).to_df()
        whole = frame[frame["head_index"].isna() & frame["matrix"].str.startswith("W_")]
        return float(whole[column].mean())

    return find


def _rotation(read: Read) -> Numbers:
    return float(value_rotation(read.pair).share)


def _stream(column: str) -> Callable[[Read], Numbers]:
    def find(read: Read) -> Numbers:
        frame = layer_similarity(read.pair, *read.both, progress=False).to_df()
        return float(frame[column].iloc[-1])

    return find


def _outputs(name: str) -> Callable[[Read], Numbers]:
    def find(read: Read) -> Numbers:
        found = output_shift(read.pair, *read.both, progress=False)
        return {one.prompt_id: float(getattr(one, name).mean()) for one in found}

    return find


NATS, SHARE = "nats per token", "share"
NAMED = {
    measure.name: measure
    for measure in (
        Measure("instruction_use.use", NATS, "model", True, _use("use")),
        Measure("instruction_use.log_prob", NATS, "model", True, _use("log_prob")),
        Measure("knock_out.drop", NATS, "model", True, _drop),
        Measure("attention.instruction", SHARE, "model", True, _looks),
        Measure("attribute.instruction", SHARE, "model", True, _density),
        Measure("weights.relative_norm", "relative norm", "pair", False, _weights("relative_norm")),
        Measure("weights.cosine", "cosine", "pair", False, _weights("cosine")),
        Measure("value_rotation.share", SHARE, "pair", False, _rotation),
        Measure("layer_similarity.change", "relative change", "pair", True, _stream("relative_change")),
        Measure("layer_similarity.cka", "CKA", "pair", True, _stream("cka")),
        Measure("outputs.js", "distance", "pair", True, _outputs("js")),
        Measure("outputs.kl", NATS, "pair", True, _outputs("kl")),
    )
}


def measure_of(given: Any) -> Measure:
    """Return a measure by its name, or a function of the user's as one.

    Raises:
        InputError: it is neither, with the names that there are.
    """
    if isinstance(given, str) and given in NAMED:
        return NAMED[given]
    if not callable(given):
        raise InputError(f"measure={shorten(given)} is no function, expected one or a name among {', '.join(NAMED)}")
    name, function = getattr(given, "__name__", "measure").strip("<>"), cast("Callable[..., Any]", given)

    def own(read: Read) -> Any:  # what it gives is checked where it is read
        return function(read.pair, *([list(read.prompts)] if read.prompts else []))

    return Measure(name, "", "own", False, own)
